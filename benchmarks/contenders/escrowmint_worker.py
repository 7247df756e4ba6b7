"""The process that runs escrowmint, in a Python that has escrowmint and its redis-py: measures there, and reports.

``escrowmint_reservations.py`` starts it, and sends it the name and the arguments of the methods below.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

import redis
from escrowmint import Client, ClientConfig

from benchmarks import loops
from benchmarks.contenders import Verb, must
from benchmarks.loops import Elapsed, Load, SessionCall


class Worker:
    """escrowmint as its documentation says: reserve, commit, cancel. It cannot change a reservation."""

    def __init__(self, socket: str, credits: int, amount: int, ttl_ms: int) -> None:
        # Replies are decoded, as in the client that escrowmint would make.
        client = redis.Redis(unix_socket_path=socket, decode_responses=True)
        escrowmint = Client(ClientConfig(), redis_client=client)
        self._top_up: Callable[[str], object] = lambda code: escrowmint.top_up(code, credits)
        self._verbs: dict[Verb, Callable[[str, str], object]] = {
            Verb.LOCK: lambda code, key: escrowmint.reserve(code, amount, ttl_ms=ttl_ms, reservation_id=key),
            Verb.REDEEM_SESSION: lambda code, key: must(escrowmint.commit(code, key).applied),
            Verb.RELEASE: lambda code, key: must(escrowmint.cancel(code, key)),
            Verb.REDEEM: lambda code, key: must(escrowmint.try_consume(code, amount).applied),
            Verb.STATE: lambda code, key: escrowmint.get_state(code),
        }

    def verbs(self) -> list[Verb]:
        return list(self._verbs)

    def versions(self) -> str:
        return f"{version('escrowmint')} with redis-py {version('redis')}"

    def put(self, codes: list[str]) -> None:
        for code in codes:
            self._top_up(code)

    def call(self, verb: Verb, code: str, key: str) -> None:
        self._verbs[verb](code, key)

    def repeated(self, verb: Verb, calls: Sequence[SessionCall]) -> Elapsed:
        return loops.repeated(self._verbs[verb], calls)

    def under_load(self, load: Load) -> float:
        return loops.under_load(self._verbs[Verb.LOCK], self._verbs[Verb.RELEASE], load)

    def in_threads(self, shares: Sequence[Sequence[SessionCall]]) -> Elapsed:
        return loops.in_threads(self._verbs[Verb.LOCK], self._verbs[Verb.RELEASE], shares)


def main() -> None:
    """Answer requests until the other process closes the connection, whose file descriptor is the argument."""
    with Connection(int(sys.argv[1])) as requests:
        worker = Worker(*requests.recv())
        while True:
            try:
                name, arguments = requests.recv()
            except EOFError:
                return
            answer: tuple[Any, str]
            try:
                answer = getattr(worker, name)(*arguments), ""
            except Exception as error:  # as text: its class does not exist in the other process
                answer = None, repr(error)
            requests.send(answer)


if __name__ == "__main__":
    main()

"""The contender ``escrowmint`` from PyPI. It pins redis-py below 7, so it runs in a process and a Python of its own.

Its resource has one number, so there is no quantity besides the credits. It cannot change a reservation.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import escrowmint_python
from benchmarks.contenders import AMOUNT, CREDITS, TTL_MINUTES, Contender, Verb
from benchmarks.loops import Elapsed, Load, SessionCall

NAME = "escrowmint"


class Worker:
    """The process ``escrowmint_worker.py``. It ends when this one does, because it reads from a connection to it."""

    def __init__(self, python: str, address: str) -> None:
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.contenders.escrowmint_worker", str(there.fileno())],
                pass_fds=[there.fileno()],
                cwd=escrowmint_python.ROOT,
                env=escrowmint_python.environment(),
            )
        self._requests = Connection(here.detach())
        self._requests.send((address, CREDITS, AMOUNT, round(TTL_MINUTES * 60_000)))

    def __call__(self, name: str, *arguments: object) -> Any:
        """What a method of the worker returns."""
        self._requests.send((name, arguments))
        answer, error = self._requests.recv()
        if error:
            raise RuntimeError(error)
        return answer

    def close(self) -> None:
        self._requests.close()
        self._process.wait(20)


@dataclass(frozen=True)
class Escrowmint(Contender):
    """Its times are measured in its own process, without the way there. ``verbs`` are for tests and preparations."""

    worker: Worker = field(kw_only=True)

    def repeated(self, verb: Verb, calls: Sequence[SessionCall]) -> Elapsed:
        elapsed: Elapsed = self.worker("repeated", verb, calls)
        return elapsed

    def under_load(self, load: Load) -> float:
        return float(self.worker("under_load", load))

    def in_threads(self, shares: Sequence[Sequence[SessionCall]]) -> Elapsed:
        """The time in which each share was locked and released in a thread of its own."""
        elapsed: Elapsed = self.worker("in_threads", shares)
        return elapsed


def contender(python: str, address: str) -> Escrowmint:
    """``python``: one that has escrowmint; ``address``: the Unix socket of the server."""
    worker = Worker(python, address)

    def verb(name: Verb) -> Any:
        return lambda code, key: worker("call", name, code, key)

    return Escrowmint(
        NAME,
        put=lambda codes: worker("put", list(codes)),
        verbs={name: verb(name) for name in worker("verbs")},
        scripted=True,
        close=worker.close,
        worker=worker,
    )


def versions(python: str, address: str) -> str:
    """The versions of escrowmint and of its redis-py."""
    worker = Worker(python, address)
    found = str(worker("versions"))
    worker.close()
    return found

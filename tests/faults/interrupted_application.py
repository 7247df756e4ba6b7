"""An application in a process of its own, whose calls a signal interrupts at random moments, over one shared client.

Run as a script: ``interrupted_application.py SOCKET CALLS SECONDS SEED SIGNAL TRANSPORT``. SIGNAL is ``alarm``: a timer's SIGALRM,
whose handler raises an ``Exception``, as job queues limit the time of a job; or ``interrupt``: SIGINT, which another
process sends and which raises KeyboardInterrupt. TRANSPORT is one of ``scripted_clients.TRANSPORTS``. It prints a JSON object: how many calls came to an end, how many were
interrupted, and what was wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from timeit import timeit
from typing import Any, Final

import redis
from support.scripted_clients import client_class

from voucher_sessions import OutcomeUnknown, Session, Voucher, VoucherSessions

VOUCHERS: Final = 20  # voucher V<n> has n credits more than 1,000,000, so its figures are those of no other
BASE: Final = 1_000_000


class JobTimeout(Exception):
    """What the handler of SIGALRM raises."""


class Wrong(AssertionError):
    """A call returned something that is not its own result."""


def create_vouchers(engine: VoucherSessions) -> None:
    for number in range(VOUCHERS):
        engine.put_voucher(Voucher(code=f"V{number}", credits=BASE + number))
    engine.put_voucher(Voucher(code="NEVER", quantity=0))


def session(key: str) -> Session:
    return Session(type="LOCK", key=key, ttl=1, ttl_unit="HOURS")


class Signals:
    """Signals whose handler raises once, and only while a call runs: so the test itself is not interrupted.

    ``pace``: how many seconds a call takes here. A timer goes off within that time, or within that of the longest calls;
    some calls have none, so that calls of each kind come to an end however slow the machine becomes.
    """

    def __init__(self, kind: str, random_: random.Random, pace: float) -> None:
        self._alarm = kind == "alarm"
        self._random = random_
        self._pace = pace
        self._error: type[BaseException] = JobTimeout if self._alarm else KeyboardInterrupt
        self._armed = False
        signal.signal(signal.SIGALRM if self._alarm else signal.SIGINT, self._handle)

    def _handle(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise self._error

    def interrupted(self, call: Callable[[], None]) -> bool:
        """Make a call that a signal may interrupt; whether one did."""
        try:
            self._armed = True
            if self._alarm and (latest := self._random.choices([self._pace, 8 * self._pace, 0.0], [80, 15, 5])[0]):
                signal.setitimer(signal.ITIMER_REAL, self._random.uniform(0.00001, latest))
            call()
            self._armed = False
        except self._error:
            return True
        finally:
            self._armed = False
        return False


class Application:
    """Commands of the application's own and calls of an engine, over one client."""

    def __init__(self, client: redis.Redis, random_: random.Random, name: str) -> None:
        self._client = client
        self._engine = VoucherSessions(client)
        self._random = random_
        self._name = name
        self._orders = 0
        self.unknown = 0
        self.begun: list[tuple[str, int, str]] = []  # of each redemption its voucher, credits and id
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        """One call at random; raises ``Wrong`` if it returned the result of another."""
        number = self._random.randrange(VOUCHERS)
        do = self._random.choice(
            [self._own_command, self._validate, self._never, self._redeem, self._read, self._pipeline, self._release]
        )
        try:
            do(number)
        except OutcomeUnknown:
            self.unknown += 1
        self.done[do.__name__.removeprefix("_")] += 1

    def _own_command(self, number: int) -> None:
        """Its result may be that of another command: redis-py does not know. Only the engine's calls do."""
        command = self._random.choice(
            [("GET", f"own-{number}"), ("LPUSH", "own-1", "x"), ("EVALSHA", "0" * 40, "0"), ("HGETALL", "hash")]
        )
        try:
            self._client.execute_command(*command)
        except (JobTimeout, KeyboardInterrupt):
            raise
        except Exception:
            return

    def _validate(self, number: int) -> None:
        key, credits = f"{self._name}-{number}", self._random.randrange(1, 500)
        answer = self._engine.validate(f"V{number}", credits=credits, session=session(key))
        locked = answer.session
        expect((answer.code, answer.valid), (f"V{number}", True))
        expect(locked and (locked.key, locked.credits), (key, credits))

    def _never(self, _: int) -> None:
        answer = self._engine.validate("NEVER")
        expect((answer.code, answer.valid, answer.reason), ("NEVER", False, "quantity_exceeded"))

    def _read(self, number: int) -> None:
        expect(self._engine.get_voucher(f"V{number}").credits.limit, BASE + number)

    def _next_order(self, number: int) -> tuple[str, int, str]:
        self._orders += 1
        self.begun.append((f"V{number}", self._random.randrange(1, 9), f"{self._name}-{self._orders}"))
        return self.begun[-1]

    def _redeem(self, number: int) -> None:
        code, credits, id_ = self._next_order(number)
        paid = self._engine.redeem(code, credits=credits, redemption_id=id_)
        expect((paid.code, paid.credits, paid.id), (code, credits, id_))

    def _release(self, number: int) -> None:
        released = self._engine.release(f"V{number}", f"{self._name}-{number}")
        expect((released.code, released.session_key), (f"V{number}", f"{self._name}-{number}"))

    def _pipeline(self, number: int) -> None:
        """Seven changes of one key are sent in two parts."""
        key = f"{self._name}-piped-{number}"
        code, credits, id_ = self._next_order(number)
        pipe = self._engine.pipeline().validate("NEVER")
        for amount in range(1, 7):
            pipe.validate(code, credits=amount, session=session(key))
        pipe.redeem(code, credits=credits, redemption_id=id_).release(code, key).get_voucher(code)
        results: Any = pipe.execute()
        never, *locks, paid, released, state = results
        expect((never.code, never.valid), ("NEVER", False))
        expect([(each.session.key, each.session.credits) for each in locks], [(key, each) for each in range(1, 7)])
        expect((paid.code, paid.credits, paid.id), (code, credits, id_))
        expect((released.released, released.session_key), (True, key))
        expect(state.credits.limit, BASE + number)


def expect(seen: object, right: object) -> None:
    if seen != right:
        raise Wrong(f"{seen} instead of {right}")


def main(socket: str, calls: int, seconds: float, seed: int, kind: str, transport: str) -> dict[str, Any]:
    random_ = random.Random(seed)
    # Signals can also hit a client while it takes a connection out of its pool, which then is not given back.
    with client_class("sync", transport)(unix_socket_path=socket, max_connections=100_000) as client:
        application = Application(client, random_, f"app-{os.getpid()}")
        for _ in range(100):  # pydantic builds a model at its first use, and raises a handler's error as one of its own
            application.step()
        signals = Signals(kind, random_, pace=timeit(application.step, number=100) / 100)
        print("ready", flush=True)
        ends, interrupted = time.monotonic() + seconds, 0
        wrong: list[str] = []
        while sum(application.done.values()) < calls and time.monotonic() < ends:
            try:
                interrupted += signals.interrupted(application.step)
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # it would end the interpreter that is ending
    return {
        "done": application.done,
        "interrupted": interrupted,
        "unknown": application.unknown,
        "wrong": wrong[:10],
        "begun": application.begun,
    }


if __name__ == "__main__":
    _, socket, calls, seconds, seed, *kinds = sys.argv
    print(json.dumps(main(socket, int(calls), float(seconds), int(seed), *kinds)), flush=True)

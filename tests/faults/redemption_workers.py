"""Processes that redeem vouchers until they are stopped or killed, and keep a log that survives them.

A worker does what an application does: it locks, redeems, releases and rolls back, and repeats a call with an unknown outcome
unchanged. Its keys and ids are its own, so each can be traced; amounts are small and limits low, so that workers
compete.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.waiting import until

from faults.history import UNKNOWN, Op, Recorder, load
from voucher_sessions import Voucher, VoucherSessions, VoucherSessionsError
from voucher_sessions._transport.keeper import ending_with

# One that has all imports done makes the others, in milliseconds.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["voucher_sessions"])

PLENTY = [f"P{at}" for at in range(6)]  # there is enough for every worker
SCARCE = [f"S{at}" for at in range(6)]  # workers compete for them
CODES = [*PLENTY, *SCARCE]
SHORT_MS = (20, 60, 150)
HOUR_MS = 3_600_000
# Of all carts: the first are redeemed without a session, the next left as they are, then released, …
AT_ONCE, LEAVES, RELEASES, READS = 0.3, 0.4, 0.55, 0.6
ROLLS_BACK, TWICE = 0.15, 0.1


def limits(code: str) -> Voucher:
    return (
        Voucher(code=code, quantity=None, credits=10**6)
        if code in PLENTY
        else Voucher(code=code, quantity=4, credits=25)
    )


class WorkerProcesses:
    """Running workers on the server at this socket; ``leave_ms`` is the TTL of the locks that nobody ends."""

    def __init__(self, socket: str, folder: Path, *, seed: int, leave_ms: int = SHORT_MS[-1]) -> None:
        folder.mkdir(exist_ok=True)
        self._socket, self._folder, self._leave_ms = socket, folder, leave_ms
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._running: list[tuple[ForkServerProcess, Path]] = []
        self.logs: list[Path] = []
        self._recorder = Recorder("manager", self._new_log("manager"))
        with redis.Redis(unix_socket_path=socket) as client:
            for code in CODES:
                self._recorder.call(VoucherSessions(client), "put_voucher", limits(code))

    def _new_log(self, name: str) -> Path:
        self.logs.append(self._folder / f"{name}.log")
        self.logs[-1].touch()
        return self.logs[-1]

    def open(self, number: int = 1, *, patient: bool = True) -> None:
        for _ in range(number):
            at = next(self._numbers)
            name, seed = f"t{at}", 2 * self._random.randrange(2**32) + at % 2  # every other client repeats by itself
            log = self._new_log(name)
            process = forked.Process(
                target=_run_worker, args=(self._socket, log, name, seed, self._leave_ms, patient), daemon=True
            )
            process.start()
            self._running.append((process, log))

    def kill_one(self) -> None:
        """With SIGKILL, at a random moment of its first carts or some later ones."""
        process, log = self._running.pop(self._random.randrange(len(self._running)))
        size = self._random.randrange(1, 8_000)
        until(lambda: log.stat().st_size >= size)
        time.sleep(self._random.uniform(0, 0.003))
        process.kill()
        process.join()

    def until_written(self, size: int) -> None:
        """Wait until all workers together have logged so many bytes more."""
        before = self._bytes_logged()
        until(lambda: self._bytes_logged() - before >= size)

    def _bytes_logged(self) -> int:
        return sum(log.stat().st_size for log in self.logs)

    def close(self) -> None:
        """Have all stop after their carts of the moment; those that have not begun yet end at once."""
        for process, _ in self._running:
            process.terminate()
        for process, _ in self._running:
            process.join(60)
            assert process.exitcode in {0, -signal.SIGTERM}, f"a worker ended with {process.exitcode}"
        self._running.clear()
        self._recorder.close()

    @property
    def history(self) -> list[Op]:
        return load(self.logs)


def _run_worker(socket: str, log: Path, name: str, seed: int, leave_ms: int, patient: bool) -> None:
    """The process of one worker."""
    ending_with(os.getppid())()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    retries: dict[str, Any] = {} if seed % 2 else {"retry": Retry(NoBackoff(), 0)}
    with redis.Redis(unix_socket_path=socket, **retries) as client:
        engine = VoucherSessions(client)
        worker = Worker(lambda: engine, Recorder(name, log), name, seed, leave_ms)
        worker.run(until=lambda: bool(stopped), patient=patient)


class Worker:
    """Processes cart after cart with the engine that ``engine`` returns at the time."""

    def __init__(self, engine: Callable[[], Any], recorder: Recorder, name: str, seed: int, leave_ms: int) -> None:
        self._engine, self._recorder, self._name = engine, recorder, name
        self._chance, self._leave_ms = random.Random(seed), leave_ms
        self._until: Callable[[], bool] = lambda: False
        self._patient = True

    def run(self, until: Callable[[], bool], *, patient: bool = True, codes: Sequence[str] = CODES) -> None:
        """``patient``: repeat what has an unknown outcome, as it was; otherwise stop at the first of them."""
        self._until, self._patient = until, patient
        for at in itertools.count():
            if until():
                return
            try:
                self._process_cart(self._chance.choice(codes), f"{self._name}-{at}")
            except UNKNOWN:
                return
            except VoucherSessionsError:
                pass  # refused, or expired meanwhile: the history has it
            time.sleep(self._chance.uniform(0, 0.008))

    def _process_cart(self, code: str, order: str) -> None:
        credits, way = self._chance.randint(1, 9), self._chance.random()
        if way < AT_ONCE:
            self._redeem(code, order, credits=credits)
            return
        ttl_ms = self._leave_ms if way < LEAVES else self._chance.choice(SHORT_MS)
        session = {"type": "LOCK", "key": order, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
        answer = self._do("validate", code, credits=credits, session=session)
        if not answer.valid or way < LEAVES:
            return
        if way < RELEASES:
            self._do("release", code, order)
        elif way < READS:
            self._do("get_voucher", code)
        else:
            self._redeem(code, order, session=order)

    def _redeem(self, code: str, order: str, **options: Any) -> None:
        self._once_or_twice("redeem", code, redemption_id=order, **options)
        if code in SCARCE or self._chance.random() < ROLLS_BACK:
            self._once_or_twice("rollback", code, order)

    def _once_or_twice(self, verb: str, *args: Any, **options: Any) -> None:
        """As hosts do whose own callers are impatient."""
        for _ in range(2 if self._chance.random() < TWICE else 1):
            self._do(verb, *args, **options)

    def _do(self, verb: str, *args: Any, **options: Any) -> Any:
        while True:
            try:
                return self._recorder.call(self._engine(), verb, *args, **options)
            except UNKNOWN:
                if not self._patient or self._until():
                    raise
                time.sleep(0.02)

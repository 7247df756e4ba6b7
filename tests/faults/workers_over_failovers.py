"""Workers in threads that continue while their primary is replaced: before every call they look up its address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis.asyncio.retry
from conftest import BlockingAsync
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.waiting import until

from faults.history import Op, Recorder
from faults.redemption_workers import CODES, HOUR_MS, Worker, limits
from voucher_sessions import AsyncVoucherSessions, Durability, NotDurable, VoucherSessions


@dataclass
class PrimaryAddress:
    """The address of the primary that some workers use. None: they wait until it is set.

    ``patience``: for how many seconds they wait for a reply.
    """

    url: str | None = None
    patience: float = 60


class CurrentEngine:
    """Returns the engine of one thread for the current address of its primary, sync or asyncio.

    Its client repeats nothing by itself.
    """

    def __init__(self, address: PrimaryAddress, durability: Durability | None, *, asynchronous: bool = False) -> None:
        self.address, self._durability = address, durability
        self._loop = asyncio.new_event_loop() if asynchronous else None
        self._engines: dict[str, Any] = {}

    def __call__(self) -> Any:
        until(lambda: self.address.url is not None)
        url = str(self.address.url)
        if url not in self._engines:
            self._engines[url] = self._open(url)
        return self._engines[url]

    def _open(self, url: str) -> Any:
        options: dict[str, Any] = {"durability": self._durability, "socket_timeout": self.address.patience}
        if self._loop is None:
            return VoucherSessions.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        return BlockingAsync(AsyncVoucherSessions.from_url(url, retry=retry, **options), self._loop)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.aclose() if self._loop else engine.close()
        if self._loop:
            self._loop.close()


class CheckedThreads:
    """Threads whose errors ``join`` raises."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, work: Callable[..., object], *args: object) -> None:
        def run() -> None:
            try:
                work(*args)
            except BaseException as error:
                self._errors.append(error)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        if self._errors:
            raise self._errors[0]


@dataclass
class WorkerThreads:
    """The workers' recorders; setting ``over`` ends the workers."""

    recorders: list[Recorder] = field(default_factory=list)
    over: bool = False

    @property
    def history(self) -> list[Op]:
        return [op for each in self.recorders for op in each.history]

    def wait_for_changes(self, changes: int = 60) -> None:
        """Until so many more changes were acknowledged."""
        before = self._acknowledged_changes()
        until(lambda: self._acknowledged_changes() >= before + changes)

    def _acknowledged_changes(self) -> int:
        return sum(op.end is not None and op.changes for op in self.history)

    def waits_for_replies(self, *numbers: int) -> bool:
        """Whether these workers wait for a reply."""
        histories = [self.recorders[1 + number].history for number in numbers]
        return all(history and history[-1].end is None for history in histories)


def _put(workers: WorkerThreads, engine: VoucherSessions, code: str) -> bool:
    """Whether it was confirmed."""
    try:
        workers.recorders[0].call(engine, "put_voucher", limits(code))
    except NotDurable:
        return False
    return True


@contextmanager
def running_workers(durability: Durability, *addresses: PrimaryAddress) -> Iterator[WorkerThreads]:
    """A worker for each address, sync and asyncio by turns; the server at the first address gets the vouchers."""
    workers, threads = WorkerThreads([Recorder("manager")]), CheckedThreads()
    with ExitStack() as current_engines:
        with VoucherSessions.from_url(str(addresses[0].url), durability=durability) as engine:
            for code in CODES:
                until(partial(_put, workers, engine, code))
        for at, address in enumerate(addresses):
            current_engine = CurrentEngine(address, durability, asynchronous=at % 2 == 1)
            current_engines.callback(current_engine.close)
            workers.recorders.append(Recorder(f"t{at}"))
            worker = Worker(current_engine, workers.recorders[-1], f"t{at}", at, HOUR_MS)
            threads.start(worker.run, lambda: workers.over)
        try:
            yield workers
        finally:
            workers.over = True
            threads.join()

"""The worker processes that serve the carts, and the parent's view of them."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

from voucher_sessions import VoucherSessions, VoucherState
from voucher_sessions.demo.carts import CODES, DISCOUNT, Cart
from voucher_sessions.demo.checkout import Report, Status, serve
from voucher_sessions.demo.checks import Check, WorkerReports
from voucher_sessions.demo.output import Display

RECEIPT_TTL_SECONDS: Final = 600  # receipts stay for good by default, and a demo should leave nothing behind
SNAPSHOT_SECONDS: Final = 0.1

# A spawned process shares nothing with its parent, as on another machine; a forked one would share its connection.
SPAWN: Final = multiprocessing.get_context("spawn")


def work(url: str, prefix: str, carts: Sequence[Cart], pipe: Connection) -> None:
    """Run in a worker process: serve its carts one after the other with an engine of its own.

    Each worker has a pipe of its own: the parent can still read it after the worker was killed. A queue that workers
    share could stay locked by the one that is killed. A broken pipe means that the parent has ended.
    """
    with (
        suppress(BrokenPipeError),
        VoucherSessions.from_url(url, prefix=prefix, receipt_ttl=RECEIPT_TTL_SECONDS) as engine,
    ):
        for cart in carts:
            for report in serve(engine, cart):
                pipe.send(report)


@dataclass(frozen=True, slots=True, eq=False)
class Worker:
    """A process, the pipe from which its reports are read, and its carts."""

    process: SpawnProcess
    pipe: Connection
    carts: Sequence[Cart]


class WorkerPool:
    """All workers, their reports, and snapshots of the vouchers while they run. It kills one of them on purpose."""

    def __init__(self, engine: VoucherSessions, url: str, prefix: str, display: Display) -> None:
        self._engine = engine
        self._url = url
        self._prefix = prefix
        self._carts: Sequence[Cart] = ()
        self._next_snapshot = 0.0
        self._display = display
        self.reports = WorkerReports()
        self.snapshots: list[VoucherState] = []
        self.workers: list[Worker] = []
        self.killed: Worker | None = None

    def start(self, carts: Sequence[Cart], workers: int) -> None:
        """Start the workers, each with its share of the carts."""
        self._carts = carts
        for number in range(workers):
            self._start_worker(carts[number::workers])

    def watch(self) -> None:
        """Receive reports until the last worker has ended, and take a snapshot of the vouchers every 0.1 s."""
        while working := [worker for worker in self.workers if not worker.pipe.closed]:
            ready = wait([worker.pipe for worker in working], SNAPSHOT_SECONDS)
            for worker in working:
                if worker.pipe in ready:
                    self._receive(worker)
            if time.monotonic() >= self._next_snapshot:
                self._next_snapshot = time.monotonic() + SNAPSHOT_SECONDS
                self.take_snapshot()

    def take_snapshot(self) -> None:
        """Read the vouchers. Every snapshot is checked at the end."""
        states = [self._engine.get_voucher(code) for code in CODES]
        self.snapshots += states
        self._display.show(self.reports.finished(), len(self._carts), states)

    def close(self) -> None:
        """Kill the workers that still run, after an error or Ctrl-C."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()

    def check_exit_statuses(self) -> Check:
        """Check that one worker was killed and that no other failed."""
        problems = [] if self.killed else ["no worker was killed"]
        for worker in self.workers:
            expected = -signal.SIGKILL if worker is self.killed else 0
            if worker.process.exitcode != expected:
                problems.append(f"{worker.process.name} ended with status {worker.process.exitcode}")
        return Check("one worker was killed during a redemption, the others served all their carts", problems)

    def _start_worker(self, carts: Sequence[Cart]) -> None:
        reading_end, writing_end = SPAWN.Pipe(duplex=False)
        name = f"worker {len(self.workers) + 1}"
        process = SPAWN.Process(target=work, name=name, args=(self._url, self._prefix, carts, writing_end), daemon=True)
        with _signals_deferred():
            process.start()
            writing_end.close()  # the worker has the only writing end now, so the parent sees EOF when it ends
            self.workers.append(Worker(process, reading_end, carts))

    def _receive(self, worker: Worker) -> None:
        try:
            report: Report = worker.pipe.recv()
        except EOFError:
            self._handle_end(worker)
            return
        self.reports.add(report)
        if self._should_kill(report):
            worker.process.kill()
            self.killed = worker
            self._display.show_event(f"SIGKILL for {worker.process.name} while it redeems {report.cart.order_id}")

    def _should_kill(self, report: Report) -> bool:
        """Whether a third of the carts are finished and the reporting worker is sending a redemption.

        Not a redemption of the discount: its lock could stay, and keep one of the 50 from all others for 7 days.
        """
        return (
            self.killed is None
            and report.status is Status.REDEEMING
            and report.cart.code != DISCOUNT
            and self.reports.finished() >= len(self._carts) / 3
        )

    def _handle_end(self, worker: Worker) -> None:
        worker.pipe.close()
        worker.process.join()
        if worker is self.killed:
            rest = [cart for cart in worker.carts if cart.order_id not in self.reports.last_status]
            self._start_worker(rest)
            self._display.show_event(f"{self.workers[-1].process.name} serves its other {len(rest)} carts")


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Start a process that never sees Ctrl-C, which a terminal sends to all processes, nor SIGTERM.

    The parent sees them afterwards, when it knows the process and can end it.
    """
    resource_tracker.ensure_running()  # it unblocks both when it starts, so it must run before they are blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

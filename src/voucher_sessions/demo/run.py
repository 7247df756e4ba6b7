"""``python -m voucher_sessions demo``: several checkouts, some hundreds of carts, three vouchers, and exact books.

The parent plans the carts and starts the workers, watches the vouchers while they are redeemed, kills one worker in
mid-flight, and in the end audits what Redis holds. What a checkout does, and what the audit checks, is in
``carts``.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

from voucher_sessions import Balance, OutcomeUnknown, Voucher, VoucherSessions, VoucherSessionsError, VoucherState
from voucher_sessions.demo.carts import (
    CODES,
    DISCOUNT,
    RECEIPT_TTL_SECONDS,
    Books,
    Cart,
    Check,
    Ledger,
    Step,
    Told,
    audit,
    planned,
    vouchers_for,
    wait_for_expiry,
    work,
)
from voucher_sessions.errors import CLIENT_ERRORS

HELP: Final = "send carts at three vouchers from several processes, kill one in mid-flight, and audit the books"

FAILED: Final = 1
CANNOT_RUN: Final = 2
INTERRUPTED: Final = 130

LOOK_SECONDS: Final = 0.1
LINE_SECONDS: Final = 1.0  # between lines of progress, where a line cannot be overwritten
SERVER_ENDS_SECONDS: Final = 5.0  # at the latest

OUTCOMES: Final = (
    *("redeemed", "refused as held", "refused as used up", "expired", "released"),
    *("still locked", "cut off in flight"),
)

# A spawned process shares nothing with its parent, as on another machine; a forked one would share its connection.
SPAWN: Final = multiprocessing.get_context("spawn")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command line understands."""
    parser.add_argument(
        "--url",
        type=_url,
        default="embedded://",
        help="a server to run on, under a random prefix (default: %(default)s, one of its own in a temporary folder)",
    )
    # With fewer carts there may be nobody left to kill.
    parser.add_argument("--carts", type=_from_to(30, 10_000), default=500, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=_from_to(1, 64), default=4, metavar="N", help="default: %(default)s")


def main(options: argparse.Namespace) -> int:
    """Run the demo; the exit status is 0 if every invariant holds."""
    try:
        return 0 if _run(options.url, planned(options.carts), options.workers) else FAILED
    except KeyboardInterrupt:
        print("\nInterrupted: the workers have been ended and the demo's vouchers deleted.", file=sys.stderr)
        return INTERRUPTED
    except (ImportError, OSError, VoucherSessionsError, *CLIENT_ERRORS) as error:
        # Of a server that cannot be reached, what redis-py said tells more than that the reply was lost.
        print(f"The demo cannot run: {_cause(error) or error}", file=sys.stderr)
        return CANNOT_RUN


def _url(text: str) -> str:
    if text.startswith("memory://"):
        raise argparse.ArgumentTypeError("memory:// lives in one process alone, and the demo's workers are several")
    return text


def _from_to(lowest: int, highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"must be from {lowest} to {highest}")
        return int(text)

    return number


def _cause(error: Exception) -> BaseException | None:
    return error.__cause__ if isinstance(error, OutcomeUnknown) else None


def _run(url: str, carts: Sequence[Cart], workers: int) -> bool:
    prefix = f"vs-demo-{secrets.token_hex(4)}"  # nothing of the user's is touched
    with (
        _shared(url) as shared_url,
        VoucherSessions.from_url(shared_url, prefix=prefix, receipt_ttl=RECEIPT_TTL_SECONDS) as engine,
        _on_sale(engine, vouchers_for(carts)),
        closing(RushHour(engine, shared_url, prefix)) as rush,
    ):
        print(f"{len(carts)} carts, {workers} workers, {url}; of each voucher: used+locked/limit")
        rush.open(carts, workers)
        rush.watch()
        wait_for_expiry(engine)
        rush.look()
        rush.progress.end()
        return _report(carts, Books.read(engine, carts), rush)


@contextmanager
def _shared(url: str) -> Iterator[str]:
    """A URL that means the same server to all processes: for ``embedded://``, a temporary folder of the demo's own."""
    if url != "embedded://":
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="voucher-sessions-demo-"))
    try:
        yield f"embedded://{folder}"
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the data when the server has ended, which it does a moment after the last engine is closed."""
    deadline = time.monotonic() + SERVER_ENDS_SECONDS
    while _in_use(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    """Whether a server or an engine still has one of the locks of its folder, see ``embedded``."""
    for lock in folder.glob("*.lock"):
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


@contextmanager
def _on_sale(engine: VoucherSessions, vouchers: Sequence[Voucher]) -> Iterator[None]:
    """Creates the vouchers, and deletes them in the end with the locks that a killed worker left behind."""
    for voucher in vouchers:
        engine.put_voucher(voucher)
    try:
        yield
    finally:
        for voucher in vouchers:
            for session in engine.list_sessions(voucher.code, limit=10_000):
                engine.release(voucher.code, session.key)
            engine.delete_voucher(voucher.code)


class Progress:
    """One line that is overwritten on a terminal, and a line a second elsewhere."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._overwrite = sys.stdout.isatty()
        self._next_line = self._started

    def show(self, text: str) -> None:
        """What is true at the moment."""
        if self._overwrite:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{self._stamped(text)[:width]}", end="", flush=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            print(self._stamped(text), flush=True)

    def say(self, text: str) -> None:
        """What happened, on a line that stays."""
        print(("\r\x1b[K" if self._overwrite else "") + self._stamped(text), flush=True)

    def end(self) -> None:
        """Leave the line that was overwritten."""
        print(flush=True)

    def _stamped(self, text: str) -> str:
        return f"{time.monotonic() - self._started:5.1f} s  {text}"


@dataclass(frozen=True, slots=True, eq=False)
class Worker:
    """A process, the pipe on which it tells what it does, and the carts that it was given."""

    process: SpawnProcess
    pipe: Connection
    carts: Sequence[Cart]


class RushHour:
    """The workers while they work, as the parent sees them."""

    def __init__(self, engine: VoucherSessions, url: str, prefix: str) -> None:
        self._engine = engine
        self._url = url
        self._prefix = prefix
        self._carts: Sequence[Cart] = ()
        self._next_look = 0.0
        self.progress = Progress()
        self.ledger = Ledger()
        self.looks: list[VoucherState] = []
        self.workers: list[Worker] = []
        self.killed: Worker | None = None

    def open(self, carts: Sequence[Cart], workers: int) -> None:
        """Start the workers, the carts dealt out among them."""
        self._carts = carts
        for number in range(workers):
            self._start(carts[number::workers])

    def watch(self) -> None:
        """Listen to the workers until the last has ended, and look at the vouchers every now and then."""
        while working := [worker for worker in self.workers if not worker.pipe.closed]:
            ready = wait([worker.pipe for worker in working], LOOK_SECONDS)
            for worker in working:
                if worker.pipe in ready:
                    self._listen(worker)
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + LOOK_SECONDS
                self.look()

    def look(self) -> None:
        """See how the vouchers stand; the audit judges every look."""
        states = [self._engine.get_voucher(code) for code in CODES]
        self.looks += states
        shown = [(state.code, _main_balance(state)) for state in states]
        figures = [f"{code} {balance.used}+{balance.locked}/{balance.limit}" for code, balance in shown]
        self.progress.show("  ".join([f"{self.ledger.served()}/{len(self._carts)} carts", *figures]))

    def close(self) -> None:
        """End the workers that are still alive: after an error, or Ctrl-C."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()

    def _start(self, carts: Sequence[Cart]) -> None:
        pipe, theirs = SPAWN.Pipe(duplex=False)
        name = f"worker {len(self.workers) + 1}"
        process = SPAWN.Process(target=work, name=name, args=(self._url, self._prefix, carts, theirs), daemon=True)
        with _interrupts_deferred():
            process.start()
            theirs.close()  # the worker's is the only writing end now: when it dies, reading ends
            self.workers.append(Worker(process, pipe, carts))

    def _listen(self, worker: Worker) -> None:
        try:
            told: Told = worker.pipe.recv()
        except EOFError:
            self._ended(worker)
            return
        self.ledger.note(told)
        if self._is_the_moment(told):
            worker.process.kill()
            self.killed = worker
            self.progress.say(f"SIGKILL for {worker.process.name} while it redeems {told.cart.order_id}")

    def _is_the_moment(self, told: Told) -> bool:
        """A third of the carts are served, and this worker is just sending a redemption.

        Not one of the discount: its lock might stay, and keep one of the 50 from all others for 7 days.
        """
        return (
            self.killed is None
            and told.step is Step.REDEEMING
            and told.cart.code != DISCOUNT
            and self.ledger.served() >= len(self._carts) / 3
        )

    def _ended(self, worker: Worker) -> None:
        worker.pipe.close()
        worker.process.join()
        if worker is self.killed:
            rest = [cart for cart in worker.carts if cart.order_id not in self.ledger.steps]
            self._start(rest)
            self.progress.say(f"{self.workers[-1].process.name} takes over its other {len(rest)} carts")


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal: one that is started in here never sees it, and we see it after."""
    resource_tracker.ensure_running()  # when it starts, it unblocks interrupts, so not in the middle of this
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _report(carts: Sequence[Cart], books: Books, rush: RushHour) -> bool:
    """Print the table and the invariants; True if all hold."""
    for cart in carts:
        if rush.ledger.steps.get(cart.order_id) is Step.REDEEMING:
            receipt = "its receipt" if cart.order_id in books.receipts else "no receipt of it"
            print(f"{cart.order_id} was in flight when its worker was killed: Redis has {receipt}.\n")
    _print_table(carts, books, rush.ledger)
    print()
    checks = [*audit(books, rush.looks, rush.ledger), _worked_to_the_end(rush)]
    for check in checks:
        print(f"{'FAILED' if check.problems else 'ok':8}{check.text}")
        for problem in check.problems[:5]:
            print(f"{'':8}- {problem}")
    return not any(check.problems for check in checks)


def _worked_to_the_end(rush: RushHour) -> Check:
    problems = [] if rush.killed else ["nobody was killed"]
    for worker in rush.workers:
        expected = -signal.SIGKILL if worker is rush.killed else 0
        if worker.process.exitcode != expected:
            problems.append(f"{worker.process.name} ended with status {worker.process.exitcode}")
    return Check("one worker was killed in mid-flight, the others came to the end of their carts", problems)


def _print_table(carts: Sequence[Cart], books: Books, ledger: Ledger) -> None:
    states = [books.states[code] for code in CODES]
    shown = [_main_balance(state) for state in states]
    _print_row("", [state.code for state in states])
    _print_row("", ["redemptions", "cents", "points"])
    _print_row("limit", [balance.limit for balance in shown])
    _print_row("used", [balance.used for balance in shown])
    _print_row("locked", [balance.locked for balance in shown])
    _print_row("available", [balance.available for balance in shown])
    outcomes = Counter((cart.code, _outcome(cart, books, ledger)) for cart in carts)
    for outcome in OUTCOMES:
        _print_row(f"carts {outcome}", [outcomes[code, outcome] for code in CODES])
    replays = Counter(redemption.code for redemption in ledger.redemptions if redemption.replayed)
    _print_row("second payments replayed", [replays[code] for code in CODES])


def _print_row(title: str, cells: Sequence[object]) -> None:
    print(f"{title:28}" + "".join(f"{cell:>14}" for cell in cells))


def _outcome(cart: Cart, books: Books, ledger: Ledger) -> str:
    """The receipts are the truth; of a cart without one, what its worker told."""
    if cart.order_id in books.receipts:
        return "redeemed"
    match ledger.steps.get(cart.order_id):
        case Step.HELD:
            return "refused as held"
        case Step.USED_UP:
            return "refused as used up"
        case Step.RELEASED:
            return "released"
        case Step.ABANDONED | Step.LOCKED:
            return "still locked" if ledger.session_keys[cart.order_id] in books.live_keys() else "expired"
        case _:
            return "cut off in flight"


def _main_balance(state: VoucherState) -> Balance:
    """The balance that the voucher is about: a discount's quantity, a gift card's credits, a loyalty card's points."""
    if state.quantity.limit is not None:
        return state.quantity
    return state.credits if state.credits.limit else state.points

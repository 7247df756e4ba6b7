"""``python -m voucher_sessions demo``: several checkouts, some hundreds of carts, three vouchers.

The parent plans the carts and starts the workers, reads the vouchers while they are redeemed, kills one worker during a
redemption, and at the end checks what Redis has stored.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final, NoReturn

from voucher_sessions import OutcomeUnknown, ServerUnavailable, Voucher, VoucherSessions, VoucherSessionsError
from voucher_sessions.demo.carts import Cart, plan_carts, vouchers_for
from voucher_sessions.demo.checks import StoredState, audit, wait_for_expiry
from voucher_sessions.demo.output import Display, print_interrupted, table_rows
from voucher_sessions.demo.server import keys_deleted, shared_url, without_credentials
from voucher_sessions.demo.workers import RECEIPT_TTL_SECONDS, WorkerPool
from voucher_sessions.errors import CLIENT_ERRORS

HELP: Final = "redeem three vouchers from several processes at once, kill one of the processes, and check every balance"

FAILED: Final = 1
CANNOT_RUN: Final = 2
# A process that ends because of a signal has the status 128 + its number.
INTERRUPTED: Final = 128 + signal.SIGINT
OUTPUT_CLOSED: Final = 128 + signal.SIGPIPE
TERMINATED: Final = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM arrived."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--url",
        type=_url,
        default="embedded://",
        help="the server to use, under a random prefix (default: %(default)s, a temporary server of its own)",
    )
    # argparse would quote an unexpected argument, which may be a URL with a password.
    parser.add_argument("unexpected", nargs="*", type=_refuse, help=argparse.SUPPRESS)
    # With fewer carts, all workers may have ended before one can be killed.
    parser.add_argument(
        "--carts",
        type=_from_to(30, 10_000),
        default=500,
        metavar="N",
        help="number of carts, 30 to 10000 (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=_from_to(1, 64),
        default=4,
        metavar="N",
        help="number of processes, 1 to 64 (default: %(default)s)",
    )


def main(options: argparse.Namespace, make_display: Callable[[], Display] = Display) -> int:
    """Run the demo; the exit status is 0 if every check succeeds. ``make_display`` makes what shows it."""
    try:
        with _sigterm_raises():
            succeeded = _run(options.url, plan_carts(options.carts), options.workers, make_display)
            sys.stdout.flush()
        return 0 if succeeded else FAILED
    except (KeyboardInterrupt, Terminated) as reason:
        interrupted = isinstance(reason, KeyboardInterrupt)
        word = "Interrupted" if interrupted else "Terminated"
        print(f"\n{word}: the workers have been ended and the demo's vouchers deleted.", file=sys.stderr)
        return INTERRUPTED if interrupted else TERMINATED
    except BrokenPipeError:
        _discard_output()
        return OUTPUT_CLOSED
    except (ImportError, OSError, VoucherSessionsError, *CLIENT_ERRORS) as error:
        # If the server cannot be reached, the client's own error says more than that the reply was lost.
        print(f"The demo cannot run: {_cause(error) or error}", file=sys.stderr)
        return CANNOT_RUN


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise Terminated once, so that it cleans up like Ctrl-C. A second one does not stop that."""

    def terminate(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_output() -> None:
    """The reader of the output has ended, like ``head``. The interpreter must not fail when it flushes it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _url(text: str) -> str:
    if text.startswith("memory://"):
        raise argparse.ArgumentTypeError("memory:// is a server in one process, and the demo runs several")
    return text


def _refuse(_: str) -> NoReturn:
    raise argparse.ArgumentTypeError("the demo takes options alone: --url URL names the server")


def _from_to(lowest: int, highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        # The text is not quoted: it may be a URL with a password.
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    return number


def _cause(error: Exception) -> BaseException | None:
    return error.__cause__ if isinstance(error, OutcomeUnknown | ServerUnavailable) else None


def _run(url: str, carts: Sequence[Cart], workers: int, make_display: Callable[[], Display]) -> bool:
    prefix = f"vs-demo-{secrets.token_hex(4)}"  # so that no key of the user's is touched
    with (
        shared_url(url) as server_url,
        VoucherSessions.from_url(server_url, prefix=prefix, receipt_ttl=RECEIPT_TTL_SECONDS) as engine,
        keys_deleted(server_url, prefix),
        _vouchers_created(engine, vouchers_for(carts)),
        closing(make_display()) as display,
        closing(WorkerPool(engine, server_url, prefix, display)) as pool,
    ):
        display.begin(f"{len(carts)} carts, {workers} workers, {without_credentials(url)}")
        pool.start(carts, workers)
        pool.watch()
        wait_for_expiry(engine)
        pool.take_snapshot()
        display.end()
        return _report(carts, StoredState.read(engine, carts), pool, display)


@contextmanager
def _vouchers_created(engine: VoucherSessions, vouchers: Sequence[Voucher]) -> Iterator[None]:
    """Create the vouchers, and delete them at the end with the locks that a killed worker left behind."""
    for voucher in vouchers:
        engine.put_voucher(voucher)
    try:
        yield
    finally:
        for voucher in vouchers:
            for session in engine.list_sessions(voucher.code, limit=10_000):
                engine.release(voucher.code, session.key)
            engine.delete_voucher(voucher.code)


def _report(carts: Sequence[Cart], stored: StoredState, pool: WorkerPool, display: Display) -> bool:
    """Show the table and the checks; True if all succeed."""
    print_interrupted(carts, stored, pool.reports)
    display.show_table(table_rows(carts, stored, pool.reports))
    checks = [*audit(stored, pool.snapshots, pool.reports), pool.check_exit_statuses()]
    for check in checks:
        display.show_check(check)
    return not any(check.problems for check in checks)

"""The lines that the demo prints: progress, the final table and the results of the checks."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from voucher_sessions.demo.carts import CODES, Cart, main_balance
from voucher_sessions.demo.checkout import Status
from voucher_sessions.demo.checks import Check, StoredState, WorkerReports

LINE_SECONDS: Final = 1.0  # between lines of progress, where a line cannot be overwritten

LOCKED: Final = "still locked"
EXPIRED: Final = "expired"
REDEEMED: Final = "redeemed"
INTERRUPTED: Final = "interrupted"
OUTCOME_OF_STATUS: Final = {
    Status.LOCKED_BY_OTHERS: "refused (locked by others)",
    Status.USED_UP: "refused (used up)",
    Status.RELEASED: "released",
}
OUTCOMES: Final = (REDEEMED, *OUTCOME_OF_STATUS.values(), EXPIRED, LOCKED, INTERRUPTED)


class Progress:
    """One line that is overwritten on a terminal, and a line a second elsewhere."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._overwrite = sys.stdout.isatty()
        self._next_line = self._started

    def show(self, text: str) -> None:
        """Show the current state, which replaces the one before."""
        if self._overwrite:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{self._with_seconds(text)[:width]}", end="", flush=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            print(self._with_seconds(text), flush=True)

    def show_event(self, text: str) -> None:
        """Print a line that is not overwritten."""
        print(("\r\x1b[K" if self._overwrite else "") + self._with_seconds(text), flush=True)

    def end(self) -> None:
        """End the line that was overwritten."""
        print(flush=True)

    def _with_seconds(self, text: str) -> str:
        return f"{time.monotonic() - self._started:5.1f} s  {text}"


def print_interrupted(carts: Sequence[Cart], stored: StoredState, reports: WorkerReports) -> None:
    """Print which orders got no reply, and whether Redis has their receipts."""
    for cart in carts:
        if reports.last_status.get(cart.order_id) is Status.REDEEMING:
            result = "a receipt" if cart.order_id in stored.receipts else "no receipt"
            print(f"{cart.order_id} was sent when its worker was killed: Redis has {result} for it.\n")


def print_table(carts: Sequence[Cart], stored: StoredState, reports: WorkerReports) -> None:
    """Print the balances of the vouchers, and how many carts ended in which way."""
    states = [stored.states[code] for code in CODES]
    shown = [main_balance(state) for state in states]
    _print_row("", [state.code for state in states])
    _print_row("", ["redemptions", "cents", "points"])
    _print_row("limit", [balance.limit for balance in shown])
    _print_row("used", [balance.used for balance in shown])
    _print_row("locked", [balance.locked for balance in shown])
    _print_row("available", [balance.available for balance in shown])
    outcomes = Counter((cart.code, outcome_of(cart, stored, reports)) for cart in carts)
    for outcome in OUTCOMES:
        _print_row(f"carts {outcome}", [outcomes[code, outcome] for code in CODES])
    replays = Counter(redemption.code for redemption in reports.redemptions if redemption.replayed)
    _print_row("second payments replayed", [replays[code] for code in CODES])
    print()


def print_checks(checks: Sequence[Check]) -> None:
    """Print the result of each check, and the first five problems that it found."""
    for check in checks:
        print(f"{'FAILED' if check.problems else 'ok':8}{check.text}")
        for problem in check.problems[:5]:
            print(f"{'':8}- {problem}")


def outcome_of(cart: Cart, stored: StoredState, reports: WorkerReports) -> str:
    """The way in which a cart ended: by its receipt, or, if it has none, by the last report of its worker."""
    if cart.order_id in stored.receipts:
        return REDEEMED
    match reports.last_status.get(cart.order_id):
        case Status.LOCKED_BY_OTHERS | Status.USED_UP | Status.RELEASED as status:
            return OUTCOME_OF_STATUS[status]
        case Status.ABANDONED | Status.KEPT_LOCKED:
            return LOCKED if reports.session_keys[cart.order_id] in stored.live_keys() else EXPIRED
        case _:
            return INTERRUPTED


def _print_row(title: str, cells: Sequence[object]) -> None:
    print(f"{title:34}" + "".join(f"{cell:>14}" for cell in cells))

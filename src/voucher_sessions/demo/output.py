"""The lines that the demo prints: progress, the final table and the results of the checks."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from voucher_sessions import VoucherState
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


class Row(NamedTuple):
    """A row of the final table."""

    title: str
    cells: Sequence[object]


class Display:
    """What the demo shows: its progress in one line that is overwritten on a terminal, and a line a second elsewhere."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._overwrite = sys.stdout.isatty()
        self._next_line = self._started

    def begin(self, text: str) -> None:
        """Print what runs."""
        print(f"{text}; shown for each voucher: used+locked/limit")

    def show(self, finished: int, total: int, states: Sequence[VoucherState]) -> None:
        """Show how many carts are finished, and the vouchers. It replaces what was shown before."""
        shown = [(state.code, main_balance(state)) for state in states]
        figures = [f"{code} {balance.used}+{balance.locked}/{balance.limit}" for code, balance in shown]
        text = "  ".join([f"{finished}/{total} carts", *figures])
        if self._overwrite:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{self.with_seconds(text)[:width]}", end="", flush=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            print(self.with_seconds(text), flush=True)

    def show_event(self, text: str) -> None:
        """Print a line that is not overwritten."""
        print(("\r\x1b[K" if self._overwrite else "") + self.with_seconds(text), flush=True)

    def end(self) -> None:
        """End the progress: the carts are finished."""
        print(flush=True)

    def close(self) -> None:
        """Leave the terminal as it was. Called at the end, also after an error or Ctrl-C."""

    def show_table(self, rows: Sequence[Row]) -> None:
        """Show the balances of the vouchers, and how many carts ended in which way."""
        for row in rows:
            print(f"{row.title:34}" + "".join(f"{cell:>14}" for cell in row.cells))
        print()

    def show_check(self, check: Check) -> None:
        """Show the result of a check, and the first five problems that it found."""
        print(f"{'FAILED' if check.problems else 'ok':8}{check.text}")
        for problem in check.problems[:5]:
            print(f"{'':8}- {problem}")

    def with_seconds(self, text: str) -> str:
        """The text, after the seconds since the beginning."""
        return f"{time.monotonic() - self._started:5.1f} s  {text}"


def print_interrupted(carts: Sequence[Cart], stored: StoredState, reports: WorkerReports) -> None:
    """Print which orders got no reply, and whether Redis has their receipts."""
    for cart in carts:
        if reports.last_status.get(cart.order_id) is Status.REDEEMING:
            result = "a receipt" if cart.order_id in stored.receipts else "no receipt"
            print(f"{cart.order_id} was sent when its worker was killed: Redis has {result} for it.\n")


def table_rows(carts: Sequence[Cart], stored: StoredState, reports: WorkerReports) -> list[Row]:
    """The balances of the vouchers, and how many carts ended in which way; a column for each voucher."""
    states = [stored.states[code] for code in CODES]
    shown = [main_balance(state) for state in states]
    outcomes = Counter((cart.code, outcome_of(cart, stored, reports)) for cart in carts)
    replays = Counter(redemption.code for redemption in reports.redemptions if redemption.replayed)
    return [
        Row("", [state.code for state in states]),
        Row("", ["redemptions", "cents", "points"]),
        Row("limit", [balance.limit for balance in shown]),
        Row("used", [balance.used for balance in shown]),
        Row("locked", [balance.locked for balance in shown]),
        Row("available", [balance.available for balance in shown]),
        *(Row(f"carts {outcome}", [outcomes[code, outcome] for code in CODES]) for outcome in OUTCOMES),
        Row("second payments replayed", [replays[code] for code in CODES]),
    ]


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

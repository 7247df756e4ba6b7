"""Carts, states and reports that the tests of several modules use."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from voucher_sessions import ActiveSession, Balance, Redemption, SessionType, VoucherState
from voucher_sessions.demo.carts import GIFT_CARD, SESSIONS, Cart, Ending
from voucher_sessions.demo.checkout import Report, Status
from voucher_sessions.demo.checks import StoredState, WorkerReports


def a_cart(**changes: Any) -> Cart:
    cart: dict[str, Any] = {
        "order_id": "order-1",
        "code": GIFT_CARD,
        "credits": 10,
        "points": 0,
        "session": SESSIONS[0],
        "ending": Ending.PAYS,
        "seconds": 0.0,
    }
    return Cart(**{**cart, **changes})


def a_balance(used: int, locked: int, limit: int | None = 100) -> Balance:
    available = None if limit is None else limit - used - locked
    # Not validated: the models refuse negative figures, and the audit must find them all the same.
    return Balance.model_construct(limit=limit, used=used, locked=locked, available=available)


def a_state(used: int, locked: int) -> VoucherState:
    return VoucherState.model_construct(
        code=GIFT_CARD, quantity=a_balance(1, 2, None), credits=a_balance(used, locked), points=a_balance(0, 0)
    )


def a_redemption(**changes: Any) -> Redemption:
    redemption: dict[str, Any] = {
        "id": "order-1",
        "code": GIFT_CARD,
        "session_key": "k",
        "quantity": 1,
        "credits": 10,
        "points": 0,
        "redeemed_at": datetime(2026, 11, 21, tzinfo=UTC),
        "rolled_back": False,
        "credits_rolled_back": 0,
        "points_rolled_back": 0,
        "replayed": False,
    }
    return Redemption(**{**redemption, **changes})


def a_session(key: str) -> ActiveSession:
    return ActiveSession(
        key=key,
        type=SessionType.LOCK,
        quantity=1,
        credits=7,
        points=0,
        expires_at=datetime(2026, 11, 28, tzinfo=UTC),
        remaining_ms=604_800_000,
    )


class FinishedRun:
    """The end of a run without problems: one cart paid twice, one was abandoned, one interrupted, one keeps its lock."""

    def __init__(self) -> None:
        self.carts = [
            a_cart(),
            a_cart(order_id="order-2", ending=Ending.ABANDONS),
            a_cart(order_id="order-3", credits=7),
            a_cart(order_id="order-4", credits=7, ending=Ending.KEEPS_LOCK),
        ]
        self.reports = WorkerReports()
        for report in (
            Report(self.carts[0], Status.REDEEMING),
            Report(self.carts[0], Status.REDEEMED, redemption=a_redemption()),
            Report(self.carts[0], Status.REDEEMED, redemption=a_redemption(replayed=True)),
            Report(self.carts[1], Status.ABANDONED, "abandoned"),
            Report(self.carts[2], Status.REDEEMING),
            Report(self.carts[3], Status.KEPT_LOCKED, "kept"),
        ):
            self.reports.add(report)
        self.stored = StoredState(
            states={GIFT_CARD: a_state(10, 14)},
            sessions={GIFT_CARD: [a_session("of-the-killed-worker"), a_session("kept")]},
            receipts={"order-1": a_redemption()},
        )
        self.snapshots = [a_state(0, 0), a_state(10, 90), a_state(10, 14)]


def remove_session_of_killed_worker(run: FinishedRun) -> None:
    del run.stored.sessions[GIFT_CARD][0]


def keep_abandoned_session_live(run: FinishedRun) -> None:
    run.reports.add(Report(run.carts[1], Status.ABANDONED, "of-the-killed-worker"))


def checks_in(output: str) -> dict[str, str]:
    """The result of each check, in the order printed."""
    return {text: verdict for verdict, text in re.findall(r"^(ok|FAILED) +(.+)$", output, re.MULTILINE)}


def rows_in(output: str) -> dict[str, list[int]]:
    """The rows of the final table."""
    rows = re.findall(r"^([a-z][a-z ()]+?)((?: +\d+){3})$", output, re.MULTILINE)
    return {title: [int(figure) for figure in figures.split()] for title, figures in rows}

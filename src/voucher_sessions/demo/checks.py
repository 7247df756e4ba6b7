"""What must be true at the end: what the workers reported and what the parent saw, compared with what Redis stores."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from voucher_sessions import (
    ActiveSession,
    Balance,
    Redemption,
    RedemptionNotFound,
    VoucherSessions,
    VoucherState,
)
from voucher_sessions.demo.carts import ABANDONED_SECONDS, CODES, Cart
from voucher_sessions.demo.checkout import Report, Status


@dataclass(slots=True)
class WorkerReports:
    """What the workers have reported so far."""

    last_status: dict[str, Status] = field(default_factory=dict[str, Status])
    redemptions: list[Redemption] = field(default_factory=list[Redemption])
    session_keys: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, report: Report) -> None:
        """Add one report."""
        self.last_status[report.cart.order_id] = report.status
        if report.redemption is not None:
            self.redemptions.append(report.redemption)
        if report.session_key is not None:
            self.session_keys[report.cart.order_id] = report.session_key

    def finished(self) -> int:
        """How many carts are finished."""
        return sum(status is not Status.REDEEMING for status in self.last_status.values())

    def with_status(self, status: Status) -> list[str]:
        """The order ids of the carts whose last status is this one."""
        return [order_id for order_id, last in self.last_status.items() if last is status]


@dataclass(frozen=True, slots=True)
class StoredState:
    """What Redis stores at the end. ``receipts`` is by order id."""

    states: dict[str, VoucherState]
    sessions: dict[str, list[ActiveSession]]
    receipts: dict[str, Redemption]

    @classmethod
    def read(cls, engine: VoucherSessions, carts: Iterable[Cart]) -> StoredState:
        """Read every voucher, every live session and the receipt of every order."""
        receipts: dict[str, Redemption] = {}
        for cart in carts:
            with suppress(RedemptionNotFound):
                receipts[cart.order_id] = engine.get_redemption(cart.code, cart.order_id)
        return cls(
            states={code: engine.get_voucher(code) for code in CODES},
            sessions={code: engine.list_sessions(code, limit=10_000) for code in CODES},
            receipts=receipts,
        )

    def live_keys(self) -> set[str]:
        """The keys of all live sessions."""
        return {session.key for sessions in self.sessions.values() for session in sessions}


def wait_for_expiry(engine: VoucherSessions) -> None:
    """Wait until the last abandoned session has expired, at most one second longer than it should take."""
    a_minute_ms = 60_000  # all sessions but the abandoned ones live for days
    deadline = time.monotonic() + ABANDONED_SECONDS + 1
    while time.monotonic() < deadline:
        soonest = [session for code in CODES for session in engine.list_sessions(code, limit=1)]
        if all(session.remaining_ms > a_minute_ms for session in soonest):
            return
        time.sleep(0.05)


class Check(NamedTuple):
    """Something that must be true, and what contradicts it."""

    text: str
    problems: list[str]


def audit(stored: StoredState, snapshots: Sequence[VoucherState], reports: WorkerReports) -> list[Check]:
    """Check every invariant."""
    replays = sum(redemption.replayed for redemption in reports.redemptions)
    abandoned, kept = len(reports.with_status(Status.ABANDONED)), len(reports.with_status(Status.KEPT_LOCKED))
    problems_by_check = {
        f"used + locked stayed within the limit in {len(snapshots)} snapshots": _over_limit(snapshots),
        "no balance was ever negative": _negative(snapshots),
        "used equals the sum of the receipts": _wrong_used(stored),
        "locked equals the sum of the live sessions": _wrong_locked(stored),
        "each redemption that a worker reported has its receipt": _without_receipt(stored, reports),
        "each receipt belongs to a cart that paid": _not_paid(stored, reports),
        f"no order was redeemed twice, {replays} second payments were replayed": _redeemed_twice(reports),
        f"{abandoned} abandoned sessions have expired, {kept} others are live": _wrong_sessions(stored, reports),
    }
    return [Check(text, list(problems)) for text, problems in problems_by_check.items()]


def balances(state: VoucherState) -> dict[str, Balance]:
    """The three balances of a voucher."""
    return {"quantity": state.quantity, "credits": state.credits, "points": state.points}


def _over_limit(snapshots: Iterable[VoucherState]) -> Iterator[str]:
    for state in snapshots:
        for name, balance in balances(state).items():
            if balance.limit is not None and balance.used + balance.locked > balance.limit:
                yield f"{state.code} {name}: {balance.used} used + {balance.locked} locked of {balance.limit}"


def _negative(snapshots: Iterable[VoucherState]) -> Iterator[str]:
    for state in snapshots:
        for name, balance in balances(state).items():
            if min(balance.used, balance.locked, balance.available or 0) < 0:
                yield f"{state.code} {name}: {balance}"


def _total(parts: Iterable[Redemption | ActiveSession]) -> tuple[int, int, int]:
    quantity = credits = points = 0
    for part in parts:
        quantity, credits, points = quantity + part.quantity, credits + part.credits, points + part.points
    return quantity, credits, points


def _wrong_used(stored: StoredState) -> Iterator[str]:
    for code, state in stored.states.items():
        used = state.quantity.used, state.credits.used, state.points.used
        taken = _total(receipt for receipt in stored.receipts.values() if receipt.code == code)
        if used != taken:
            yield f"{code}: quantity, credits, points used {used}, on receipts {taken}"


def _wrong_locked(stored: StoredState) -> Iterator[str]:
    for code, state in stored.states.items():
        locked = state.quantity.locked, state.credits.locked, state.points.locked
        live = _total(stored.sessions[code])
        if locked != live:
            yield f"{code}: quantity, credits, points locked {locked}, of live sessions {live}"


def _without_receipt(stored: StoredState, reports: WorkerReports) -> Iterator[str]:
    for redemption in reports.redemptions:
        receipt = stored.receipts.get(redemption.id)
        if receipt is None or receipt != redemption.model_copy(update={"replayed": False}):
            yield f"{redemption.id}: reported {redemption}, receipt {receipt}"


def _not_paid(stored: StoredState, reports: WorkerReports) -> Iterator[str]:
    """An order whose redemption got no reply may have a receipt or not."""
    for order_id in stored.receipts:
        status = reports.last_status.get(order_id)
        if status not in {Status.REDEEMED, Status.REDEEMING, Status.UNKNOWN}:
            yield f"{order_id}: {status}"


def _redeemed_twice(reports: WorkerReports) -> Iterator[str]:
    taken = Counter(redemption.id for redemption in reports.redemptions if not redemption.replayed)
    for order_id, times in taken.items():
        if times > 1:
            yield f"{order_id}: redeemed {times} times"


def _wrong_sessions(stored: StoredState, reports: WorkerReports) -> Iterator[str]:
    live = stored.live_keys()
    for order_id in reports.with_status(Status.ABANDONED):
        if reports.session_keys[order_id] in live:
            yield f"{order_id}: its session is still live"
    for order_id in reports.with_status(Status.KEPT_LOCKED):
        if reports.session_keys[order_id] not in live:
            yield f"{order_id}: its session is not live"

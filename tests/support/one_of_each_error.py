"""One error of each class."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import voucher_sessions
from voucher_sessions import Redemption, VoucherSessionsError


def one_of_each_error() -> Iterator[VoucherSessionsError]:
    receipt = Redemption(
        id="order",
        code="A",
        session_key=None,
        quantity=1,
        credits=0,
        points=0,
        redeemed_at=datetime(2026, 11, 21, tzinfo=UTC),
        rolled_back=True,
        credits_rolled_back=0,
        points_rolled_back=0,
        replayed=False,
    )
    arguments: dict[str, tuple[Any, ...]] = {
        "AdjustmentConflict": ("A", "id"),
        "AdjustmentRefused": ("A", "credits", 1, -2),
        "AmountRequired": ("A",),
        "CorruptState": ("problem",),
        "CrossSlotStack": ([["A"], ["B"]],),
        "EmbeddedServerError": ("folder", "problem"),
        "GiftAmountExceeded": ("A", "gift_amount_exceeded", 2, 1, False, None),
        "InvalidRequest": ("code", "problem"),
        "LimitExceeded": ("A", "quantity_exceeded", 2, 1, False, None),
        "LoyaltyPointsExceeded": ("A", "loyalty_card_points_exceeded", 2, 1, False, None),
        "NotDurable": ("redeem", "problem", None),
        "OutcomeUnknown": ("redeem", ["A"]),
        "QuantityExceeded": ("A", "quantity_exceeded", 2, 1, False, None),
        "RedemptionConflict": ("A", "order"),
        "RedemptionNotFound": ("A", "order"),
        "RedemptionRolledBack": ("A", "order", receipt),
        "RollbackExceeded": ("A", "order", "credits", 2, 1),
        "ServerRefused": ("redeem", ["A"], "problem", "remedy"),
        "ServerUnavailable": ("redeem", ["A"], "problem"),
        "SessionNotFound": ("key", "A"),
        "UnknownFormat": ("redeem", 2),
        "VoucherExists": ("A",),
        "VoucherNotFound": ("A",),
        "VoucherSessionsError": ("problem",),
    }
    kinds = {name: getattr(voucher_sessions, name) for name in voucher_sessions.__all__}
    names = {name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, VoucherSessionsError)}
    assert names == arguments.keys()
    for name, values in arguments.items():
        yield kinds[name](*values)

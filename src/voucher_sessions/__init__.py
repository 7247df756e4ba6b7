"""Exact, atomic sessions for vouchers, gift cards and loyalty points in Redis: validate, redeem, release."""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "ActiveSession",
    "AsyncVoucherSessions",
    "Audit",
    "Available",
    "Balance",
    "CorruptState",
    "CrossSlotStack",
    "Durability",
    "EmbeddedServerError",
    "Finding",
    "GiftAmountExceeded",
    "InvalidRequest",
    "LimitExceeded",
    "LoyaltyPointsExceeded",
    "NotDurable",
    "OutcomeUnknown",
    "QuantityExceeded",
    "Redeemable",
    "Redemption",
    "RedemptionConflict",
    "RedemptionNotFound",
    "Release",
    "Rollback",
    "ServerRefused",
    "Session",
    "SessionNotFound",
    "SessionType",
    "StackRedemption",
    "StackValidation",
    "TtlUnit",
    "Used",
    "Validation",
    "Voucher",
    "VoucherNotFound",
    "VoucherSessions",
    "VoucherSessionsError",
    "VoucherState",
]

# Where they are, lightest first.
_MODULES = ("errors", "models", "results", "engine", "aio")

if TYPE_CHECKING:
    from voucher_sessions.aio import AsyncVoucherSessions
    from voucher_sessions.engine import VoucherSessions
    from voucher_sessions.errors import (
        CorruptState,
        CrossSlotStack,
        EmbeddedServerError,
        GiftAmountExceeded,
        InvalidRequest,
        LimitExceeded,
        LoyaltyPointsExceeded,
        NotDurable,
        OutcomeUnknown,
        QuantityExceeded,
        RedemptionConflict,
        RedemptionNotFound,
        ServerRefused,
        SessionNotFound,
        VoucherNotFound,
        VoucherSessionsError,
    )
    from voucher_sessions.models import Durability, Redeemable, Session, SessionType, TtlUnit, Used, Voucher
    from voucher_sessions.results import (
        ActiveSession,
        Audit,
        Available,
        Balance,
        Finding,
        Redemption,
        Release,
        Rollback,
        StackRedemption,
        StackValidation,
        Validation,
        VoucherState,
    )
else:  # to a type checker it would say that there is any name

    def __getattr__(name: str) -> object:
        """What a program uses is imported when it first asks for it, redis and pydantic with it."""
        for module in _MODULES if name in __all__ else ():
            names = vars(import_module(f"{__name__}.{module}"))
            if name in names:
                globals()[name] = names[name]
                return names[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

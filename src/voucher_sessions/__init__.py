"""Locks vouchers, gift cards and loyalty points in Redis and redeems them exactly once.

The verbs: validate, redeem, release, roll back.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "ActiveSession",
    "Adjustment",
    "AdjustmentConflict",
    "AdjustmentRefused",
    "AmountRequired",
    "AsyncPipeline",
    "AsyncVoucherSessions",
    "Audit",
    "Available",
    "Balance",
    "CallEvent",
    "CorruptState",
    "CrossSlotStack",
    "Durability",
    "EmbeddedServerError",
    "Finding",
    "GiftAmountExceeded",
    "IfSessionMissing",
    "InvalidRequest",
    "LimitExceeded",
    "LoyaltyPointsExceeded",
    "NotDurable",
    "OutcomeUnknown",
    "Pipeline",
    "QuantityExceeded",
    "Redeemable",
    "Redemption",
    "RedemptionConflict",
    "RedemptionNotFound",
    "RedemptionRolledBack",
    "Release",
    "Rollback",
    "RollbackExceeded",
    "ServerRefused",
    "ServerUnavailable",
    "Session",
    "SessionFields",
    "SessionLike",
    "SessionNotFound",
    "SessionType",
    "StackRedemption",
    "StackValidation",
    "TtlUnit",
    "UnknownFormat",
    "Used",
    "Validation",
    "Voucher",
    "VoucherExists",
    "VoucherNotFound",
    "VoucherSessions",
    "VoucherSessionsError",
    "VoucherState",
    "shortened",
]

# The modules that define these names. The ones that import least come first.
_MODULES = ("errors", "models", "results", "events", "pipelines", "engine", "aio")


def _version() -> str:
    """The version of the installed distribution, ``0+unknown`` for sources that are not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("voucher-sessions")
    except PackageNotFoundError:
        return "0+unknown"


if TYPE_CHECKING:
    from voucher_sessions.aio import AsyncVoucherSessions
    from voucher_sessions.engine import VoucherSessions
    from voucher_sessions.errors import (
        AdjustmentConflict,
        AdjustmentRefused,
        AmountRequired,
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
        RedemptionRolledBack,
        RollbackExceeded,
        ServerRefused,
        ServerUnavailable,
        SessionNotFound,
        UnknownFormat,
        VoucherExists,
        VoucherNotFound,
        VoucherSessionsError,
        shortened,
    )
    from voucher_sessions.events import CallEvent
    from voucher_sessions.models import (
        Durability,
        IfSessionMissing,
        Redeemable,
        Session,
        SessionFields,
        SessionLike,
        SessionType,
        TtlUnit,
        Used,
        Voucher,
    )
    from voucher_sessions.pipelines import AsyncPipeline, Pipeline
    from voucher_sessions.results import (
        ActiveSession,
        Adjustment,
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

    __version__: str
else:  # a type checker that sees a module's __getattr__ takes every name for defined

    def __getattr__(name: str) -> object:
        """Import a name when it is first used, so that importing the package alone loads neither redis nor pydantic."""
        if name == "__version__":
            globals()[name] = _version()
            return globals()[name]
        for module in _MODULES if name in __all__ else ():
            names = vars(import_module(f"{__name__}.{module}"))
            if name in names:
                globals()[name] = names[name]
                return names[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})

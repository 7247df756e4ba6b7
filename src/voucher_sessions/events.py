"""The event that an engine passes to its ``on_call`` functions after each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from voucher_sessions.results import Reason

Outcome = Literal[
    "ok",
    "replayed",
    "held",
    "used_up",
    "not_found",
    "amount_required",
    "conflict",
    "rolled_back",
    "exists",
    "refused",
    "invalid",
    "not_durable",
    "unknown",
    "unavailable",
    "server_refused",
    "corrupt",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """One call of a method of an engine: what was asked, how it ended, and how long it took.

    The outcomes:

    - ``ok``: the call was done; for a call that only reads, there was an answer.
    - ``replayed``: an earlier call with this id had done it, and this call changed nothing.
    - ``held``: refused; other live sessions have locked what is missing, so a later try can succeed.
    - ``used_up``: refused; the limit leaves too little even without the locks of other sessions.
    - ``not_found``: there is no such voucher, live session or redemption, also where that is not an error
      (validate, release, delete_voucher).
    - ``amount_required``: ``AmountRequired``.
    - ``conflict``: ``RedemptionConflict`` or ``AdjustmentConflict``.
    - ``rolled_back``: ``RedemptionRolledBack``.
    - ``exists``: ``VoucherExists``.
    - ``refused``: ``AdjustmentRefused`` or ``RollbackExceeded``.
    - ``invalid``: ``InvalidRequest``; nothing was sent.
    - ``not_durable``: ``NotDurable``; what the call changed or found was not confirmed in time.
    - ``unknown``: a change that may have taken effect: ``OutcomeUnknown``, or the call was interrupted or cancelled.
    - ``unavailable``: nothing has changed: ``ServerUnavailable``, or another error, for example one that the loader
      raised.
    - ``server_refused``: ``ServerRefused``.
    - ``corrupt``: ``CorruptState`` or ``UnknownFormat``.

    Attributes:
        verb: The name of the method that was called, for example ``redeem`` or ``redeem_stack``.
        codes: The codes of the vouchers. If a parameter was wrong, those codes that could be read.
        outcome: How the call ended: one of the above.
        reason: As in ``Validation.reason``: why a voucher was refused, ``not_found`` if there is no such voucher;
            otherwise None. For a stack it is the reason of the first voucher that was refused.
        locked_by_others: True if the outcome is ``held``.
        credits: The credits that the call locked, took, gave back or added, in minor units (cents). If it was refused,
            or only asked, the credits that it named. None if it has none, or if they are not known. For a stack the sum.
        points: The same of the points.
        redemption_id: The redemption id of the call, given or generated; None if it has none.
        session_key: The beginning of the session key of the call, given or generated; None if it has none.
        seconds: How long the call took, with its retries. For a call of a pipeline, how long the whole batch took. For
            ``iter_sessions``, the time that its calls took.
        error: The error that the call raised, or None. Its text and ``repr`` show no whole session key; its ``args``
            and its attributes have the whole key.
    """

    verb: str
    codes: tuple[str, ...]
    outcome: Outcome
    reason: Reason | None
    locked_by_others: bool
    credits: int | None
    points: int | None
    redemption_id: str | None
    session_key: str | None
    seconds: float
    error: BaseException | None


Observer = Callable[[CallEvent], object]
"""A function that is called after every call of an engine. An asyncio engine awaits what a coroutine function returns."""
OnCall = Observer | Sequence[Observer]
"""One observer, or several, which are called in turn."""

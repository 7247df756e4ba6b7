"""What users get back: frozen pydantic models. Times are UTC, durations milliseconds, amounts minor units."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from voucher_sessions.models import MAX_NUMBER, Model, SessionType, TtlUnit

Figure = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Reason = Literal["quantity_exceeded", "gift_amount_exceeded", "loyalty_card_points_exceeded", "not_found"]
Severity = Literal["error", "warning", "info"]


class Balance(Model):
    """One of a voucher's three books. ``available`` = limit - used - locked, never below 0; None is without limit."""

    limit: Figure | None
    used: Figure
    locked: Figure
    available: Figure | None


class VoucherState(Model):
    """A voucher as it stands: its three balances, the locks of live sessions counted in."""

    code: str
    quantity: Balance
    credits: Balance
    points: Balance


class Available(Model):
    """What one caller could use: the locks of other sessions subtracted, its own not. None is without limit."""

    quantity: Figure | None
    credits: Figure
    points: Figure


class ActiveSession(Model):
    """A live session of one voucher. ``ttl`` and ``ttl_unit`` are told by the validate call that set them alone."""

    key: str
    type: SessionType
    quantity: Figure
    credits: Figure
    points: Figure
    expires_at: datetime
    remaining_ms: Figure
    ttl: int | float | None = None
    ttl_unit: TtlUnit | None = None


class Validation(Model):
    """The answer of validate. ``session`` is the caller's live session: just locked, or, refused, as it was before.

    ``locked_by_others``: it would fit were it not for other live sessions. ``retry_after_ms``: until the next of those
    expires; None unless ``locked_by_others``.
    """

    code: str
    valid: bool
    reason: Reason | None
    locked_by_others: bool
    retry_after_ms: Figure | None
    available: Available
    session: ActiveSession | None


class Redemption(Model):
    """What a redemption took for good. ``replayed``: this call changed nothing, an earlier one with the same id did."""

    id: str
    code: str
    session_key: str | None
    quantity: Figure
    credits: Figure
    points: Figure
    redeemed_at: datetime
    rolled_back: bool
    replayed: bool


class Release(Model):
    """``released``: the session was live and its lock is gone; False: there was none."""

    code: str
    session_key: str
    released: bool


class Rollback(Model):
    """What a rollback gave back. ``replayed``: an earlier call did, this one changed nothing."""

    code: str
    redemption_id: str
    quantity: Figure
    credits: Figure
    points: Figure
    replayed: bool


class StackValidation(Model):
    """The answer of validate_stack: ``valid`` if all fit, and then all are locked; else nothing was changed.

    ``validations``: one a redeemable, in the request's order, each with a reason of its own. ``session``: the caller's
    live session on the vouchers of the stack taken together: the sums of what it locks, and its soonest expiry.
    """

    valid: bool
    session: ActiveSession | None
    validations: list[Validation]


class StackRedemption(Model):
    """What a stack's redemption took, voucher by voucher, under one id. ``replayed``: an earlier call did."""

    id: str
    redemptions: list[Redemption]
    replayed: bool


class Finding(Model):
    """Something of a server that the promises of the engine suffer from, and what to do about it.

    ``node``: the address of the server, '' where there is but one. ``severity``: error (vouchers can be lost or calls
    fail), warning (it matters on a bad day) or info (the server did not let itself be asked). ``subject``: a short word
    that stays the same, for programs; ``problem`` and ``remedy`` are for people.
    """

    node: str
    severity: Severity
    subject: str
    problem: str
    remedy: str


class Locked(Model):
    """What live sessions hold of a voucher, all together."""

    quantity: Figure
    credits: Figure
    points: Figure


class Audit(Model):
    """A voucher's totals of what is locked: ``recorded`` in its book, ``counted`` from the locks themselves.

    ``expiries_agree``: the book knows when the first and the last lock expire. ``differs``: there is something for
    ``repair`` to mend. ``exact``: False where the voucher changed while its many locks were counted, so that the
    figures are of no single moment.
    """

    code: str
    recorded: Locked
    counted: Locked
    expiries_agree: bool
    differs: bool
    exact: bool

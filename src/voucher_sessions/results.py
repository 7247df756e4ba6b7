"""What the engines return: frozen pydantic models. Times are UTC, durations milliseconds, amounts minor units."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from voucher_sessions.models import MAX_NUMBER, Model, RedemptionRow, SessionType, TtlUnit

Figure = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Change = Annotated[int, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Reason = Literal["quantity_exceeded", "gift_amount_exceeded", "loyalty_card_points_exceeded", "not_found"]
DifferenceKind = Literal["no_receipt", "no_row", "amounts", "rolled_back"]
Severity = Literal["error", "warning", "info"]


class Balance(Model):
    """A voucher's quantity, credits or points: how much of it there is, and what became of it.

    Attributes:
        limit: What the voucher can give in total; None is without limit.
        used: What was redeemed permanently.
        locked: What live sessions have locked.
        available: limit - used - locked, and never below 0; None is without limit.
    """

    limit: Figure | None
    used: Figure
    locked: Figure
    available: Figure | None


class VoucherState(Model):
    """A voucher's code and its three balances, at the time of the call.

    Attributes:
        code: The voucher's code.
        quantity: How often it can be redeemed.
        credits: Gift card credits, in minor units (cents).
        points: Loyalty points.
    """

    code: str
    quantity: Balance
    credits: Balance
    points: Balance


class Available(Model):
    """What one caller can redeem: the locks of other sessions are subtracted, the lock of its own session is not.

    Attributes:
        quantity: How often the voucher can be redeemed; None is without limit.
        credits: Gift card credits, in minor units (cents).
        points: Loyalty points.
    """

    quantity: Figure | None
    credits: Figure
    points: Figure


class ActiveSession(Model):
    """A live session on one voucher, and what it locks.

    Attributes:
        key: The session's key. Whoever knows it can redeem or release the session.
        type: What the session does; ``LOCK`` is the only type.
        quantity: The quantity that it locks, always 1; for a stack the sum over its vouchers.
        credits: The gift card credits that it locks, in minor units (cents).
        points: The loyalty points that it locks.
        expires_at: When it expires, in UTC, by the server's clock.
        remaining_ms: Milliseconds from the call until then.
        ttl: As given to ``validate`` or ``extend``. Only the call that set it returns it.
        ttl_unit: The unit of ``ttl``, returned with it.
    """

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
    """The result of ``validate``.

    Attributes:
        code: The voucher's code.
        valid: True if the voucher can be redeemed for these amounts; with a session, they are then locked.
        reason: Why it is not valid; None if it is.
        locked_by_others: True if it is not valid only because other live sessions have locked what is missing.
        retry_after_ms: Milliseconds until the next of those sessions expires; None unless ``locked_by_others``.
        available: What this caller can redeem.
        session: The caller's live session. If the request was refused, it is the session as it was before, or None.
    """

    code: str
    valid: bool
    reason: Reason | None
    locked_by_others: bool
    retry_after_ms: Figure | None
    available: Available
    session: ActiveSession | None


class Redemption(Model):
    """A redemption: what was taken from a voucher permanently.

    Attributes:
        id: The redemption id, given or generated.
        code: The voucher's code.
        session_key: The session key that the call named, also if that session was not live; None if the call named
            none.
        quantity: The quantity redeemed, always 1.
        credits: The gift card credits redeemed, in minor units (cents).
        points: The loyalty points redeemed.
        redeemed_at: When it was redeemed, in UTC, by the server's clock.
        rolled_back: True if a rollback without amounts was made since. Partial rollbacks do not change it.
        credits_rolled_back: How many of the credits were given back since, by all rollbacks together.
        points_rolled_back: How many of the points were given back since, by all rollbacks together.
        replayed: True if an earlier call with this id made the redemption, and this call changed nothing.
    """

    id: str
    code: str
    session_key: str | None
    quantity: Figure
    credits: Figure
    points: Figure
    redeemed_at: datetime
    rolled_back: bool
    credits_rolled_back: Figure
    points_rolled_back: Figure
    replayed: bool


class Release(Model):
    """The result of ``release``.

    Attributes:
        code: The voucher's code.
        session_key: The session's key.
        released: True if the session was live and its lock was released, False if the session was not live.
        ended: True if the session is not live, but its key in Redis shows that it was: it was released or redeemed in
            the last two minutes, or its voucher was deleted. False does not mean that there never was such a session.
    """

    code: str
    session_key: str
    released: bool
    ended: bool


class Rollback(Model):
    """The result of ``rollback``: what was given back to the voucher.

    Attributes:
        code: The voucher's code.
        redemption_id: The id of the redemption that was rolled back.
        id: The rollback id of a partial rollback, given or generated; None for a rollback without amounts.
        quantity: The quantity given back: 0 by a partial rollback, otherwise 1.
        credits: The gift card credits given back, in minor units (cents).
        points: The loyalty points given back.
        replayed: True if an earlier call rolled it back, and this call changed nothing.
    """

    code: str
    redemption_id: str
    id: str | None
    quantity: Figure
    credits: Figure
    points: Figure
    replayed: bool


class Adjustment(Model):
    """The result of ``adjust``: what was added to the limits of a voucher.

    Attributes:
        id: The adjustment id, given or generated.
        code: The voucher's code.
        quantity: What was added to the limit of the quantity; negative if the limit was lowered.
        credits: What was added to the limit of the credits, in minor units (cents); negative if it was lowered.
        points: What was added to the limit of the points; negative if it was lowered.
        voucher: The voucher as it is now; None if it was deleted since.
        replayed: True if an earlier call with this id made the adjustment, and this call changed nothing.
    """

    id: str
    code: str
    quantity: Change
    credits: Change
    points: Change
    voucher: VoucherState | None
    replayed: bool


class StackValidation(Model):
    """The result of ``validate_stack``.

    Attributes:
        valid: True if all vouchers are valid; with a session, all are then locked. False: nothing was changed.
        session: The caller's live session on all vouchers of the stack together: the sums of what it locks, and the
            time when the first of its locks expires.
        validations: The result for each voucher, in the order of the request.
    """

    valid: bool
    session: ActiveSession | None
    validations: list[Validation]


class StackRedemption(Model):
    """The result of ``redeem_stack``.

    Attributes:
        id: The redemption id of the whole stack, given or generated.
        redemptions: What was redeemed of each voucher, in the order of the request.
        replayed: True if an earlier call with this id made the redemption, and this call changed nothing.
    """

    id: str
    redemptions: list[Redemption]
    replayed: bool


class Finding(Model):
    """A problem with the setup of a server, and what to do about it.

    Attributes:
        node: The address of the server; empty if there is only one.
        severity: ``error``: sessions or redemptions can be lost, or calls fail. ``warning``: they can be lost, or
            calls can be slow, when something else fails. ``info``: the server does not let the user read this setting.
        subject: A short name of the problem for programs; it does not change between versions.
        problem: What is wrong, for people.
        remedy: What to do about it, for people.
    """

    node: str
    severity: Severity
    subject: str
    problem: str
    remedy: str


class Locked(Model):
    """What all live sessions of a voucher lock together.

    Attributes:
        quantity: The quantity locked: the number of sessions.
        credits: The gift card credits locked, in minor units (cents).
        points: The loyalty points locked.
    """

    quantity: Figure
    credits: Figure
    points: Figure


class Audit(Model):
    """The result of ``audit`` and ``repair``: the locked totals of a voucher, and the sum of its locks.

    Attributes:
        code: The voucher's code.
        recorded: The totals that are stored with the voucher.
        counted: The sum of the locks.
        expiries_agree: True if no lock expires before the stored first expiry or after the stored last one.
        differs: True if ``recorded`` or the stored times are wrong, so that ``repair`` has something to correct.
        exact: False if the voucher changed while its locks were counted, so that the sums are not of one moment.
    """

    code: str
    recorded: Locked
    counted: Locked
    expiries_agree: bool
    differs: bool
    exact: bool


class RowProblem(Model):
    """A row of an import that was not written.

    Attributes:
        position: The position of the row, from 0.
        problem: What is wrong with the row, or how Redis differs from it.
    """

    position: int
    problem: str


class BulkReport(Model):
    """The result of an import.

    Attributes:
        new: How many rows were written.
        known: How many rows Redis had already, without a conflict. With ``if_exists="update"``, also those that were
            updated.
        conflicting: The rows that differ from what Redis has already. They were not written.
        bad: The rows that are wrong, that name a missing voucher, or with ``if_exists="raise"`` one that exists.
    """

    new: Figure
    known: Figure
    conflicting: list[RowProblem]
    bad: list[RowProblem]


class Difference(Model):
    """A difference between a redemption that the shop has recorded and its receipt in Redis.

    Attributes:
        code: The voucher's code.
        id: The redemption id.
        kind: ``no_receipt``: Redis has no receipt for the row. ``no_row``: the shop has no row for the receipt.
            ``amounts``: they name other credits or points. ``rolled_back``: they differ in what was given back.
        row: What the shop has recorded; None if it has no such row.
        receipt: What Redis has; None if it has no receipt.
    """

    code: str
    id: str
    kind: DifferenceKind
    row: RedemptionRow | None
    receipt: Redemption | None

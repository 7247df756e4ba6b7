"""Receipts, the records of redemptions: how they are read, and the results of redeem, rollback and get_redemption."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, Self

from voucher_sessions._core.replies import Item, Reply, as_bytes, datetime_of, groups, limit_exceeded, without_status
from voucher_sessions._core.requests import VoucherRequest
from voucher_sessions.errors import FORMAT, RedemptionConflict, RedemptionRolledBack, UnknownFormat
from voucher_sessions.models import model_of
from voucher_sessions.results import Redemption, Rollback, StackRedemption


def stack_fingerprint(codes: Sequence[str]) -> str:
    """What the receipts of one redemption keep of the set of its vouchers; '-' for a single voucher."""
    if len(codes) == 1:
        return "-"
    return sha256(b"".join(b"%d:%b" % (len(code), code) for code in sorted(map(str.encode, codes)))).hexdigest()[:16]


class RedemptionRequest(NamedTuple):
    """What a call of redeem says of the redemption as a whole."""

    redemption_id: str
    session_key: str | None
    stack: str
    call_id: str


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
    stack: str
    rolled_back_by: str | None
    session_key: str | None

    @classmethod
    def read(cls, item: Item) -> Self:
        # The session key is the last field, because it may contain spaces.
        format_, fields = as_bytes(item).decode().split(" ", 1)
        if int(format_) > FORMAT:
            raise UnknownFormat("a receipt", int(format_))
        _life, quantity, credits, points, at, call_id, stack, rolled_back_by, key = fields.split(" ", 8)
        return cls(
            quantity=int(quantity),
            credits=int(credits),
            points=int(points),
            redeemed_at_ms=int(at),
            call_id=call_id,
            stack=stack,
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

    def matches(self, redemption: RedemptionRequest, voucher: VoucherRequest) -> bool:
        """Whether a request repeats this redemption: the same vouchers and session, and the amounts that it names."""
        return (
            redemption.session_key == self.session_key
            and redemption.stack == self.stack
            and voucher.credits in (None, self.credits)
            and voucher.points in (None, self.points)
        )


def receipts(reply: Reply) -> list[Receipt]:
    """The reply 'receipts', one per voucher."""
    return list(map(Receipt.read, without_status(reply, b"receipts")))


def redemptions(requested: Sequence[VoucherRequest], asked: RedemptionRequest, reply: Reply) -> list[Redemption]:
    """The reply 'receipts' or 'refused' to redeem. A receipt with another call id means a replay."""
    if reply[0] == b"refused":
        rows = groups(reply[1:], 8)
        refused = [limit_exceeded(request.code, row) for request, row in zip(requested, rows, strict=True)]
        first, *others = filter(None, refused)
        raise first.with_others(others)
    found = list(zip(requested, receipts(reply), strict=True))
    for request, receipt in found:
        if not receipt.matches(asked, request):
            raise RedemptionConflict(request.code, asked.redemption_id)
    redeemed = [
        receipt.redemption(request.code, asked.redemption_id, replayed=receipt.call_id != asked.call_id)
        for request, receipt in found
    ]
    for redemption in redeemed:
        # A retry of the client, with the same call id, gets its first result all the same.
        if redemption.rolled_back and redemption.replayed:
            raise RedemptionRolledBack(redemption.code, asked.redemption_id, redemption)
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

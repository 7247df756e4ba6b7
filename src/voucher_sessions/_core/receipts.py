"""Receipts of redemptions and partial rollbacks: how they are read, and the results made of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple, Self

from voucher_sessions._core.replies import (
    ForeignValue,
    Item,
    Reply,
    as_amount,
    as_bytes,
    datetime_of,
    from_stored,
    groups,
    limit_exceeded,
    without_status,
)
from voucher_sessions._core.requests import VoucherRequest
from voucher_sessions.errors import (
    FORMAT,
    InvalidRequest,
    RedemptionConflict,
    RedemptionRolledBack,
    RollbackExceeded,
)
from voucher_sessions.models import MAX_NUMBER, model_of
from voucher_sessions.results import Redemption, Rollback, StackRedemption

_UNKNOWN: Final = "?"  # the stack of an imported redemption


def stack_fingerprint(codes: Sequence[str]) -> str:
    """What the receipts of one redemption keep of the set of its vouchers; '-' for a single voucher."""
    if len(codes) == 1:
        return "-"
    return sha256(b"".join(b"%d:%b" % (len(code), code) for code in sorted(map(str.encode, codes)))).hexdigest()[:16]


def fields_of(value: bytes, count: int) -> list[str]:
    """The fields of a receipt behind its format. The last of them may contain spaces.

    Raises ``ForeignValue`` for a newer format, and an error of ``UNREADABLE`` for any other value that is not a receipt.
    """
    format_, *fields = value.decode().split(" ", count)
    if int(format_) > FORMAT and fields:
        raise ForeignValue(int(format_))
    if format_ != str(FORMAT) or len(fields) != count:
        raise ValueError("not the fields of a receipt")
    return fields


class RedemptionRequest(NamedTuple):
    """What a call of redeem says of the redemption as a whole."""

    redemption_id: str
    session_key: str | None
    stack: str
    call_id: str


class Receipt(NamedTuple):
    """The record of one redemption. redeem.lua writes it as fields with spaces between them.

    ``call_id`` and ``rolled_back_by`` are the call ids of the redeem and of the rollback without amounts. An engine
    uses them to distinguish a client library's automatic retry after a lost reply from a call that the caller repeats.
    ``credits_back`` and ``points_back`` are what partial rollbacks have given back. ``stack`` is '?' for a redemption
    that was imported: then it is not known whether it was part of a stack, nor, if there is no session key, whether it
    had a session.
    """

    quantity: int
    credits: int
    points: int
    redeemed_at: datetime
    call_id: str
    stack: str
    credits_back: int
    points_back: int
    rolled_back_by: str | None
    session_key: str | None

    @classmethod
    def read(cls, item: Item) -> Self:
        """The receipt in a reply. A script returns it as it is stored, so ``ForeignValue`` is raised for other values."""
        return from_stored(cls._of_value, as_bytes(item))

    @classmethod
    def _of_value(cls, value: bytes) -> Self:
        _life, quantity, credits, points, at, call_id, stack, given_back, key = fields_of(value, 9)
        credits_back, points_back, rolled_back_by = ("0,0,-" if given_back == "-" else given_back).split(",")
        amounts = int(quantity), int(credits), int(points), int(credits_back), int(points_back)
        if min(amounts) < 0 or max(amounts) > MAX_NUMBER:
            raise ValueError("out of range")
        if amounts[3] > amounts[1] or amounts[4] > amounts[2]:
            raise ValueError("more was given back than was taken")
        return cls(
            quantity=amounts[0],
            credits=amounts[1],
            points=amounts[2],
            redeemed_at=datetime_of(int(at)),
            call_id=call_id,
            stack=stack,
            credits_back=amounts[3],
            points_back=amounts[4],
            rolled_back_by=None if rolled_back_by == "-" else rolled_back_by,
            session_key=key or None,
        )

    @property
    def rolled_back(self) -> bool:
        """Whether a rollback without amounts was made."""
        return self.rolled_back_by is not None

    @property
    def has_nothing_left(self) -> bool:
        """Whether it was rolled back, or partial rollbacks have given back all credits and points, if it took any."""
        taken = self.credits, self.points
        return self.rolled_back or (taken != (0, 0) and taken == (self.credits_back, self.points_back))

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
                "redeemed_at": self.redeemed_at,
                "rolled_back": self.rolled_back,
                "credits_rolled_back": self.credits if self.rolled_back else self.credits_back,
                "points_rolled_back": self.points if self.rolled_back else self.points_back,
                "replayed": replayed,
            },
        )

    def rollback(self, code: str, redemption_id: str, *, replayed: bool) -> Rollback:
        return Rollback(
            code=code,
            redemption_id=redemption_id,
            id=None,
            quantity=self.quantity,
            credits=self.credits - self.credits_back,
            points=self.points - self.points_back,
            replayed=replayed,
        )

    def matches(self, redemption: RedemptionRequest, voucher: VoucherRequest) -> bool:
        """Whether a request repeats this redemption: the same vouchers and session, and the amounts that it names."""
        is_imported = self.stack == _UNKNOWN
        return (
            (redemption.session_key == self.session_key or (is_imported and self.session_key is None))
            and (redemption.stack == self.stack or is_imported)
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
    for (_, receipt), redemption in zip(found, redeemed, strict=True):
        # A retry of the client, with the same call id, gets its first result all the same.
        if receipt.has_nothing_left and redemption.replayed:
            raise RedemptionRolledBack(redemption.code, asked.redemption_id, redemption)
    return redeemed


def stack_redemption(redeemed: list[Redemption]) -> StackRedemption:
    """The redemptions of one call as one result."""
    return StackRedemption(id=redeemed[0].id, redemptions=redeemed, replayed=all(each.replayed for each in redeemed))


def only_redemption(code: str, redemption_id: str, reply: Reply) -> Redemption:
    """The reply 'receipts' to get_redemption."""
    (receipt,) = receipts(reply)
    return receipt.redemption(code, redemption_id, replayed=False)


def imported(code: str, redemption_id: str, call_id: str, reply: Reply) -> tuple[bool, Redemption]:
    """The reply 'receipts' or 'too_much' to an import: whether this call has written the receipt, and the receipt."""
    if reply[0] == b"too_much":
        raise InvalidRequest("credits", "would raise what is used of the voucher above 2^53 - 1")
    (receipt,) = receipts(reply)
    created = receipt.call_id == call_id
    return created, receipt.redemption(code, redemption_id, replayed=not created)


def rollbacks(codes: tuple[str, ...], redemption_id: str, call_id: str, reply: Reply) -> list[Rollback]:
    """The reply 'receipts' to rollback. ``call_id`` is the id of this call: another id means a replay."""
    return [
        receipt.rollback(code, redemption_id, replayed=receipt.rolled_back_by != call_id)
        for code, receipt in zip(codes, receipts(reply), strict=True)
    ]


def partial_rollback(
    code: str, redemption_id: str, rollback_id: str, credits: int, points: int, call_id: str, reply: Reply
) -> Rollback:
    """The reply 'rollback' or 'exceeded'. ``call_id`` is the id of this call: another id means a replay."""
    if reply[0] == b"exceeded":
        balance, requested = {1: ("credits", credits), 2: ("points", points)}[int(reply[1])]
        raise RollbackExceeded(code, redemption_id, balance, requested, as_amount(reply[2]))
    (item,) = without_status(reply, b"rollback")
    rolled_credits, rolled_points, rolled_by, rolled_redemption = from_stored(_rollback_of_value, as_bytes(item))
    if (rolled_credits, rolled_points, rolled_redemption) != (credits, points, redemption_id):
        raise RedemptionConflict(code, redemption_id, rollback_id)
    return Rollback(
        code=code,
        redemption_id=redemption_id,
        id=rollback_id,
        quantity=0,
        credits=credits,
        points=points,
        replayed=rolled_by != call_id,
    )


def _rollback_of_value(value: bytes) -> tuple[int, int, str, str]:
    """The fields of the receipt of a partial rollback: credits, points, call id and redemption id."""
    credits, points, call_id, redemption_id = fields_of(value, 4)
    return int(credits), int(points), call_id, redemption_id

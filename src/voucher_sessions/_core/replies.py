"""From what a script answered to what the user gets: a model, or an error of the domain.

A reply is a flat list of bytes and integers, the status first; the script's header tells what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from voucher_sessions._core.requests import Lock, Need
from voucher_sessions.errors import (
    GiftAmountExceeded,
    InvalidRequest,
    LimitExceeded,
    LoyaltyPointsExceeded,
    QuantityExceeded,
    RedemptionConflict,
)
from voucher_sessions.models import MAX_NUMBER, SessionType, model_of
from voucher_sessions.results import (
    ActiveSession,
    Balance,
    Reason,
    Redemption,
    Release,
    Rollback,
    StackRedemption,
    StackValidation,
    Validation,
    VoucherState,
)

# What a reply is made of.
Item = bytes | int
Reply = Sequence[Item]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_REASONS: Final[dict[Item, Reason | None]] = {
    b"": None,
    b"quantity_exceeded": "quantity_exceeded",
    b"gift_amount_exceeded": "gift_amount_exceeded",
    b"loyalty_card_points_exceeded": "loyalty_card_points_exceeded",
    b"not_found": "not_found",
}


def moment(ms: int) -> datetime:
    """A server time in ms as UTC."""
    return _EPOCH + timedelta(0, 0, 0, ms)


def expect(reply: Reply, status: bytes) -> Reply:
    """What follows the status, when it is the one expected."""
    if reply[0] != status:
        raise ValueError(f"status {reply[0]!r}")
    return reply[1:]


def chunks(items: Reply, size: int) -> list[Reply]:
    """The items of a reply in groups, one a voucher; a last one that is too short is told by who takes it apart."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def voucher_state(code: str, reply: Reply) -> VoucherState:
    """The reply 'state'."""
    limit, used, locked = chunks(expect(reply, b"state"), 3)
    quantity, credits, points = map(_balance, limit, used, locked)
    return VoucherState(code=code, quantity=quantity, credits=credits, points=points)


def _balance(limit: Item, used: Item, locked: Item) -> Balance:
    limit, used, locked = int(limit), int(used), int(locked)
    if limit < 0:
        return Balance(limit=None, used=used, locked=locked, available=None)
    return Balance(limit=limit, used=used, locked=locked, available=max(0, limit - used - locked))


def validation(code: str, now_ms: int, row: Reply, *, lock: Lock | None, locked: bool) -> Validation:
    """One voucher's row of the reply 'answered'; ``locked``: this call has just set the lock."""
    told, held, retry_after_ms, quantity, credits, points, expires_at_ms, own_credits, own_points = row
    reason, locked_by_others = _REASONS[told], yes(held)
    if locked_by_others and reason is None:
        raise ValueError("it fits, and yet the locks of others are in the way")
    if locked and not expires_at_ms:
        raise ValueError("locked, and yet there is no lock")
    # All models at once: one by one they take pydantic half as long again.
    return model_of(
        Validation,
        {
            "code": code,
            "valid": reason is None,
            "reason": reason,
            "locked_by_others": locked_by_others,
            "retry_after_ms": retry_after_ms if locked_by_others else None,
            "available": {"quantity": None if int(quantity) < 0 else quantity, "credits": credits, "points": points},
            "session": None
            if lock is None or not expires_at_ms
            else _live(lock.key, now_ms, int(expires_at_ms), own_credits, own_points, lock if locked else None),
        },
    )


def _live(
    key: str, now_ms: int, expires_at_ms: int, credits: Item, points: Item, lock: Lock | None = None
) -> dict[str, object]:
    """The fields of an ``ActiveSession``; ``lock`` is what the call asked for that has just set it."""
    return {
        "key": key,
        "type": SessionType.LOCK,
        "quantity": 1,
        "credits": credits,
        "points": points,
        "expires_at": moment(expires_at_ms),
        "remaining_ms": max(
            0, expires_at_ms - now_ms
        ),  # a call that was sent again may be answered after its lock's time
        "ttl": lock.ttl if lock else None,
        "ttl_unit": lock.ttl_unit if lock else None,
    }


def active_sessions(reply: Reply) -> list[ActiveSession]:
    """The reply 'sessions'."""
    now_ms, *items = expect(reply, b"sessions")
    sessions: list[ActiveSession] = []
    for member, expires_at_ms in chunks(items, 2):
        credits, points, key = _bytes(member).split(b" ", 2)
        live = _live(key.decode(), int(now_ms), int(float(expires_at_ms)), int(credits), int(points))
        sessions.append(model_of(ActiveSession, live))
    return sessions


_LIMIT_ERRORS: Final[dict[Reason, tuple[type[LimitExceeded], str]]] = {
    "quantity_exceeded": (QuantityExceeded, "quantity"),
    "gift_amount_exceeded": (GiftAmountExceeded, "credits"),
    "loyalty_card_points_exceeded": (LoyaltyPointsExceeded, "points"),
}


def limit_exceeded(code: str, row: Reply) -> LimitExceeded | None:
    """One voucher's row of the reply 'refused'; None when this one was not in the way."""
    credits, points, *judged = row
    verdict = validation(code, 0, [*judged, 0, 0, 0], lock=None, locked=False)
    if verdict.reason is None:
        return None
    error, balance = _LIMIT_ERRORS[verdict.reason]
    requested = {"quantity": 1, "credits": figure(credits), "points": figure(points)}
    return error(
        code,
        verdict.reason,
        requested=requested[balance],
        available=getattr(verdict.available, balance) or 0,  # None: without limit, and yet at the end of all numbers
        locked_by_others=verdict.locked_by_others,
        retry_after_ms=verdict.retry_after_ms,
    )


class Receipt(NamedTuple):
    """The record of one redemption, as redeem.lua writes it: words, and the session key, which may hold spaces, last.

    ``call`` and ``rolled_back_by`` are random words of the calls that redeemed and rolled back. They tell a call that a
    client library repeated by itself, because the reply was lost, from one that the user repeated.
    """

    quantity: int
    credits: int
    points: int
    redeemed_at_ms: int
    call: str
    rolled_back_by: str | None
    session_key: str | None

    @classmethod
    def read(cls, item: Item) -> Self:
        _life, quantity, credits, points, at, call, rolled_back_by, key = _bytes(item).decode().split(" ", 7)
        return cls(
            quantity=int(quantity),
            credits=int(credits),
            points=int(points),
            redeemed_at_ms=int(at),
            call=call,
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
                "redeemed_at": moment(self.redeemed_at_ms),
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

    def agrees(self, session_key: str | None, credits: int | None, points: int | None) -> bool:
        """Whether a request is the one that this receipt is of: same session, and the amounts that it names."""
        return session_key == self.session_key and credits in (None, self.credits) and points in (None, self.points)


def _bytes(item: Item) -> bytes:
    if not isinstance(item, bytes):
        raise TypeError(f"bytes expected, not {item!r}")
    return item


def agreed(fingerprint: str, reply: Reply) -> None:
    """The reply 'partition'; raises where the engines that came first map codes in another way."""
    (remembered,) = expect(reply, b"partition")
    if _bytes(remembered).decode() != fingerprint:
        raise InvalidRequest(
            "partition",
            "maps codes in another way than the engines that used this prefix before, and would not find their "
            "vouchers. Give all engines of a prefix the same partition, or a prefix of their own",
        )


def yes(item: Item) -> bool:
    """1 or 0, and nothing else."""
    if item not in (0, 1):
        raise ValueError("neither yes nor no")
    return item == 1


def figure(item: Item) -> int:
    """A number that no model checks."""
    if not 0 <= int(item) <= MAX_NUMBER:
        raise ValueError("out of range")
    return int(item)


def deleted(reply: Reply) -> bool:
    """The reply 'deleted'."""
    (existed,) = expect(reply, b"deleted")
    return yes(existed)


def refusals(commands: Sequence[str], reply: Reply) -> dict[str, str]:
    """The reply 'tried': why each command was refused."""
    return {
        command: _bytes(refusal).decode() for command, refusal in zip(commands, expect(reply, b"tried"), strict=True)
    }


def redemption_of(code: str, redemption_id: str, reply: Reply) -> Redemption:
    """The reply 'receipts' to get_redemption."""
    (receipt,) = receipts(reply)
    return receipt.redemption(code, redemption_id, replayed=False)


def rollbacks(codes: tuple[str, ...], redemption_id: str, call: str, reply: Reply) -> list[Rollback]:
    """The reply 'receipts' to rollback; ``call`` is the call's own random word."""
    return [
        receipt.rollback(code, redemption_id, replayed=receipt.rolled_back_by != call)
        for code, receipt in zip(codes, receipts(reply), strict=True)
    ]


def stack_redemption(redeemed: list[Redemption]) -> StackRedemption:
    """The redemptions of one call as a whole."""
    return StackRedemption(id=redeemed[0].id, redemptions=redeemed, replayed=all(each.replayed for each in redeemed))


def validations(codes: tuple[str, ...], lock: Lock | None, reply: Reply) -> list[Validation]:
    """The reply 'answered', one a voucher."""
    now_ms, *rows = expect(reply, b"answered")
    by_voucher = chunks(rows, 9)
    locked = lock is not None and all(row[0] == b"" for row in by_voucher)
    return [
        validation(code, int(now_ms), row, lock=lock, locked=locked)
        for code, row in zip(codes, by_voucher, strict=True)
    ]


def only_validation(codes: tuple[str, ...], lock: Lock | None, reply: Reply) -> Validation:
    """The same of one voucher, without the detours of a list."""
    (code,) = codes
    now_ms, *row = expect(reply, b"answered")
    return validation(code, int(now_ms), row, lock=lock, locked=lock is not None and row[0] == b"")


def stack_validation(codes: tuple[str, ...], lock: Lock | None, reply: Reply) -> StackValidation:
    """The reply 'answered' as a whole."""
    answers = validations(codes, lock, reply)
    live = [answer.session for answer in answers if answer.session is not None]
    session = None
    if live:
        soonest = min(live, key=lambda each: each.remaining_ms)
        sums = {name: sum(getattr(each, name) for each in live) for name in ("quantity", "credits", "points")}
        session = soonest.model_copy(update=sums)
    return StackValidation(valid=all(answer.valid for answer in answers), session=session, validations=answers)


def releases(codes: tuple[str, ...], session_key: str, reply: Reply) -> list[Release]:
    """The reply 'released', one a voucher."""
    return [
        Release(code=code, session_key=session_key, released=yes(released))
        for code, released in zip(codes, expect(reply, b"released"), strict=True)
    ]


def receipts(reply: Reply) -> list[Receipt]:
    """The reply 'receipts', one a voucher."""
    return list(map(Receipt.read, expect(reply, b"receipts")))


def redemptions(
    needs: Sequence[Need], session_key: str | None, redemption_id: str, call: str, reply: Reply
) -> list[Redemption]:
    """The reply 'receipts' or 'refused' to redeem; ``call`` is the call's own random word."""
    if reply[0] == b"refused":
        refused = [limit_exceeded(need.code, row) for need, row in zip(needs, chunks(reply[1:], 8), strict=True)]
        first, *others = filter(None, refused)
        first.others = tuple(others)
        raise first
    redeemed: list[Redemption] = []
    for need, receipt in zip(needs, receipts(reply), strict=True):
        if not receipt.agrees(session_key, need.credits, need.points):
            raise RedemptionConflict(need.code, redemption_id)
        redeemed.append(receipt.redemption(need.code, redemption_id, replayed=receipt.call != call))
    return redeemed

"""Turns replies of the scripts into results, or into the errors of refusals.

A reply is a flat list of bytes and integers. ``Call.result`` has removed the call id at its beginning, so here the
first item is the status; the header of each script documents what follows it. ``receipts.py`` and ``adjustments.py``
read the replies that contain receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from voucher_sessions._core.requests import SessionRequest
from voucher_sessions.errors import (
    GiftAmountExceeded,
    InvalidRequest,
    LimitExceeded,
    LoyaltyPointsExceeded,
    QuantityExceeded,
)
from voucher_sessions.models import MAX_NUMBER, SessionType, model_of
from voucher_sessions.results import (
    ActiveSession,
    Balance,
    Reason,
    Release,
    StackValidation,
    Validation,
    VoucherState,
)

T = TypeVar("T")
Item = bytes | int
Reply = Sequence[Item]

# What reading a value of a wrong form raises. pydantic's ValidationError is a ValueError.
UNREADABLE: Final = (TypeError, ValueError, LookupError, ArithmeticError)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_REASONS: Final[dict[Item, Reason | None]] = {
    b"": None,
    b"quantity_exceeded": "quantity_exceeded",
    b"gift_amount_exceeded": "gift_amount_exceeded",
    b"loyalty_card_points_exceeded": "loyalty_card_points_exceeded",
    b"not_found": "not_found",
}
_LIMIT_ERRORS: Final[dict[Reason, tuple[type[LimitExceeded], str]]] = {
    "quantity_exceeded": (QuantityExceeded, "quantity"),
    "gift_amount_exceeded": (GiftAmountExceeded, "credits"),
    "loyalty_card_points_exceeded": (LoyaltyPointsExceeded, "points"),
}


class ForeignValue(Exception):
    """A script has returned a stored value as it is, and this library did not write it, or a newer version did.

    ``format`` is the number of the newer format; None if the value has no format of this library.
    """

    def __init__(self, format: int | None = None) -> None:
        super().__init__()
        self.format = format


def from_stored(read: Callable[..., T], *values: Any) -> T:
    """What ``read`` makes of stored values. ``ForeignValue`` if they have no form that this library writes."""
    try:
        return read(*values)
    except UNREADABLE:
        raise ForeignValue from None


def ms_of(time: datetime) -> int:
    """A datetime as ms since 1970, rounded down."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def datetime_of(ms: int) -> datetime:
    """A server time in ms as a datetime in UTC."""
    return _EPOCH + timedelta(0, 0, 0, ms)


def without_status(reply: Reply, status: bytes) -> Reply:
    """The items after the status; ``ValueError`` if the reply has another status."""
    if reply[0] != status:
        raise ValueError(f"status {reply[0]!r}")
    return reply[1:]


def groups(items: Reply, size: int) -> list[Reply]:
    """The items in groups of ``size``, one per voucher. The last may be too short; to unpack it raises an error."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def as_bytes(item: Item) -> bytes:
    if not isinstance(item, bytes):
        raise TypeError(f"bytes expected, not {item!r}")
    return item


def as_bool(item: Item) -> bool:
    """1 or 0 as a bool; ``ValueError`` for any other item."""
    if item not in (0, 1):
        raise ValueError("neither 0 nor 1")
    return item == 1


def as_amount(item: Item) -> int:
    """A number that no pydantic model checks."""
    if not 0 <= int(item) <= MAX_NUMBER:
        raise ValueError("out of range")
    return int(item)


def voucher_state(code: str, reply: Reply) -> VoucherState:
    """The reply 'state'."""
    return voucher_of(code, without_status(reply, b"state"))


def voucher_put(code: str, reply: Reply) -> tuple[bool, VoucherState]:
    """The reply 'put': whether this call has created the voucher, and the voucher."""
    created, *figures = without_status(reply, b"put")
    return as_bool(created), voucher_of(code, figures)


def voucher_of(code: str, figures: Reply) -> VoucherState:
    """A voucher from its limits, and what is used and locked."""
    limit, used, locked = groups(figures, 3)
    quantity, credits, points = map(_balance, limit, used, locked)
    return VoucherState(code=code, quantity=quantity, credits=credits, points=points)


def _balance(limit: Item, used: Item, locked: Item) -> Balance:
    limit, used, locked = int(limit), int(used), int(locked)
    if limit < 0:
        return Balance(limit=None, used=used, locked=locked, available=None)
    return Balance(limit=limit, used=used, locked=locked, available=max(0, limit - used - locked))


def deleted(reply: Reply) -> bool:
    """The reply 'deleted'."""
    (existed,) = without_status(reply, b"deleted")
    return as_bool(existed)


def validation(code: str, now_ms: int, row: Reply, *, session: SessionRequest | None, locked: bool) -> Validation:
    """One voucher's row of the reply 'answered'. ``locked``: this call has set the session's lock."""
    status, others_item, retry_after_ms, quantity, credits, points, expires_at_ms, own_credits, own_points = row
    reason, locked_by_others = _REASONS[status], as_bool(others_item)
    if locked_by_others and reason is None:
        raise ValueError("locked_by_others without a reason")
    if locked and not expires_at_ms:
        raise ValueError("locked, but without an expiry")
    # One call for all nested models: to make each of them separately takes pydantic half as long again.
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
            if session is None or not expires_at_ms
            else _active_session(
                session.key, now_ms, int(expires_at_ms), own_credits, own_points, session if locked else None
            ),
        },
    )


def _active_session(
    key: str, now_ms: int, expires_at_ms: int, credits: Item, points: Item, request: SessionRequest | None = None
) -> dict[str, object]:
    """The fields of an ``ActiveSession``. ``request`` is given if this call has set the lock; it knows the ``ttl``."""
    return {
        "key": key,
        "type": SessionType.LOCK,
        "quantity": 1,
        "credits": credits,
        "points": points,
        "expires_at": datetime_of(expires_at_ms),
        # Not below 0: the retry of a call may be answered after its lock has expired.
        "remaining_ms": max(0, expires_at_ms - now_ms),
        "ttl": request.ttl if request else None,
        "ttl_unit": request.ttl_unit if request else None,
    }


def validations(codes: tuple[str, ...], session: SessionRequest | None, reply: Reply) -> list[Validation]:
    """The reply 'answered', one per voucher."""
    now_ms, *items = without_status(reply, b"answered")
    rows = groups(items, 9)
    locked = session is not None and all(row[0] == b"" for row in rows)
    return [
        validation(code, int(now_ms), row, session=session, locked=locked)
        for code, row in zip(codes, rows, strict=True)
    ]


def only_validation(codes: tuple[str, ...], session: SessionRequest | None, reply: Reply) -> Validation:
    """The reply 'answered' for one voucher. It takes less time than ``validations``, and validate is called most."""
    (code,) = codes
    now_ms, *row = without_status(reply, b"answered")
    locked = session is not None and row[0] == b""
    return validation(code, int(now_ms), row, session=session, locked=locked)


def stack_validation(codes: tuple[str, ...], session: SessionRequest | None, reply: Reply) -> StackValidation:
    """The reply 'answered' as one result. Its session has the sums of the amounts, and the soonest expiry."""
    results = validations(codes, session, reply)
    live = [each.session for each in results if each.session is not None]
    combined = None
    if live:
        soonest = min(live, key=lambda each: each.remaining_ms)
        sums = {name: sum(getattr(each, name) for each in live) for name in ("quantity", "credits", "points")}
        combined = soonest.model_copy(update=sums)
    return StackValidation(valid=all(each.valid for each in results), session=combined, validations=results)


def limit_exceeded(code: str, row: Reply) -> LimitExceeded | None:
    """One voucher's row of the reply 'refused'; None if this voucher is not a reason for the refusal."""
    credits, points, *judged = row
    result = validation(code, 0, [*judged, 0, 0, 0], session=None, locked=False)
    if result.reason is None:
        return None
    error, balance = _LIMIT_ERRORS[result.reason]
    requested = {"quantity": 1, "credits": as_amount(credits), "points": as_amount(points)}
    return error(
        code,
        result.reason,
        requested=requested[balance],
        available=getattr(result.available, balance) or 0,  # None: no limit, but used would exceed 2^53 - 1
        locked_by_others=result.locked_by_others,
        retry_after_ms=result.retry_after_ms,
    )


class ListedSession(NamedTuple):
    """A session, and its place in the index, from which a walk over the index continues."""

    expires_at_ms: int
    member: bytes
    session: ActiveSession


def listed_sessions(reply: Reply) -> list[ListedSession]:
    """The reply 'sessions'."""
    now_ms, *items = without_status(reply, b"sessions")
    now_ms = int(now_ms)
    return [
        from_stored(_listed_session, now_ms, as_bytes(item), float(expires_item))
        for item, expires_item in groups(items, 2)
    ]


def _listed_session(now_ms: int, member: bytes, expires_at: float) -> ListedSession:
    """A member of the index, with its score. No script has checked them."""
    expires_at_ms = int(expires_at)
    credits, points, key = member.split(b" ", 2)
    fields = _active_session(key.decode(), now_ms, expires_at_ms, int(credits), int(points))
    return ListedSession(expires_at_ms, member, model_of(ActiveSession, fields))


def active_sessions(reply: Reply) -> list[ActiveSession]:
    """The reply 'sessions', without the places in the index."""
    return [each.session for each in listed_sessions(reply)]


def live_sessions(vouchers: int, session_key: str, request: SessionRequest | None, reply: Reply) -> list[ActiveSession]:
    """The reply 'live', one per voucher. ``request`` is given if this call has set the expiry; it has the ``ttl``."""
    now_ms, *items = without_status(reply, b"live")
    if len(items) != 3 * vouchers:
        raise ValueError(f"{len(items)} items for {vouchers} vouchers")
    return [
        model_of(ActiveSession, _active_session(session_key, int(now_ms), int(expires_at_ms), credits, points, request))
        for expires_at_ms, credits, points in groups(items, 3)
    ]


# What became of a session: it was not live, it was released, it had ended before.
_RELEASED: Final[dict[Item, dict[str, bool]]] = {
    0: {"released": False, "ended": False},
    1: {"released": True, "ended": False},
    2: {"released": False, "ended": True},
}


def releases(codes: tuple[str, ...], session_key: str, reply: Reply) -> list[Release]:
    """The reply 'released', one per voucher."""
    return [
        Release(code=code, session_key=session_key, **_RELEASED[state])
        for code, state in zip(codes, without_status(reply, b"released"), strict=True)
    ]


def check_partition(fingerprint: str, reply: Reply) -> None:
    """The reply 'partition'; ``InvalidRequest`` if earlier engines of this prefix map codes in another way."""
    (stored,) = without_status(reply, b"partition")
    if as_bytes(stored).decode() != fingerprint:
        raise InvalidRequest(
            "partition",
            "maps codes in another way than the engines that used this prefix before, and would not find their "
            "vouchers. Give all engines of a prefix the same partition, or use another prefix",
        )


def refusals(commands: Sequence[str], reply: Reply) -> dict[str, str]:
    """The reply 'tried': for each command the error with which it was refused, or ''."""
    return {
        command: as_bytes(refusal).decode()
        for command, refusal in zip(commands, without_status(reply, b"tried"), strict=True)
    }

"""Checks the arguments of the verbs, and fills in defaults, generated keys and generated ids."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from types import NoneType
from typing import Annotated, Any, Final, NamedTuple, TypeVar

from pydantic import Field

from voucher_sessions.errors import InvalidRequest
from voucher_sessions.models import (
    Amount,
    Checker,
    IfSessionMissing,
    Redeemable,
    Session,
    SessionLike,
    SessionType,
    Text,
    TtlUnit,
    checked_model,
    is_a,
    ttl_in_ms,
)

check_text = Checker(Text)
check_amount = Checker(Amount)
check_optional_amount = Checker(Amount | None)
check_if_session_missing = Checker(IfSessionMissing)
check_list_limit = Checker(Annotated[int, Field(strict=True, ge=1, le=10_000)])

MAX_STACK: Final = 30
_SESSION_FIELDS: Final = frozenset(Session.model_fields)
# Exactly these types: a subclass may override any method.
_PLAIN_TYPES: Final = frozenset((str, int, float, NoneType, SessionType, TtlUnit))
_T = TypeVar("_T")

_LETTERS: Final = (string.ascii_letters + string.digits).encode()
# Byte values 0 to 247 map to each of the 62 characters four times. Values 248 to 255 are discarded: to map them as well
# would make some characters more likely than others.
_LETTER_OF_BYTE: Final = _LETTERS * 4 + bytes(8)
_DISCARDED_BYTES: Final = bytes(range(248, 256))


def random_text(length: int) -> str:
    """Random letters and digits from the system's cryptographic source; 32 characters have 190 bits of entropy."""
    letters = b""
    while len(letters) < length:
        letters += secrets.token_bytes(2 * length).translate(_LETTER_OF_BYTE, _DISCARDED_BYTES)
    return letters[:length].decode()


def new_call_id() -> str:
    """The idempotency token of one call: a script uses it to recognise a repeated run of the same call.

    It need only differ from the ids of other calls on the same session or redemption. It is no secret.
    """
    return secrets.token_bytes(4).hex()


class VoucherRequest(NamedTuple):
    """The amounts requested of one voucher. None means 0 in validate, and in redeem what the session has locked."""

    code: str
    credits: int | None
    points: int | None


def voucher_request(code: str, credits: int | None, points: int | None) -> VoucherRequest:
    """The checked request of one voucher."""
    return VoucherRequest(
        check_text("code", code), check_optional_amount("credits", credits), check_optional_amount("points", points)
    )


def stack_requests(redeemables: Sequence[Redeemable]) -> list[VoucherRequest]:
    """The checked requests of a stack: 1 to 30 vouchers, no code twice."""
    items = _stack_items("redeemables", redeemables)
    if not all(is_a(each, Redeemable) for each in items):
        raise InvalidRequest("redeemables", "must be a list of Redeemable")
    checked = [checked_model(f"redeemables.{at}", Redeemable, each) for at, each in enumerate(items)]
    _check_distinct("redeemables", [each.code for each in checked])
    return [VoucherRequest(each.code, each.credits, each.points) for each in checked]


def check_codes(field: str, codes: Sequence[str]) -> tuple[str, ...]:
    """The checked codes of a stack: 1 to 30, no code twice."""
    checked = tuple(check_text(f"{field}.{at}", code) for at, code in enumerate(_stack_items(field, codes)))
    _check_distinct(field, checked)
    return checked


def _stack_items(field: str, sequence: Sequence[_T]) -> Sequence[_T]:
    """The 1 to 30 items of a sequence.

    It is iterated only once, and only as far as needed: an object of the application may return other items each time, or
    never end.
    """
    try:
        is_list = isinstance(sequence, Sequence) and not issubclass(type(sequence), str)
        items = list(islice(sequence, MAX_STACK + 1)) if is_list else None
    except Exception:  # from a method of the application's object
        items = None
    if items is None:
        raise InvalidRequest(field, "must be a list")
    if not 1 <= len(items) <= MAX_STACK:
        raise InvalidRequest(field, f"must have 1 to {MAX_STACK} items")
    return items


def _check_distinct(field: str, codes: Sequence[str]) -> None:
    if len(set(codes)) < len(codes):
        raise InvalidRequest(field, "must not name a code twice")


class SessionRequest(NamedTuple):
    """The session that validate establishes: its key, and its time to live with defaults filled in."""

    key: str
    ttl: int | float
    ttl_unit: TtlUnit
    ttl_ms: int


def session_request(session: SessionLike) -> SessionRequest:
    """The session to establish. An absent key is generated, an absent time to live is 7 days."""
    request = _request_from_plain_values(session)
    if request is not None:
        return request
    checked = _session(session)
    return _request(checked.key, *_time_to_live(checked.type, checked.ttl, checked.ttl_unit))


def _request(key: str | None, ttl: int | float, unit: TtlUnit, ttl_ms: int) -> SessionRequest:
    return SessionRequest(key or "ssn_" + random_text(32), ttl, unit, ttl_ms)


def _request_from_plain_values(session: SessionLike) -> SessionRequest | None:
    """A faster ``session_request`` for a ``Session`` or a dict of plain values, which is what nearly all callers pass.

    Type and time to live are the same in most calls, so the check of them is cached. None if the session is of another
    kind or invalid: the slower path decides, and raises the error.
    """
    fields: Any = session if type(session) is dict else session.__dict__ if type(session) is Session else None
    try:
        if not _SESSION_FIELDS.issuperset(fields) or not _PLAIN_TYPES.issuperset(map(type, fields.values())):
            return None
        key = fields.get("key")
        checked_key = None if key is None else check_text("session.key", key)
        return _request(
            checked_key, *_cached_time_to_live(fields.get("type"), fields.get("ttl"), fields.get("ttl_unit"))
        )
    except Exception:  # the slower path raises the error that describes it
        return None


@lru_cache(maxsize=1024, typed=True)
def _cached_time_to_live(type_: Any, ttl: Any, ttl_unit: Any) -> tuple[int | float, TtlUnit, int]:
    checked = Session(type=type_, ttl=ttl, ttl_unit=ttl_unit)
    return _time_to_live(checked.type, checked.ttl, checked.ttl_unit)


def _time_to_live(
    type_: SessionType | None, ttl: int | float | None, unit: TtlUnit | None
) -> tuple[int | float, TtlUnit, int]:
    """Value, unit and milliseconds of the time to live; 7 DAYS if none is given."""
    if type_ is None:
        raise InvalidRequest("session.type", "is required to establish a session")
    if ttl is None or unit is None:
        ttl, unit = 7, TtlUnit.DAYS
    return ttl, unit, ttl_in_ms(ttl, unit)


def session_key(session: SessionLike | str) -> str:
    """The key of an existing session. The other fields of a session object have no effect."""
    if is_a(session, str):
        return check_text("session", session)
    key = _session(session).key
    if key is None:
        raise InvalidRequest("session.key", "is required to redeem a session")
    return key


def _session(session: object) -> Session:
    if is_a(session, Session):
        return checked_model("session", Session, session)
    fields = _fields(session)
    try:
        return Session(**fields)
    except InvalidRequest as error:
        raise InvalidRequest(f"session.{error.field}", error.problem) from None


def _fields(session: object) -> dict[str, Any]:
    """The names and values of a mapping. It is iterated only once, and not beyond the first 30: it may be endless."""
    try:
        if isinstance(session, Mapping):
            # str.__str__ converts names of a subclass of str to str, and raises TypeError for any other type.
            return {str.__str__(name): value for name, value in islice(session.items(), MAX_STACK)}
    except Exception:
        raise InvalidRequest("session", "must be a Session or a mapping whose names are text") from None
    raise InvalidRequest("session", "must be a Session or a mapping")


def duration_in_ms(field: str, value: float | timedelta | None) -> int | None:
    """A duration in seconds, or a timedelta, in whole milliseconds; None stays None."""
    if value is None:
        return None
    # The method of timedelta itself: a subclass may override it.
    seconds: Any = timedelta.total_seconds(value) if is_a(value, timedelta) else value
    try:
        checked = Session(ttl=seconds, ttl_unit=TtlUnit.SECONDS)
    except InvalidRequest as error:
        raise InvalidRequest(field, error.problem) from None
    assert checked.ttl is not None
    return ttl_in_ms(checked.ttl, TtlUnit.SECONDS)

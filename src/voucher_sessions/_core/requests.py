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
    MAX_NUMBER,
    MAX_TTL_MS,
    Amount,
    Checker,
    IfExists,
    IfSessionMissing,
    Redeemable,
    RedeemableLike,
    Session,
    SessionLike,
    SessionType,
    Text,
    TtlUnit,
    TtlUnitName,
    checked_model,
    is_a,
    ttl_in_ms,
)
from voucher_sessions.results import ActiveSession

check_text = Checker(Text)
check_amount = Checker(Amount)
check_optional_amount = Checker(Amount | None)
check_change = Checker(Annotated[int, Field(strict=True, ge=-MAX_NUMBER, le=MAX_NUMBER)])
check_if_session_missing = Checker(IfSessionMissing)
check_if_exists = Checker(IfExists)
check_list_limit = Checker(Annotated[int, Field(strict=True, ge=1, le=10_000)])

MAX_STACK: Final = 30
_MIN_RECEIPT_TTL_MS: Final = 10 * 60_000
_WEEK_MS: Final = 7 * 86_400_000
_SESSION_FIELDS: Final = frozenset(Session.model_fields)
_ACTIVE_SESSION_FIELDS: Final = frozenset(ActiveSession.model_fields)
_ACTIVE_ONLY_FIELDS: Final = _ACTIVE_SESSION_FIELDS - _SESSION_FIELDS
# Exactly these types: a subclass may override any method.
_PLAIN_TYPES: Final = frozenset((str, int, float, NoneType, SessionType, TtlUnit))
_TEXT_ALONE: Final = frozenset((str,))
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

    The reply begins with it, so it also shows whose reply it is. 11 characters have 65 bits of entropy. It is no secret.
    """
    return random_text(11)


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


def stack_requests(redeemables: Sequence[RedeemableLike]) -> list[VoucherRequest]:
    """The checked requests of a stack: 1 to 30 vouchers, no code twice."""
    items = _stack_items("redeemables", redeemables)
    checked = [_redeemable(f"redeemables.{at}", each) for at, each in enumerate(items)]
    _check_distinct("redeemables", [each.code for each in checked])
    return [VoucherRequest(each.code, each.credits, each.points) for each in checked]


def _redeemable(field: str, given: object) -> Redeemable:
    if is_a(given, Redeemable):
        return checked_model(field, Redeemable, given)
    fields: dict[str, Any] = (
        {"code": given}
        if is_a(given, str)
        else mapping_fields(field, given, "Redeemable, a mapping of its fields, or a code")
    )
    try:
        return Redeemable(**fields)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}.{error.field}", error.problem) from None


def check_released_codes(field: str, codes: Sequence[str]) -> tuple[str, ...]:
    """The checked codes whose locks a validation releases: 30 at most, no code twice, and none at all is usual."""
    return check_codes(field, codes, least=0)


def check_codes(field: str, codes: Sequence[str], *, least: int = 1) -> tuple[str, ...]:
    """The checked codes of a stack: ``least`` to 30, no code twice."""
    checked = tuple(check_text(f"{field}.{at}", code) for at, code in enumerate(_stack_items(field, codes, least)))
    _check_distinct(field, checked)
    return checked


def _stack_items(field: str, sequence: Sequence[_T], least: int = 1) -> Sequence[_T]:
    """The ``least`` to 30 items of a sequence.

    It is iterated only once, and only as far as needed: an object of the application may return other items each time,
    or never end.
    """
    try:
        is_list = isinstance(sequence, Sequence) and not issubclass(type(sequence), str)
        items = list(islice(sequence, MAX_STACK + 1)) if is_list else None
    except Exception:  # from a method of the application's object
        if _has_no_own_methods(sequence):
            raise
        items = None
    if items is None:
        raise InvalidRequest(field, "must be a list")
    if not least <= len(items) <= MAX_STACK:
        raise InvalidRequest(field, f"must have {least} to {MAX_STACK} items")
    return items


def _has_no_own_methods(value: object) -> bool:
    """Whether the value cannot have raised an exception while it was read: then a signal handler did."""
    return type(value) in (list, tuple, dict, str)


def _check_distinct(field: str, codes: Sequence[str]) -> None:
    if len(set(codes)) < len(codes):
        raise InvalidRequest(field, "must not name a code twice")


class SessionRequest(NamedTuple):
    """The session that validate establishes: its key, and its time to live with defaults filled in."""

    key: str
    ttl: int | float
    ttl_unit: TtlUnit
    ttl_ms: int


class TtlPolicy(NamedTuple):
    """The time to live of a session that names none, as value, unit and milliseconds; and the longest of all."""

    default: tuple[int | float, TtlUnit, int]
    max_ms: int


def ttl_policy(default_ttl: float | timedelta | None, max_ttl: float | timedelta | None) -> TtlPolicy:
    """The checked policy of an engine. The default is 7 days, or ``max_ttl`` if that is shorter."""
    max_ms = duration_in_ms("max_ttl", max_ttl) or MAX_TTL_MS
    default_ms = duration_in_ms("default_ttl", default_ttl)
    if default_ms is not None and default_ms > max_ms:
        raise InvalidRequest("default_ttl", f"must be at most max_ttl, {_in_words(max_ms)}")
    default_ms = default_ms or min(_WEEK_MS, max_ms)
    return TtlPolicy((*_in_largest_unit(default_ms), default_ms), max_ms)


def _in_largest_unit(ms: int) -> tuple[int, TtlUnit]:
    units = (TtlUnit.DAYS, TtlUnit.HOURS, TtlUnit.MINUTES, TtlUnit.SECONDS, TtlUnit.MILLISECONDS)
    return next((ms // ms_per_unit, unit) for unit in units if not ms % (ms_per_unit := ttl_in_ms(1, unit)))


def _in_words(ms: int) -> str:
    value, unit = _in_largest_unit(ms)
    return f"{value:,} {unit.lower().removesuffix('s') if value == 1 else unit.lower()}"


def session_request(session: SessionLike | ActiveSession, policy: TtlPolicy) -> SessionRequest:
    """The session to establish. An absent key is generated; an absent time to live is the engine's default."""
    request = _request_from_plain_values(session, policy)
    if request is not None:
        return request
    checked = _session(session)
    return _request(checked.key, _time_to_live(checked.type, checked.ttl, checked.ttl_unit), policy)


def extension(
    session_key: str, ttl: int | float | None, ttl_unit: TtlUnit | TtlUnitName | None, policy: TtlPolicy
) -> SessionRequest:
    """The key of the session to extend, and its new time to live: the engine's default if none is given."""
    key = check_text("session_key", session_key)
    return _request(key, _checked_time_to_live(SessionType.LOCK, ttl, ttl_unit), policy, field="ttl")


def _request(
    key: str | None,
    time_to_live: tuple[int | float, TtlUnit, int] | None,
    policy: TtlPolicy,
    *,
    field: str = "session.ttl",
) -> SessionRequest:
    ttl, unit, ms = time_to_live or policy.default
    if ms > policy.max_ms:
        raise InvalidRequest(field, f"must be at most {_in_words(policy.max_ms)}, the max_ttl of the engine")
    return SessionRequest(key or "ssn_" + random_text(32), ttl, unit, ms)


def _request_from_plain_values(session: object, policy: TtlPolicy) -> SessionRequest | None:
    """A faster ``session_request`` for a ``Session`` or a dict of plain values, which is what nearly all callers pass.

    Type and time to live are the same in most calls, so the check of them is cached. None if the session is of another
    kind or invalid: the slower path decides, and raises the error.
    """
    fields: Any = session if type(session) is dict else session.__dict__ if type(session) is Session else {"": None}
    if not _TEXT_ALONE.issuperset(map(type, fields)) or not _SESSION_FIELDS.issuperset(fields):
        return None
    if not _PLAIN_TYPES.issuperset(map(type, fields.values())):
        return None
    try:
        key = fields.get("key")
        checked_key = None if key is None else check_text("session.key", key)
        time_to_live = _cached_time_to_live(fields.get("type"), fields.get("ttl"), fields.get("ttl_unit"))
        return _request(checked_key, time_to_live, policy)
    except InvalidRequest:  # the slower path raises the error that describes it
        return None


def _checked_time_to_live(type_: Any, ttl: Any, ttl_unit: Any) -> tuple[int | float, TtlUnit, int] | None:
    checked = Session(type=type_, ttl=ttl, ttl_unit=ttl_unit)
    return _time_to_live(checked.type, checked.ttl, checked.ttl_unit)


_cached_time_to_live = lru_cache(maxsize=1024, typed=True)(_checked_time_to_live)


def _time_to_live(
    type_: SessionType | None, ttl: int | float | None, unit: TtlUnit | None
) -> tuple[int | float, TtlUnit, int] | None:
    """Value, unit and milliseconds of the time to live; None if none is given."""
    if type_ is None:
        raise InvalidRequest("session.type", "is required to establish a session: give type='LOCK'")
    return None if ttl is None or unit is None else (ttl, unit, ttl_in_ms(ttl, unit))


def session_key(session: SessionLike | ActiveSession | str) -> str:
    """The key of an existing session. Type and time to live of a session object are not looked at."""
    if is_a(session, str):
        return check_text("session", session)
    if is_a(session, Session) or is_a(session, ActiveSession):
        key = session.__dict__.get("key")
    else:
        fields = mapping_fields(
            "session", session, "Session, an ActiveSession, a mapping of its fields, or a session key"
        )
        if unknown := [name for name in fields if name not in _ACTIVE_SESSION_FIELDS]:
            name = unknown[0].encode(errors="backslashreplace").decode()  # a lone surrogate could not be logged
            raise InvalidRequest(f"session.{name}", "is no field of a session: give key, or the session key alone")
        key = fields.get("key")
    if key is None:
        raise InvalidRequest("session.key", "is required to redeem a session")
    checked: str = check_text("session.key", key)
    return checked


def _session(session: object) -> Session:
    """A checked session object. Of an ``ActiveSession``, or what one dumps to, its key and time to live are taken."""
    if is_a(session, Session):
        return checked_model("session", Session, session)
    if is_a(session, ActiveSession):
        fields = dict(session.__dict__)
    else:
        fields = mapping_fields("session", session, "Session, an ActiveSession or a mapping of its fields")
    if not _ACTIVE_ONLY_FIELDS.isdisjoint(fields):
        if fields.get("ttl") is None:
            raise InvalidRequest(
                "session.ttl", "is missing: only the call that set it returns it; give ttl and ttl_unit, or use extend"
            )
        fields = {name: value for name, value in fields.items() if name not in _ACTIVE_ONLY_FIELDS}
    try:
        return Session(**fields)
    except InvalidRequest as error:
        raise InvalidRequest(f"session.{error.field}", error.problem) from None


def mapping_fields(field: str, given: object, kinds: str) -> dict[str, Any]:
    """The names and values of a mapping. It is iterated only once, and not beyond the first 30: it may be endless."""
    try:
        if isinstance(given, Mapping):
            # str.__str__ converts names of a subclass of str to str, and raises TypeError for any other type.
            return {str.__str__(name): value for name, value in islice(given.items(), MAX_STACK)}
    except Exception as error:
        if _has_no_own_methods(given) and not isinstance(error, TypeError):  # TypeError: a name is no text
            raise
        raise InvalidRequest(field, f"must be a {kinds}; the names of a mapping must be text") from None
    raise InvalidRequest(field, f"must be a {kinds}")


def receipt_ttl_in_ms(receipt_ttl: float | timedelta | None) -> int | None:
    """The checked ``receipt_ttl`` of an engine: no retry of a call may come later than its receipt lives."""
    ms = duration_in_ms("receipt_ttl", receipt_ttl)
    if ms is not None and ms < _MIN_RECEIPT_TTL_MS:
        raise InvalidRequest("receipt_ttl", "must be at least 10 minutes: a retry that comes later would redeem again")
    return ms


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

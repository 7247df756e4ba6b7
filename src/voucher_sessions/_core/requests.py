"""Arguments made ready to be sent: checked, and filled in with what the caller left to the engine."""

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
    Checked,
    IfSessionMissing,
    Redeemable,
    Session,
    SessionType,
    Text,
    TtlUnit,
    checked_model,
    is_a,
    ttl_in_ms,
)

SessionLike = Session | Mapping[str, object]

check_text = Checked(Text)
check_amount = Checked(Amount)
check_optional_amount = Checked(Amount | None)
check_if_session_missing = Checked(IfSessionMissing)
check_list_limit = Checked(Annotated[int, Field(strict=True, ge=1, le=10_000)])

MAX_STACK: Final = 30
_FIELDS: Final = frozenset(Session.model_fields)
_PLAIN: Final = frozenset((str, int, float, NoneType, SessionType, TtlUnit))  # and no subclass, which may do anything
_T = TypeVar("_T")

_LETTERS: Final = (string.ascii_letters + string.digits).encode()
# The first 248 bytes are four times each of the 62 letters; the last 8 would favour some, and are thrown away.
_OF_BYTE: Final = _LETTERS * 4 + bytes(8)
_UNFAIR: Final = bytes(range(248, 256))


def random_text(length: int) -> str:
    """Letters and digits from the system's cryptographic source; 32 of them carry 190 bits."""
    letters = b""
    while len(letters) < length:
        letters += secrets.token_bytes(2 * length).translate(_OF_BYTE, _UNFAIR)
    return letters[:length].decode()


def random_word() -> str:
    """What tells one call from another on the same session or redemption; nobody gains by guessing it."""
    return secrets.token_bytes(4).hex()


class Need(NamedTuple):
    """What is asked of one voucher. Amounts None: 0 to validate, to redeem what the session locked."""

    code: str
    credits: int | None
    points: int | None


def need(code: str, credits: int | None, points: int | None) -> Need:
    """What is asked of one voucher, checked."""
    return Need(
        check_text("code", code), check_optional_amount("credits", credits), check_optional_amount("points", points)
    )


def stack(redeemables: Sequence[Redeemable]) -> list[Need]:
    """What is asked of a stack (semantics 14)."""
    taken = _taken("redeemables", redeemables)
    if not all(is_a(each, Redeemable) for each in taken):
        raise InvalidRequest("redeemables", "must be a list of Redeemable")
    checked = [checked_model(f"redeemables.{at}", Redeemable, each) for at, each in enumerate(taken)]
    _check_distinct("redeemables", [each.code for each in checked])
    return [Need(each.code, each.credits, each.points) for each in checked]


def check_codes(field: str, codes: Sequence[str]) -> tuple[str, ...]:
    """The codes of a stack: 1 to 30, none twice."""
    checked = tuple(check_text(f"{field}.{at}", code) for at, code in enumerate(_taken(field, codes)))
    _check_distinct(field, checked)
    return checked


def _taken(field: str, items: Sequence[_T]) -> Sequence[_T]:
    """The 1 to 30 items of a sequence, looked at once: it may be an object that shows others at each look, or no end."""
    try:
        is_list = isinstance(items, Sequence) and not issubclass(type(items), str)
        taken = list(islice(items, MAX_STACK + 1)) if is_list else None
    except Exception:  # its own methods fail
        taken = None
    if taken is None:
        raise InvalidRequest(field, "must be a list")
    if not 1 <= len(taken) <= MAX_STACK:
        raise InvalidRequest(field, f"must be 1 to {MAX_STACK}")
    return taken


def _check_distinct(field: str, codes: Sequence[str]) -> None:
    if len(set(codes)) < len(codes):
        raise InvalidRequest(field, "must not name a code twice")


class Lock(NamedTuple):
    """A session to establish: its key and its effective time to live (semantics 4 and 5)."""

    key: str
    ttl: int | float
    ttl_unit: TtlUnit
    ttl_ms: int


def lock(session: SessionLike) -> Lock:
    """What validate establishes: the seed's session object with its defaults filled in."""
    usual = _usual_lock(session)
    if usual is not None:
        return usual
    checked = _session(session)
    return _lock(checked.key, *_time_to_live(checked.type, checked.ttl, checked.ttl_unit))


def _lock(key: str | None, ttl: int | float, unit: TtlUnit, ttl_ms: int) -> Lock:
    return Lock(key or "ssn_" + random_text(32), ttl, unit, ttl_ms)


def _usual_lock(session: SessionLike) -> Lock | None:
    """The same, for what nearly all callers send: a Session or a dict of plain values. All but the key is the same from
    call to call, and was checked before. None: it takes a closer look, which also says what is wrong.
    """
    fields: Any = session if type(session) is dict else session.__dict__ if type(session) is Session else None
    try:
        if not _FIELDS.issuperset(fields) or not _PLAIN.issuperset(map(type, fields.values())):
            return None
        key = fields.get("key")
        checked_key = None if key is None else check_text("session.key", key)
        return _lock(checked_key, *_checked_time_to_live(fields.get("type"), fields.get("ttl"), fields.get("ttl_unit")))
    except Exception:  # whatever it is
        return None


@lru_cache(maxsize=1024, typed=True)
def _checked_time_to_live(type_: Any, ttl: Any, ttl_unit: Any) -> tuple[int | float, TtlUnit, int]:
    checked = Session(type=type_, ttl=ttl, ttl_unit=ttl_unit)
    return _time_to_live(checked.type, checked.ttl, checked.ttl_unit)


def _time_to_live(
    type_: SessionType | None, ttl: int | float | None, unit: TtlUnit | None
) -> tuple[int | float, TtlUnit, int]:
    """The effective one, with the milliseconds that it is (semantics 4 and 5)."""
    if type_ is None:
        raise InvalidRequest("session.type", "is required to establish a session")
    if ttl is None or unit is None:
        ttl, unit = 7, TtlUnit.DAYS
    return ttl, unit, ttl_in_ms(ttl, unit)


def session_key(session: SessionLike | str) -> str:
    """The key of a session that exists already; all else in the session object is optional and unused."""
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
    """A mapping's names and values, looked at once, and no more than can be told from too many."""
    try:
        if isinstance(session, Mapping):
            # str.__str__ makes the names plain text, and raises where they are none.
            return {str.__str__(name): value for name, value in islice(session.items(), MAX_STACK)}
    except Exception:
        raise InvalidRequest("session", "must be a Session or a mapping whose names are text") from None
    raise InvalidRequest("session", "must be a Session or a mapping")


def duration_in_ms(field: str, value: float | timedelta | None) -> int | None:
    """A duration in seconds, or a timedelta, as whole milliseconds; None stays None."""
    if value is None:
        return None
    # The class's own method, not that of a subclass, which may do anything.
    seconds: Any = timedelta.total_seconds(value) if is_a(value, timedelta) else value
    try:
        checked = Session(ttl=seconds, ttl_unit=TtlUnit.SECONDS)
    except InvalidRequest as error:
        raise InvalidRequest(field, error.problem) from None
    assert checked.ttl is not None
    return ttl_in_ms(checked.ttl, TtlUnit.SECONDS)

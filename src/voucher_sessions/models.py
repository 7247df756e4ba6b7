"""The models that users pass to the engines; what the engines return is in ``results``.

Amounts are integers in minor units (cents, points), times are UTC, durations are milliseconds. The types ``Text`` and
``Amount`` define which codes, keys, ids and numbers are accepted: texts of 1 to 256 characters that are not blank, and
integers from 0 to 2^53 - 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, TypeGuard, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from voucher_sessions.errors import InvalidRequest, shortened

MAX_NUMBER: Final = 2**53 - 1  # what a double, the only number of Lua, holds exactly
MAX_TTL_MS: Final = 3_650 * 86_400_000

Text = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=r"\S")]
Amount = Annotated[int, Field(strict=True, ge=0, le=MAX_NUMBER)]
IfSessionMissing = Literal["raise", "redeem"]

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)
# What was refused may be a session key; and pydantic takes as long to build all models as to be imported, so it builds
# each when it is first used.
_DISCREET: Final = ConfigDict(hide_input_in_errors=True, defer_build=True)


class SessionType(StrEnum):
    """What a session does to its voucher. LOCK: holds quantity 1 and the request's credits and points."""

    LOCK = "LOCK"


class TtlUnit(StrEnum):
    """The units in which ``Session.ttl`` can be given."""

    DAYS = "DAYS"
    HOURS = "HOURS"
    MINUTES = "MINUTES"
    SECONDS = "SECONDS"
    MILLISECONDS = "MILLISECONDS"
    MICROSECONDS = "MICROSECONDS"
    NANOSECONDS = "NANOSECONDS"


_MS_PER_UNIT: Final = {
    TtlUnit.DAYS: Fraction(86_400_000),
    TtlUnit.HOURS: Fraction(3_600_000),
    TtlUnit.MINUTES: Fraction(60_000),
    TtlUnit.SECONDS: Fraction(1_000),
    TtlUnit.MILLISECONDS: Fraction(1),
    TtlUnit.MICROSECONDS: Fraction(1, 1_000),
    TtlUnit.NANOSECONDS: Fraction(1, 1_000_000),
}


def ttl_in_ms(ttl: int | float, unit: TtlUnit) -> int:
    """A time to live in whole milliseconds, rounded up.

    A float counts as the decimal number that Python prints for it: 0.001 SECONDS is 1 ms, although the double is
    slightly larger than 0.001.
    """
    ms_per_unit = _MS_PER_UNIT[unit]
    if isinstance(ttl, int):
        return -(-ttl * ms_per_unit.numerator // ms_per_unit.denominator)  # rounded up, as ceil of a slower Fraction
    return math.ceil(Fraction(repr(ttl)) * ms_per_unit)


def invalid(error: ValidationError, field: str = "") -> InvalidRequest:
    """The first complaint of pydantic as ours. It never repeats the value, which may be a session key."""
    first = error.errors(include_url=False)[0]
    path = ".".join(filter(None, (field, *map(str, first["loc"]))))
    problem = "must not be blank" if first["type"] == "string_pattern_mismatch" else first["msg"]
    return InvalidRequest(path or error.title, problem.removeprefix("Value error, "))


def is_a(value: object, kind: type[_T]) -> TypeGuard[_T]:
    """``isinstance``, but for the object's own word for it."""
    return issubclass(type(value), kind)


def unreadable(field: str) -> InvalidRequest:
    """An object whose own methods fail. Its error is not told, nor chained: that may be about anything."""
    return InvalidRequest(field, "is an object that cannot be read")


class Checked:
    """Checks a value against one of the types above: ``Checked(Text)("code", value)``.

    What it returns is to be used in its place: of a subclass, whose methods may do anything, it is the plain value.
    """

    def __init__(self, type_: Any) -> None:
        self._type = TypeAdapter[Any](type_, config=_DISCREET)

    def __call__(self, field: str, value: _T) -> _T:
        try:
            plain: _T = self._type.validator.validate_python(value)  # the adapter's own method takes twice as long
        except ValidationError as error:
            raise invalid(error, field) from None
        return plain


def checked_model(field: str, kind: type[_M], value: object) -> _M:
    """A model of just this kind with the fields of ``value``, checked: ``model_copy`` and ``model_construct`` do not."""
    try:
        if is_a(value, kind):
            model = kind.__new__(kind)
            kind.__pydantic_validator__.validate_python(value.__dict__, self_instance=model)
            return model
    except ValidationError as error:
        raise invalid(error, field) from None
    except Exception:
        raise unreadable(field) from None
    raise InvalidRequest(field, f"must be a {kind.__name__}")


class Model(BaseModel):
    """A session key is a capability: a repr shows its beginning alone, and what pydantic complains of not at all."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, defer_build=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            is_key = name in {"key", "session_key"} and isinstance(value, str)
            yield name, shortened(value) if is_key else value


def model_of(kind: type[_M], fields: dict[str, Any]) -> _M:
    """``kind.model_validate(fields)`` without its options, which take as long as the check."""
    model: _M = kind.__pydantic_validator__.validate_python(fields)
    return model


class Request(Model):
    """What users hand in. Bad input raises ``InvalidRequest``; inside a host's own pydantic model it is part of that
    model's ``ValidationError``, as web frameworks expect.
    """

    model_config = ConfigDict(extra="forbid")

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise invalid(error) from None
        except Exception:
            raise unreadable(type(self)._unreadable_name(data)) from None

    @classmethod
    def _unreadable_name(cls, data: dict[str, Any]) -> str:
        """Which field it is that pydantic cannot read."""
        for name, value in data.items():
            try:
                cls.__pydantic_validator__.validate_python({name: value}, self_instance=cls.__new__(cls))
            except ValidationError:
                continue
            except Exception:
                return name
        return cls.__name__


class Voucher(Request):
    """A voucher's limits. ``quantity``: how often it may be redeemed, None without limit, 0 never.

    ``credits`` (a gift card's) and ``points`` (a loyalty card's): what it may give in all.
    """

    code: Text
    quantity: Amount | None = None
    credits: Amount = 0
    points: Amount = 0


class Used(Request):
    """What has been spent for good, in figures that another system kept until now."""

    quantity: Amount = 0
    credits: Amount = 0
    points: Amount = 0


def _plain_number(value: object) -> int | float:
    """Of a subclass, whose methods may do anything, what int and float themselves make of it."""
    if is_a(value, int) and not is_a(value, bool):
        return int.__pos__(value)
    if is_a(value, float):
        return float.__pos__(value)
    raise ValueError("must be a number")


class Session(Request):
    """A session: a temporary usage of a voucher under a key, which ``validate`` establishes and ``redeem`` ends.

    Attributes:
        type: What the session does; ``LOCK`` is the only type. Required to establish a session.
        key: Identifies the session; any text of 1 to 256 characters that is not blank. Without one, ``validate``
            generates ``ssn_`` and 32 random letters and digits. Whoever knows the key can redeem or release the
            session.
        ttl: How long the session lives, in ``ttl_unit``; above 0, whole or fractional. It is rounded up to whole
            milliseconds, and at most 3,650 days. Give both or neither; neither is 7 days.
        ttl_unit: The unit of ``ttl``.
    """

    type: SessionType | None = None
    key: Text | None = None
    ttl_unit: TtlUnit | None = None
    ttl: int | float | None = Field(default=None, validate_default=True)

    @field_validator("ttl", mode="plain")
    @classmethod
    def _ttl(cls, ttl: object, info: ValidationInfo) -> int | float | None:
        if "ttl_unit" not in info.data:  # refused already, and told first
            return None
        unit: TtlUnit | None = info.data["ttl_unit"]
        if ttl is None and unit is None:
            return None
        if ttl is None or unit is None:
            raise ValueError("ttl and ttl_unit come together or not at all")
        ttl = _plain_number(ttl)
        if isinstance(ttl, float) and not math.isfinite(ttl):
            raise ValueError("must be finite")
        if ttl <= 0:
            raise ValueError("must be above 0")
        if ttl_in_ms(ttl, unit) > MAX_TTL_MS:
            raise ValueError("must be at most 3,650 days")
        return ttl


class Redeemable(Request):
    """One voucher of a stack. Amounts None: 0 in validate_stack; in redeem_stack what the session locked."""

    code: Text
    credits: Amount | None = None
    points: Amount | None = None


class Durability(Request):
    """What must be confirmed before a change counts as done, and for how long to wait for it.

    ``replicas``: so many have it in memory, or, with ``fsync``, on their disks. ``fsync``: the primary has it on its
    own disk, which needs Redis 7.2 or Valkey with an append-only file; with ``appendfsync everysec`` that takes a
    second or two, with ``always`` no time at all. ``timeout_ms`` must be shorter than the client's ``socket_timeout``.
    What is not confirmed in time raises ``NotDurable``, and so does a server that cannot.
    """

    replicas: int = Field(default=0, strict=True, ge=0, le=100)
    fsync: bool = Field(default=False, strict=True)
    timeout_ms: int = Field(default=1000, strict=True, ge=1, le=600_000)

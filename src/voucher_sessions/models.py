"""The models that users pass to the engines; what the engines return is in ``results``.

Amounts are integers in minor units (cents, points), times are UTC, durations are milliseconds. The types ``Text`` and
``Amount`` define which codes, keys, ids and numbers are accepted: texts of 1 to 256 characters that are not blank, and
integers from 0 to 2^53 - 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol, Required, TypeGuard, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from typing_extensions import TypedDict  # pydantic depends on it, and before Python 3.12 accepts no other TypedDict

from voucher_sessions.errors import InvalidRequest, shortened

MAX_NUMBER: Final = 2**53 - 1  # the largest integer that Lua, whose numbers are doubles, counts to exactly
MAX_TTL_MS: Final = 3_650 * 86_400_000

Text = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=r"\S")]
Amount = Annotated[int, Field(strict=True, ge=0, le=MAX_NUMBER)]
IfSessionMissing = Literal["raise", "redeem"]
"""What redeem does if the session is not live: raise ``SessionNotFound``, or redeem as if none had been given."""
IfExists = Literal["update", "keep", "raise"]
"""What put_voucher does if there is such a voucher: change it, leave it as it is, or raise ``VoucherExists``."""

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)
_R = TypeVar("_R", bound="Request")
# Errors must not show a refused value, which may be a session key. Validators are built at their first use, because
# building all of them would double the time of the import.
_HIDE_INPUT: Final = ConfigDict(hide_input_in_errors=True, defer_build=True)


class SessionType(StrEnum):
    """What a session does with its voucher. ``LOCK`` locks quantity 1 and the credits and points of the request."""

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
    """The first of pydantic's errors as an ``InvalidRequest``, without the value, which may be a session key."""
    first = error.errors(include_url=False)[0]
    path = ".".join(filter(None, (field, *map(str, first["loc"]))))
    problem = "must not be blank" if first["type"] == "string_pattern_mismatch" else first["msg"]
    return InvalidRequest(path or error.title, problem.removeprefix("Value error, "))


def is_a(value: object, kind: type[_T]) -> TypeGuard[_T]:
    """``isinstance`` by the real type: unlike it, this ignores an object's own ``__class__``."""
    return issubclass(type(value), kind)


def unreadable(field: str) -> InvalidRequest:
    """The error for an object whose own methods fail. Their error is not chained: its text may show a session key."""
    return InvalidRequest(field, "is an object that cannot be read")


class Checker:
    """Checks a value against one of the types above: ``Checker(Text)("code", value)``.

    Use the returned value instead of the one passed in: for an object of a subclass, which may override any method, it
    is the plain value.
    """

    def __init__(self, type_: Any) -> None:
        self._type = TypeAdapter[Any](type_, config=_HIDE_INPUT)

    def __call__(self, field: str, value: _T) -> _T:
        try:
            plain: _T = self._type.validator.validate_python(value)  # half the time of TypeAdapter.validate_python
        except ValidationError as error:
            raise invalid(error, field) from None
        return plain


def checked_model(field: str, kind: type[_R], value: object) -> _R:
    """A model of exactly this class with the fields of ``value``, which are checked.

    They can be wrong although ``value`` is a model: ``model_copy`` and ``model_construct`` do not check.
    """
    try:
        if is_a(value, kind):
            model = kind.__new__(kind)
            kind.__pydantic_validator__.validate_python(value.__dict__, self_instance=model)
            return model
    except ValidationError as error:
        raise invalid(error, field) from None
    except Exception:
        if type(value) is kind and not kind.is_unreadable(dict(value.__dict__)):
            raise
        raise unreadable(field) from None
    raise InvalidRequest(field, f"must be a {kind.__name__}")


class Model(BaseModel):
    """The base of all models. Its repr shows only the beginning of a session key, and its errors show no values."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, defer_build=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            is_key = name in {"key", "session_key"} and isinstance(value, str)
            yield name, shortened(value) if is_key else value


def model_of(kind: type[_M], fields: dict[str, Any]) -> _M:
    """``kind.model_validate(fields)`` in half the time, because it skips the handling of options."""
    model: _M = kind.__pydantic_validator__.validate_python(fields)
    return model


class Request(Model):
    """The base of the models that users pass in.

    The constructor raises ``InvalidRequest``. As a field of another pydantic model, and in ``model_validate``, a wrong
    value is reported in pydantic's ``ValidationError`` at its own field, as web frameworks expect.
    """

    model_config = ConfigDict(extra="forbid")

    def __init__(self, /, **data: Any) -> None:
        """Check the fields. ``InvalidRequest`` names the first one that is wrong."""
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise invalid(error) from None
        except Exception:
            if not self.is_unreadable(data):
                raise
            name = next(
                (name for name, value in data.items() if self.is_unreadable({name: value})), type(self).__name__
            )
            raise unreadable(name) from None

    # Pydantic's own mark of a constructor that only validates: without it, pydantic would call the constructor for a
    # model inside another one too, and its InvalidRequest would be reported at the model instead of at the wrong field.
    vars(__init__)["__pydantic_base_init__"] = True

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        # For help() and editors; pydantic's own is that of the constructor above.
        cls.__signature__ = Signature(
            [
                Parameter(
                    name,
                    Parameter.KEYWORD_ONLY,
                    annotation=field.annotation,
                    default=Parameter.empty if field.is_required() else field.default,
                )
                for name, field in cls.model_fields.items()
            ]
        )

    @classmethod
    def is_unreadable(cls, data: dict[str, Any]) -> bool:
        """Whether a value's own methods fail when pydantic reads it.

        If reading it again succeeds, an error was raised by something else, such as a signal handler.
        """
        try:
            cls.__pydantic_validator__.validate_python(data, self_instance=cls.__new__(cls))
        except Exception as error:
            return not isinstance(error, ValidationError)
        return False


class Voucher(Request):
    """A voucher and its limits.

    Attributes:
        code: The voucher's code; any text of 1 to 256 characters that is not blank. Upper and lower case differ.
        quantity: How often the voucher can be redeemed. None: without limit. 0: never.
        credits: The total of a gift card's credits, in minor units (cents).
        points: The total of a loyalty card's points.
    """

    code: Text
    quantity: Amount | None = None
    credits: Amount = 0
    points: Amount = 0


class Used(Request):
    """What was spent permanently, as recorded by another system before.

    Attributes:
        quantity: How often the voucher was redeemed.
        credits: The gift card credits spent, in minor units (cents).
        points: The loyalty points spent.
    """

    quantity: Amount = 0
    credits: Amount = 0
    points: Amount = 0


def _plain_number(value: object) -> int | float:
    """The value as an exact int or float: a subclass may override any method."""
    if is_a(value, int) and not is_a(value, bool):
        return int.__pos__(value)
    if is_a(value, float):
        return float.__pos__(value)
    raise ValueError("must be a number")


def _checked_ttl(ttl: object, info: ValidationInfo) -> int | float | None:
    """The ttl of a session, which is checked together with its unit."""
    if "ttl_unit" not in info.data:  # ttl_unit was refused, which is reported instead
        return None
    unit: TtlUnit | None = info.data["ttl_unit"]
    if ttl is None and unit is None:
        return None
    if ttl is None or unit is None:
        raise ValueError("ttl and ttl_unit must be given together or not at all")
    ttl = _plain_number(ttl)
    if isinstance(ttl, float) and not math.isfinite(ttl):
        raise ValueError("must be finite")
    if ttl <= 0:
        raise ValueError("must be above 0")
    if ttl_in_ms(ttl, unit) > MAX_TTL_MS:
        raise ValueError("must be at most 3,650 days")
    return ttl


_TypeName = Literal["LOCK"]
TtlUnitName = Literal["DAYS", "HOURS", "MINUTES", "SECONDS", "MILLISECONDS", "MICROSECONDS", "NANOSECONDS"]
# The JSON schema is written out, because pydantic cannot derive it from a function.
_Ttl = Annotated[
    int | float | None,
    PlainValidator(_checked_ttl),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}),
]


class Session(Request):
    """A session: a temporary usage of a voucher under a key, which ``validate`` establishes and ``redeem`` ends.

    Attributes:
        type: What the session does; ``LOCK`` is the only type. Required to establish a session.
        key: Identifies the session; any text of 1 to 256 characters that is not blank. Without one, ``validate``
            generates ``ssn_`` and 32 random letters and digits. Whoever knows the key can redeem or release the
            session.
        ttl: How long the session lives, in ``ttl_unit``; above 0, whole or fractional. It is rounded up to whole
            milliseconds, and at most 3,650 days or the engine's ``max_ttl``. Give both or neither; neither is the
            engine's ``default_ttl``, 7 days unless set.
        ttl_unit: The unit of ``ttl``.
    """

    type: SessionType | None = None
    key: Text | None = None
    ttl_unit: TtlUnit | None = None
    ttl: _Ttl = Field(default=None, validate_default=True)

    if TYPE_CHECKING:
        # The fields are enums; the constructor takes their values too.
        def __init__(
            self,
            *,
            type: SessionType | _TypeName | None = None,
            key: str | None = None,
            ttl: float | None = None,
            ttl_unit: TtlUnit | TtlUnitName | None = None,
        ) -> None: ...


class SessionFields(TypedDict, total=False):
    """The fields of ``Session`` as a dict, for example ``{"type": "LOCK", "ttl": 30, "ttl_unit": "MINUTES"}``."""

    type: SessionType | _TypeName | None
    key: str | None
    ttl: float | None
    ttl_unit: TtlUnit | TtlUnitName | None


class _FieldIsNotOneOfSessionFields:
    """A type that only a dict of ``Any`` or ``object`` accepts as a value."""


class _DictOfAnything(Protocol):
    """To a type checker: a ``dict[str, Any]`` or ``dict[str, object]``, as parsed JSON is.

    Its item assignment takes values of every type. That excludes a dict display such as ``{"typ": "LOCK"}``, whose
    values have known types; so a misspelt field in one is an error, which the type ``Mapping[str, object]`` would hide.
    """

    def __getitem__(self, key: str, /) -> object: ...

    def __setitem__(self, key: str, value: _FieldIsNotOneOfSessionFields, /) -> None: ...


SessionLike = Session | SessionFields | _DictOfAnything
"""A ``Session``, or a dict with its fields.

Type checkers find a misspelt field in a dict that is written in the call. They accept a variable of type
``dict[str, Any]`` or ``dict[str, object]``, as JSON gives it; its fields are checked when the call is made. Any other
mapping works too; for a type checker, copy it into a variable first: ``fields = dict(mapping)``. A variable with the
annotation ``SessionFields`` is checked where it is assigned.
"""


class Redeemable(Request):
    """One voucher of a stack, and its amounts.

    Attributes:
        code: The voucher's code.
        credits: Gift card credits, in minor units (cents). None: 0 in ``validate_stack``; in ``redeem_stack`` what the
            live session locked on this voucher. Without a live session, a voucher that has credits or points needs at
            least one of the two amounts.
        points: Loyalty points. None: as for ``credits``.
    """

    code: Text
    credits: Amount | None = None
    points: Amount | None = None


class RedeemableFields(TypedDict, total=False):
    """``Redeemable`` as a dict, for type checkers. ``code`` is required."""

    code: Required[str]
    credits: int | None
    points: int | None


RedeemableLike = Redeemable | RedeemableFields | _DictOfAnything | str


def _date_and_time(value: object) -> object:
    """The value. A number is refused: pydantic would take it for seconds or milliseconds, depending on its size."""
    if not is_a(value, datetime) and not (is_a(value, str) and re.match(r"\d{4}-", value)):
        raise ValueError("must be a datetime, or text in ISO format")
    return value


# The upper limit leaves out the last day of the year 9999: in some time zones it would be in the year 10000.
_RedeemedAt = Annotated[
    AwareDatetime,
    BeforeValidator(_date_and_time),
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), le=datetime(9999, 12, 31, tzinfo=UTC)),
]


class RedemptionRow(Request):
    """A redemption as the shop or another system has recorded it: a row of the bulk tools.

    Attributes:
        code: The voucher's code.
        id: The redemption id, such as the number of the order.
        credits: The gift card credits redeemed, in minor units (cents).
        points: The loyalty points redeemed.
        quantity: The quantity redeemed, always 1.
        redeemed_at: When it was redeemed: a datetime with a time zone, or ISO text. None: not known; an import stores
            the time of the server.
        session_key: The session key of the redemption. None: not known, or there was no session.
        rolled_back: Whether it was rolled back. None: not known.
        credits_rolled_back: How many of the credits were given back, at most ``credits``. None: not known.
        points_rolled_back: How many of the points were given back, at most ``points``. None: not known.
    """

    code: Text
    id: Text
    credits: Amount = 0
    points: Amount = 0
    quantity: Literal[1] = 1
    redeemed_at: _RedeemedAt | None = None
    session_key: Text | None = None
    rolled_back: Annotated[bool, Field(strict=True)] | None = None
    credits_rolled_back: Amount | None = None
    points_rolled_back: Amount | None = None


Loaded = Voucher | tuple[Voucher, Used] | None
"""What a loader returns: a voucher, a voucher with what was used of it, or None if there is no such voucher."""
Loader = Callable[[str], Loaded]
"""A function that returns the voucher of a code which Redis does not know."""
AsyncLoader = Callable[[str], Loaded | Awaitable[Loaded]]
"""A loader of an asyncio engine: a plain function or a coroutine function."""


class Durability(Request):
    """What must confirm each change before the call returns, and how long to wait for it.

    A change that is not confirmed in time raises ``NotDurable``; so does a server that cannot confirm it.

    Attributes:
        replicas: The number of replicas that must have the change: in memory, or on their disks with ``fsync``.
        fsync: True: the primary must have the change on its disk. Needs an append-only file and Redis 7.2 or Valkey.
            With ``appendfsync everysec`` it takes one to two seconds, so set ``timeout_ms`` to more than 2000; with
            ``always`` it takes no additional time.
        timeout_ms: How long to wait, in milliseconds; shorter than the client's ``socket_timeout``.
    """

    replicas: int = Field(default=0, strict=True, ge=0, le=100)
    fsync: bool = Field(default=False, strict=True)
    timeout_ms: int = Field(default=1000, strict=True, ge=1, le=600_000)

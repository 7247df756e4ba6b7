"""A list of values that no caller should pass to an engine, and hypothesis strategies for more of them."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, Final
from unittest.mock import MagicMock, Mock

from hypothesis import strategies as st

from faults.hostile_objects import (
    METHODS,
    OPERATORS,
    ChangingSequence,
    EndlessSequence,
    FailingSequence,
    HostileError,
    HostileValue,
    LyingMapping,
    endless,
    lying_class,
    misbehaving,
    plain,
    raising,
    same,
    unreadable_class,
)
from voucher_sessions import Durability, Redeemable, Session, SessionType, TtlUnit, Used, Voucher

LOCK: Final = Session(type=SessionType.LOCK)
FIVE_DAYS: Final = Session(type=SessionType.LOCK, ttl=5, ttl_unit=TtlUnit.DAYS)


class _Amount(enum.IntEnum):
    FIVE = 5


class _Code(enum.StrEnum):
    A = "A"


def _changing_mapping() -> Mapping[Any, Any]:
    keys = iter(["cart", 5, b"other", None])
    values: dict[str, Callable[[], Any]] = {"type": lambda: "LOCK", "key": lambda: next(keys, -5)}
    return LyingMapping(lambda: iter(values), lambda name: values[name]())


_PLAIN: Final[list[Any]] = [
    *(None, True, False, 0, 1, 5, -1, 2**53 - 1, 2**53, 2**63, 2**64, -(2**63), 10**5000, -(10**5000)),
    *(0.0, -0.0, 1.0, 1.5, -1.5, math.nan, math.inf, -math.inf, 5e-324, 1e308, 3 + 4j),
    *(Decimal(5), Decimal("NaN"), Decimal("sNaN"), Decimal("1E+9999"), Fraction(1, 3), _Amount.FIVE, _Code.A),
    *("", " ", "\t\n", "A", "cart", "LOCK", "raise", "redeem", "x" * 256, "x" * 257, "\0", "a\nb", "{}%:*?", "😀"),
    *("\ud800", "x\udfff", "٣", "1_0", "{A}:session:x", "A}:session:x", "__class__", "self", "memory://"),
    *(b"", b"A", b"\xff", bytearray(b"A"), memoryview(b"A"), range(3), range(10**30), range(0), slice(1)),
    *([], [[]], ["A"], ["A", "A"], ["A", 5], ["A", None], ["A"] * 31, ("A",), [["A"]], {"A"}, frozenset("A"), {}),
    *([{}], [{"code": "A"}], [Redeemable(code="A")] * 2, [Redeemable(code=str(n)) for n in range(31)]),
    *({"type": "LOCK"}, {"type": "LOCK", "key": "cart", 5: 6}, {"": ""}, {"type": {"type": "LOCK"}}, {"\ud800": 1}),
    *({"type": "LOCK", "key": "cart", "self": 1}, {"type": "LOCK", "key": "cart", "model_config": {}}),
    *({"type": "LOCK", "key": "cart", "ttl": _Amount.FIVE, "ttl_unit": "DAYS"}, {"type": "LOCK", "key": _Code.A}),
    *({"type": "LOCK", "key": "cart", "ttl": Decimal(5), "ttl_unit": "DAYS"}, {(): 1}, {None: None}),
    *(object, type, int, str, len, print, ..., NotImplemented, ValueError("x"), datetime.now(UTC), timedelta.max),
    *(timedelta(0), timedelta(-1), timedelta(seconds=5), Voucher(code="A"), Used(), Session(), Redeemable(code="A")),
    *(LOCK, Session(key="cart"), Durability(), Durability(replicas=1), Voucher, Session, Durability),
]

# Models whose fields nobody checked: pydantic has two ways around its own checks.
_UNCHECKED: Final[list[Any]] = [
    *(Voucher(code="A").model_copy(update={"code": each}) for each in (5, "", None, "\ud800", b"A", "x" * 257)),
    *(Voucher(code="A").model_copy(update={"credits": each}) for each in (-5, 2**53, 1.5, True, "5", None)),
    *(Voucher(code="A").model_copy(update={"quantity": each}) for each in (-1, 2**53, "-", 1.5, False)),
    *(Used().model_copy(update={"points": each}) for each in (-5, 2**53, 1.5, True, "5", None)),
    *(LOCK.model_copy(update={"key": each}) for each in (5, "", b"k", "x" * 257, "\ud800")),
    *(FIVE_DAYS.model_copy(update={"ttl": t}) for t in (-5, 0, math.nan, "5", None)),
    *(FIVE_DAYS.model_copy(update={"ttl_unit": u}) for u in (None, "WEEKS", 5)),
    *(LOCK.model_copy(update={"type": each}) for each in ("HOLD", 5)),
    *([Redeemable(code="A").model_copy(update={"credits": each})] for each in (-5, 2**53, 1.5, True, "5")),
    *([Redeemable(code="A").model_copy(update={"code": each})] for each in (5, "", None, "\ud800", b"A")),
    *(Durability(replicas=1).model_copy(update={"replicas": each}) for each in (-5, "5", None, True, 10**30)),
    *(Durability(fsync=True).model_copy(update={"timeout_ms": each}) for each in (-5, "5", None, math.nan)),
    *(model.model_construct() for model in (Voucher, Used, Session, Redeemable, Durability)),
    [Redeemable.model_construct()],
    Voucher.model_construct(code="A", quantity=None, credits=[], points={}),
]

_FRESH: Final[list[tuple[str, Callable[[], Any]]]] = [
    ("an endless iterator", lambda: endless(lambda at: f"code-{at}")),
    ("an endless iterator of nothing", lambda: endless(lambda _: None)),
    ("an endless sequence of codes", lambda: EndlessSequence(lambda at: f"code-{at}")),
    ("an endless sequence of one code", lambda: EndlessSequence(lambda _: "A")),
    ("an endless sequence of redeemables", lambda: EndlessSequence(lambda at: Redeemable(code=f"code-{at}"))),
    ("a sequence that fails", lambda: FailingSequence(0, HostileError)),
    ("a sequence that fails later", lambda: FailingSequence(2, HostileError)),
    ("a sequence shorter than it says", lambda: FailingSequence(2, IndexError)),
    ("a sequence that turns", lambda: ChangingSequence("A", "A", 5, b"x")),
    ("a sequence that turns at once", lambda: ChangingSequence("A", 5)),
    ("redeemables that turn", lambda: ChangingSequence(Redeemable(code="A"), Redeemable(code="A"), 5)),
    ("redeemables that turn at once", lambda: ChangingSequence(Redeemable(code="A"), 5)),
    ("a mapping without end", lambda: LyingMapping(lambda: endless(str), lambda _: "LOCK")),
    ("a mapping of one name without end", lambda: LyingMapping(lambda: endless(lambda _: "type"), lambda _: "LOCK")),
    ("a mapping that fails", lambda: LyingMapping(raising, raising)),
    ("a mapping whose values fail", lambda: LyingMapping(lambda: iter(["type", "key"]), raising)),
    ("a mapping without its names", lambda: LyingMapping(lambda: iter(["type", "key"]), {}.__getitem__)),
    ("a mapping of numbers", lambda: LyingMapping(lambda: iter([5, 6]), lambda _: "LOCK")),
    ("a mapping that turns", _changing_mapping),
    ("an object whose class cannot be read", unreadable_class),
    ("an object whose __class__ claims to be a text", lambda: lying_class(str)),
    ("an object whose __class__ claims to be a mapping", lambda: lying_class(dict)),
    ("an object whose __class__ claims to be a sequence", lambda: lying_class(list)),
    ("an object whose __class__ claims to be a voucher", lambda: lying_class(Voucher)),
    ("an object whose __class__ claims to be a session", lambda: lying_class(Session)),
    ("an object whose __class__ claims to be a duration", lambda: lying_class(timedelta)),
    ("an object whose __class__ claims to be a number", lambda: lying_class(float)),
    ("a mock", Mock),
    ("a magic mock", MagicMock),
    ("a mock of a voucher", lambda: Mock(spec=Voucher)),
    ("a mock of a session", lambda: Mock(spec=Session)),
    ("a mock of used", lambda: Mock(spec=Used)),
    ("a mock of a redeemable", lambda: [MagicMock(spec=Redeemable)]),
    ("a mock of a durability", lambda: MagicMock(spec=Durability)),
    ("a mock of a text", lambda: MagicMock(spec=str)),
    ("a nested list", lambda: _nested(5000)),
]


def _nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


_BASES: Final[list[tuple[type, Any]]] = [
    *((str, text) for text in ("A", "cart", "LOCK", "raise", "DAYS", "memory://")),
    *((int, 5), (float, 1.5), (bytes, b"A"), (list, ["A"]), (tuple, ("A",)), (timedelta, 5), (object, None)),
    *((dict, {"type": "LOCK", "key": "cart"}), (dict, {"type": "LOCK"}), (list, [Redeemable(code="A")])),
]

# One of each: run for every parameter.
HOSTILE_VALUES: Final[list[HostileValue]] = [
    *map(plain, _PLAIN),
    *(
        HostileValue(f"unchecked: {type(each).__name__} {at}", partial(same, each))
        for at, each in enumerate(_UNCHECKED)
    ),
    *(HostileValue(text, make) for text, make in _FRESH),
    *(misbehaving(base, value, raises=METHODS) for base, value in _BASES),
    *(misbehaving(base, value, raises=OPERATORS) for base, value in _BASES),
    *(misbehaving(base, value, lies=METHODS) for base, value in _BASES),
    *(misbehaving(base, value, lies=["__eq__", "__hash__"]) for base, value in _BASES),
    *(misbehaving(base, value, raises=["__eq__", "__hash__"]) for base, value in _BASES),
]


def _scalars() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-3, 12),
        st.floats(),
        st.text(st.characters(), max_size=300),
        st.text(st.characters(categories=["Cs", "Cc", "Zs", "Lu"]), max_size=5),
        st.binary(max_size=20),
        st.decimals(),
        st.fractions(),
        st.timedeltas(),
        st.sampled_from(["A", "cart", "LOCK", "DAYS", "type", "key", "ttl", "ttl_unit", "raise", "redeem"]),
    )


def _misbehaving() -> st.SearchStrategy[HostileValue]:
    methods = st.lists(st.sampled_from(METHODS), max_size=6, unique=True)
    return st.builds(
        lambda base, raises, lies: misbehaving(base[0], base[1], raises, lies),
        st.sampled_from(_BASES),
        methods,
        methods,
    )


def _listed(items: list[HostileValue]) -> HostileValue:
    return HostileValue(repr(items), lambda: [each.make() for each in items])


def _mapped(items: list[tuple[Any, HostileValue]]) -> HostileValue:
    return HostileValue(repr(items), lambda: {name: each.make() for name, each in items})


_NAMES: Final = st.one_of(
    st.sampled_from(["type", "key", "ttl", "ttl_unit", "code", "credits", "points", "quantity"]), st.text(), st.none()
)

# Any object: plain, hostile, or a collection of such.
ANYTHING: Final[st.SearchStrategy[HostileValue]] = st.recursive(
    st.one_of(_scalars().map(plain), _misbehaving(), st.sampled_from(HOSTILE_VALUES)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(_listed),
        st.lists(st.tuples(_NAMES, inner), max_size=4).map(_mapped),
    ),
    max_leaves=5,
)

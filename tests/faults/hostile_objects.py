"""Objects that raise, misreport their value or never end, and recipes for them and for plain values.

Tests get them as ``HostileValue``, which makes the object when it is needed: hypothesis and pytest print their
parameters, and these objects must not be printed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

PATIENCE: Final = 20_000  # how much of what never ends may be read


class HostileError(Exception):
    """Raised by hostile objects; no engine may let it through."""


class EndlessRead(BaseException):
    """Raised when something tries to read all of what never ends; nothing that catches errors catches it."""


@dataclass(frozen=True)
class HostileValue:
    """``make`` creates the object, ``text`` describes it."""

    text: str
    make: Callable[[], Any]

    def __repr__(self) -> str:
        return self.text


def same(value: Any) -> Any:
    return value


def plain(value: Any) -> HostileValue:
    huge = isinstance(value, int) and abs(value) > 10**30
    return HostileValue("a huge int" if huge else repr(value), partial(same, value))


def raising(*_: object, **__: object) -> Any:
    raise HostileError


def endless(item: Callable[[int], Any]) -> Iterator[Any]:
    for at in itertools.count():
        if at > PATIENCE:
            raise EndlessRead
        yield item(at)


# What a hostile object may do instead of what its type does: raise, or lie.
OPERATORS: Final = (
    *("__eq__", "__hash__", "__str__", "__repr__", "__iter__", "__getitem__", "__len__", "__contains__", "__bool__"),
    *("__int__", "__index__", "__float__", "__lt__", "__le__", "__gt__", "__ge__", "__format__", "__reversed__"),
    *("__add__", "__mul__", "__neg__", "__ceil__"),
)
METHODS: Final = (
    *OPERATORS,
    *("keys", "items", "get", "encode", "replace", "strip", "total_seconds", "is_integer", "as_integer_ratio"),
    *("__getattr__", "__getattribute__"),
)
_LIES: Final[dict[str, Any]] = {
    "__eq__": lambda *_: True,
    "__hash__": lambda *_: 7,
    "__str__": lambda *_: "B",
    "__repr__": lambda *_: "-5",
    "__len__": lambda *_: 1,
    "__contains__": lambda *_: False,
    "__bool__": lambda *_: False,
    "__int__": lambda *_: -5,
    "__index__": lambda *_: -5,
    "__float__": lambda *_: math.nan,
    "__lt__": lambda *_: False,
    "__le__": lambda *_: False,
    "__gt__": lambda *_: False,
    "__ge__": lambda *_: False,
    "__format__": lambda *_: "B",
    "encode": lambda *_, **__: b"B}:session:x",
    "replace": lambda *_: "B",
    "strip": lambda *_: "B",
    "total_seconds": lambda *_: math.inf,
    "as_integer_ratio": lambda *_: (-5, 1),
    "__ceil__": lambda *_: -5,
}


def misbehaving(base: type, value: Any, raises: Sequence[str] = (), lies: Sequence[str] = ()) -> HostileValue:
    """``value`` as a subclass of its type, some of whose methods raise or lie."""

    def make() -> Any:
        methods: dict[str, Any] = {name: _LIES[name] for name in lies if name in _LIES}
        methods |= dict.fromkeys(raises, raising)
        if "__eq__" in methods:
            methods.setdefault("__hash__", base.__hash__)
        hostile = type("Hostile", (base,), methods)
        return hostile() if base is object else hostile(value)

    return HostileValue(f"{base.__name__}({value!r}) raising in {list(raises)}, lying in {list(lies)}", make)


def lying_class(kind: type) -> Any:
    """An object that says that it is of another class, as proxies do."""
    return type("LyingClass", (), {"__class__": property(lambda _: kind)})()


def unreadable_class() -> Any:
    """The same, by a proxy without what it stands for."""

    def unreadable(_: object) -> Any:
        raise HostileError

    return type("UnreadableClass", (), {"__class__": property(unreadable)})()


class EndlessSequence(Sequence[Any]):
    """Says that it has one item and has always one more."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self._item = item

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: Any) -> Any:
        return self._item(at)

    def __iter__(self) -> Iterator[Any]:
        return endless(self._item)


class FailingSequence(Sequence[Any]):
    """Fails at its ``at``-th item, or before the first."""

    def __init__(self, at: int, error: type[Exception]) -> None:
        self._at = at
        self._error = error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, at: Any) -> Any:
        if at >= self._at:
            raise self._error
        return f"code-{at}"


class ChangingSequence(Sequence[Any]):
    """Shows something else at each look: first what is right."""

    def __init__(self, *looks: Any) -> None:
        self._looks = list(looks)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: Any) -> Any:
        if at != 0:
            raise IndexError
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]


class LyingMapping(Mapping[Any, Any]):
    def __init__(self, names: Callable[[], Iterator[Any]], value: Callable[[Any], Any]) -> None:
        self._names = names
        self._value = value

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return self._names()

    def __getitem__(self, name: Any) -> Any:
        return self._value(name)

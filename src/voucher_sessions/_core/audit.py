"""The audit of a voucher: its locks added up, part by part, and held against the totals in its book.

The totals follow the locks in every script, so they differ only where other hands reached in: a key that was deleted or
evicted, a figure that was edited. An audit of many locks takes several calls; if the book changes between them, what
was counted may be of no single moment, and the audit begins anew.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, NamedTuple, Self, TypeVar

from voucher_sessions._core import scripts
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.replies import Reply, expect, yes
from voucher_sessions.results import Audit, Locked

T = TypeVar("T")
# Calls to be sent one after the other, each answered before the next; then the result.
Steps = Generator[Call[Any], Any, T]

_LOCKS_A_CALL: Final = 250  # as many as a script reclaims at most: it bounds how long the server is busy
_TRIES: Final = 20


class _Part(NamedTuple):
    """The reply 'counted'."""

    book: bytes
    recorded: Locked
    counted: Locked
    expiries_agree: bool
    next: int

    @classmethod
    def read(cls, reply: Reply) -> Self:
        book, *recorded_and_counted, agree, following = expect(reply, b"counted")
        if not isinstance(book, bytes):
            raise TypeError(f"bytes expected, not {book!r}")
        figures = list(map(int, recorded_and_counted))
        return cls(book, _locked(*figures[:3]), _locked(*figures[3:]), yes(agree), int(following))


def _locked(quantity: int, credits: int, points: int) -> Locked:
    return Locked(quantity=quantity, credits=credits, points=points)


def audit(keys: Keys, code: str) -> Steps[Audit]:
    """Held against the book of one moment; ``exact`` False where the voucher never stood still for long enough."""
    found, _ = yield from _walk(keys, code)
    return found


def repair(keys: Keys, code: str) -> Steps[Audit]:
    """The audit, and where the totals differ they are set to what it counted."""
    before: Audit | None = None
    for _ in range(_TRIES):
        found, book = yield from _walk(keys, code)
        if not found.exact:
            break
        if not found.differs:  # perhaps since a repair went through whose reply was lost
            return before or found
        if (yield _repair(keys, code, book, found.counted)):
            return found
        before = found
    return found.model_copy(update={"exact": False})  # pyright: ignore[reportPossiblyUnboundVariable]  # _TRIES is above 0


def _walk(keys: Keys, code: str, tries: int = _TRIES) -> Steps[tuple[Audit, bytes]]:
    """The audit, and the book that it is of."""
    first: _Part = yield _count(keys, code, 0)
    part, counted = first, first.counted
    while part.next >= 0 and part.book == first.book:
        part = yield _count(keys, code, part.next)
        counted = _locked(*map(sum, zip(_figures(counted), _figures(part.counted), strict=True)))
    exact = part.book == first.book
    if not exact and tries > 1:
        return (yield from _walk(keys, code, tries - 1))
    differs = first.recorded != counted or not first.expiries_agree
    found = Audit(
        code=code,
        recorded=first.recorded,
        counted=counted,
        expiries_agree=first.expiries_agree,
        differs=differs,
        exact=exact,
    )
    return found, first.book


def _figures(locked: Locked) -> tuple[int, int, int]:
    return locked.quantity, locked.credits, locked.points


def _count(keys: Keys, code: str, start: int) -> Call[_Part]:
    return Call(
        verb="audit",
        codes=(code,),
        script=scripts.AUDIT,
        keys=keys.voucher(code),
        args=[start, _LOCKS_A_CALL],
        read=_Part.read,
        changes=False,
    )


def _repair(keys: Keys, code: str, book: bytes, counted: Locked) -> Call[bool]:
    return Call(
        verb="repair",
        codes=(code,),
        script=scripts.REPAIR,
        keys=keys.voucher(code),
        args=[book, *_figures(counted)],
        read=lambda reply: yes(expect(reply, b"repaired")[0]),
    )

"""The audit of a voucher: adds up its locks and compares the sums with the totals in its book.

Every script updates totals and locks together, so they differ only if something other than this library changed the
keys: a key was deleted or evicted, or a value was edited. One call counts a limited number of locks, so an audit of
many locks takes several calls. If the book changes between two of them, the sums may mix two states, and the audit
starts again.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

from voucher_sessions._core import scripts
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.replies import Reply, as_bool, as_bytes, without_status
from voucher_sessions._core.steps import Calls
from voucher_sessions.results import Audit, Locked

_LOCKS_PER_CALL: Final = 250  # the same limit as for reclaiming: it limits how long one script blocks the server
_TRIES: Final = 20


class _PartialCount(NamedTuple):
    """The reply 'counted': the sums of a part of the locks. ``next`` is where the next part starts, -1: no more."""

    book: bytes
    recorded: Locked
    counted: Locked
    expiries_agree: bool
    next: int

    @classmethod
    def read(cls, reply: Reply) -> Self:
        book, *recorded_and_counted, agree, following = without_status(reply, b"counted")
        amounts = list(map(int, recorded_and_counted))
        return cls(as_bytes(book), _locked(*amounts[:3]), _locked(*amounts[3:]), as_bool(agree), int(following))


def _locked(quantity: int, credits: int, points: int) -> Locked:
    return Locked(quantity=quantity, credits=credits, points=points)


def audit(keys: Keys, code: str) -> Calls[Audit]:
    """Compare locks and totals. ``exact`` is False if the book changed during each of 20 tries."""
    found, _ = yield from _walk("audit", keys, code)
    return found


def repair(keys: Keys, code: str) -> Calls[Audit]:
    """Audit, and set totals that differ to the sums that were counted."""
    before: Audit | None = None
    tries = 0
    while True:
        tries += 1
        found, book = yield from _walk("repair", keys, code)
        if found.exact and not found.differs:  # a repair whose reply was lost may have succeeded
            return before or found
        if found.exact and (yield _repair(keys, code, book, found.counted)):
            return found
        if not found.exact or tries == _TRIES:
            return found.model_copy(update={"exact": False})
        before = found


def _walk(verb: str, keys: Keys, code: str) -> Calls[tuple[Audit, bytes]]:
    """The audit, and the text of the book that it belongs to."""
    tries = 0
    while True:
        tries += 1
        first: _PartialCount = yield _count(verb, keys, code, 0)
        part, counted = first, first.counted
        while part.next >= 0 and part.book == first.book:
            part = yield _count(verb, keys, code, part.next)
            counted = _locked(*map(sum, zip(_amounts(counted), _amounts(part.counted), strict=True)))
        found = Audit(
            code=code,
            recorded=first.recorded,
            counted=counted,
            expiries_agree=first.expiries_agree,
            differs=first.recorded != counted or not first.expiries_agree,
            exact=part.book == first.book,
        )
        if found.exact or tries == _TRIES:
            return found, first.book


def _amounts(locked: Locked) -> tuple[int, int, int]:
    return locked.quantity, locked.credits, locked.points


def _count(verb: str, keys: Keys, code: str, start: int) -> Call[_PartialCount]:
    return Call(
        verb=verb,
        codes=(code,),
        script=scripts.AUDIT,
        keys=keys.voucher(code),
        args=[str(start), str(_LOCKS_PER_CALL)],
        read=_PartialCount.read,
        changes=False,
    )


def _repair(keys: Keys, code: str, book: bytes, counted: Locked) -> Call[bool]:
    return Call(
        verb="repair",
        codes=(code,),
        script=scripts.REPAIR,
        keys=keys.voucher(code),
        args=[book, *map(str, _amounts(counted))],
        read=lambda reply: as_bool(without_status(reply, b"repaired")[0]),
    )

"""Checks a voucher's stored totals against the locks in its index and the receipts since it was created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from support.model import parsed_receipt, read_book, stored_locks

LIMIT, USED, LOCKED, LOCKED_UNTIL = slice(2, 5), slice(5, 8), slice(8, 11), 12


def book_of(admin: redis.Redis, code: str) -> list[Any] | None:
    """As it is stored; None where there is no voucher, or the tombstone of one."""
    stored: Any = admin.get(f"vs:{{{code}}}")
    if stored is None:
        return None
    values, _ = read_book(stored)
    if values[0] == "deleted":
        return None
    assert len(values) == 14, values
    return values


def recount(admin: redis.Redis, *codes: str, damaged: bool = False) -> None:
    """Raise AssertionError where a book is not what its locks and receipts add up to, or has given more than it may.

    Locks that have expired may still be in both, and when all have, in the book alone. ``damaged``: something other than
    the engine had removed locks, so that others could lock the same; what is used must not exceed the limit even so.
    """
    for code in codes:
        book = book_of(admin, code)
        if book is None:
            continue
        locks = [(1, credits, points) for _, credits, points, _ in stored_locks(admin, code)]
        stored: Any = [admin.get(key) for key in admin.scan_iter(f"vs:{{{code}}}:redemption:*", count=1000)]
        spent = [receipt.kept for receipt in map(parsed_receipt, stored) if receipt.life == book[0]]
        if locks or now_ms(admin) < book[LOCKED_UNTIL]:
            assert book[LOCKED] == totals(locks), f"{code}: {book}"
        assert book[USED] == totals(spent), f"{code}: {book}"
        for limit, used, locked in zip(book[LIMIT], book[USED], book[LOCKED], strict=True):
            assert limit < 0 or used + (0 if damaged else locked) <= limit, f"{code}: {book}"


def now_ms(admin: redis.Redis) -> int:
    seconds, micros = admin.time()
    return int(seconds) * 1000 + int(micros) // 1000


def totals(amounts: Sequence[tuple[int, ...]]) -> list[int]:
    return [sum(each[at] for each in amounts) for at in range(3)]

"""The results that the model gives for a recorded call, in the form in which the recorder stores results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from support.model import REASONS, UNLIMITED, Amounts, Book, Books, Lock, Receipt, Refused

from faults.history import Op

FOREVER = 2**62  # later than everything in a history


# The verbs that change no receipt.
WITHOUT_RECEIPTS = {"validate", "release", "extend", "get_session", "get_voucher", "list_sessions", "get_redemption"}


def agrees(op: Op, expected: Any, seen: Any) -> bool:
    """Whether the caller got the result that the model gives."""
    if isinstance(expected, dict) and "error" in expected:
        return isinstance(seen, dict) and bool(expected.items() <= seen.items())
    if op.verb == "list_sessions" and isinstance(seen, dict) and "error" not in seen:
        return len(seen) == min(len(expected), op.args["limit"]) and bool(seen.items() <= expected.items())
    if op.verb == "validate" and locks(op, expected) and isinstance(seen, list):
        # If the voucher was deleted in between, the client's retry returns not_found.
        expected = [gone if gone["reason"] == "not_found" else each for each, gone in zip(expected, seen, strict=True)]
        return _without(expected, "available") == _without(seen, "available")
    same: bool = essence(op, expected) == essence(op, seen)
    return same


def locks(op: Op, expected: Any) -> bool:
    """Whether a validation with this result locks."""
    return op.args["key"] is not None and all(each["reason"] is None for each in expected)


def idle(op: Op) -> bool:
    """Whether a call with this result has changed nothing, whenever it ran."""
    if isinstance(op.seen, dict) and "error" in op.seen:
        return True
    match op.verb:
        case "put_voucher" | "extend":
            return False
        case "delete_voucher":
            return not op.seen
        case "adjust":
            return bool(op.seen[-1])
        case "validate":
            # With not_found, an earlier try of the call may have locked the voucher.
            return op.args["key"] is None or any(each["reason"] not in (None, "not_found") for each in op.seen)
        case "release":
            return not any(op.seen)
        case "redeem" | "rollback":
            return all(each[-1] for each in op.seen)
        case _:
            return True


def essence(op: Op, seen: Any) -> Any:
    """The result without the figures that a changing call returns beside what it did.

    Where a client has repeated the call by itself, they are those of the repetition, after whatever came in between.
    """
    if isinstance(seen, dict):  # an error
        return seen
    if op.verb == "put_voucher":
        return None
    if op.verb == "adjust" and not seen[-1]:
        return [*seen[:3], seen[-1]]
    if op.verb == "extend":  # another call may have changed the amounts
        return len(seen)
    if op.verb == "validate" and locks(op, seen):
        return _without(seen, "available")
    if op.verb == "redeem":  # somebody may have rolled back what it has redeemed
        return [each if each[-1] else [*each[:4], each[-1]] for each in seen]
    return seen


def _without(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{other: fact for other, fact in row.items() if other != name} for row in rows]


def answer(books: Books, op: Op, now: int) -> Any:
    """What the books answer, in the form of ``history.observed``; they are changed by it."""
    try:
        return _ANSWERS[op.verb](books, op.args, now)
    except Refused as refused:
        facts = {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in refused.facts.items()}
        facts.pop("retry_after_ms", None)
        return {"error": refused.name, **facts}


def _put(books: Books, args: dict[str, Any], now: int) -> Any:
    (code,), (quantity, credits, points), used = args["codes"], args["limit"], args["used"]
    limit = Amounts(UNLIMITED if quantity is None else quantity, credits, points)
    books.put(code, limit, quantity is None, Amounts(*used) if used else None, now, args["if_exists"])
    return _state(books.book(code), now)


def _adjust(books: Books, args: dict[str, Any], now: int) -> Any:
    (code,), (quantity, credits, points) = args["codes"], args["changes"]
    replayed = books.adjust(code, (quantity, credits, points), args["adjustment_id"], now)
    book = books.vouchers.get(code)
    return [quantity, credits, points, _state(book, now) if book else None, replayed]


def _validate(books: Books, args: dict[str, Any], now: int) -> Any:
    session = None if args["key"] is None else (args["key"], FOREVER)
    answers = books.validate_stack(args["needs"], session, args["release"], now)
    codes = [code for code, _, _ in args["needs"]]
    return [_validation(books.vouchers.get(code), *each) for code, each in zip(codes, answers, strict=True)]


def _redeem(books: Books, args: dict[str, Any], now: int) -> Any:
    done = books.redeem_stack(args["needs"], args["key"], args["id"], args["if_missing"], now)
    return [[*_taken(each), replayed] for each, replayed in done]


def _rollback(books: Books, args: dict[str, Any], now: int) -> Any:
    if "part" in args:
        (code,), (credits, points) = args["codes"], args["part"]
        return [[0, credits, points, books.partial_rollback(code, args["id"], credits, points, args["rollback_id"])]]
    return [[*each.left, replayed] for each, replayed in books.rollback_stack(args["codes"], args["id"])]


def _list_sessions(books: Books, args: dict[str, Any], now: int) -> Any:
    return {key: _locked(lock) for key, lock in books.book(args["codes"][0]).live(now).items()}


# By verb; each gets the books, the arguments and the time.
_ANSWERS: Final[dict[str, Callable[[Books, dict[str, Any], int], Any]]] = {
    "put_voucher": _put,
    "adjust": _adjust,
    "get_voucher": lambda books, args, now: _state(books.read(args["codes"][0], now), now),
    "delete_voucher": lambda books, args, now: books.delete(args["codes"][0]),
    "validate": _validate,
    "redeem": _redeem,
    "release": lambda books, args, now: [books.release(code, args["key"], now) for code in args["codes"]],
    "extend": lambda books, args, now: [
        _locked(lock) for lock in books.extend_stack(args["codes"], args["key"], FOREVER, now)
    ],
    "get_session": lambda books, args, now: [
        _locked(lock) for lock in books.live_locks(args["codes"], args["key"], now)
    ],
    "rollback": _rollback,
    "list_sessions": _list_sessions,
    "get_redemption": lambda books, args, now: _taken(books.receipt(args["codes"][0], args["id"])),
}


def _locked(lock: Lock) -> list[int]:
    return [*lock.amounts[1:]]


def _taken(receipt: Receipt) -> list[Any]:
    return [*receipt.taken, receipt.session_key, receipt.rolled_back, *receipt.given_back[1:]]


def _state(book: Book, now: int) -> list[list[int | None]]:
    limit: list[int | None] = [None if book.without_limit else book.limit.quantity, *book.limit[1:]]
    return [list(each) for each in zip(limit, book.used, book.locked(now), strict=True)]


def _validation(book: Book | None, verdict: Any, lock: Lock | None) -> dict[str, Any]:
    if book is None or verdict is None:
        return {"reason": "not_found", "held": False, "available": [0, 0, 0], "lock": None}
    quantity, credits, points = verdict.left
    return {
        "reason": None if verdict.short is None else REASONS[verdict.short][0],
        "held": verdict.held,
        "available": [None if book.without_limit else quantity, credits, points],
        "lock": _locked(lock) if lock else None,
    }


class State(NamedTuple):
    """What the books hold at a moment, to be compared, and when its locks expire at the latest."""

    vouchers: frozenset[Any]
    receipts: frozenset[Any]
    expiries: frozenset[Any]

    def agrees(self, other: State) -> bool:
        """Whether the books hold the same, whenever their locks expire."""
        return self[:2] == other[:2]


def state(books: Books, now: int, receipts: frozenset[Any] | None = None) -> State:
    """Where no receipt has changed, ``receipts`` of the state before save time."""
    vouchers, expiries = [], []
    for code, book in books.vouchers.items():
        live = book.live(now)
        locks = frozenset((key, lock.amounts) for key, lock in live.items())
        expiries += [(code, key, lock.expires_at) for key, lock in live.items()]
        vouchers.append((code, book.limit, book.without_limit, book.used, locks))
    if receipts is None:
        lives = {code: book.life for code, book in books.vouchers.items()}
        receipts = frozenset(
            # Of a life that has ended it is of no matter which it was.
            (
                name,
                receipt.life == lives.get(name[0]),
                receipt.session_key,
                receipt.taken,
                receipt.stack,
                receipt.back,
                receipt.rolled_back,
            )
            for name, receipt in books.receipts.items()
        )
        receipts |= {(name, done.life == lives.get(name[0]), done.changes) for name, done in books.adjustments.items()}
        receipts |= set(books.rollbacks.items())
    return State(frozenset(vouchers), receipts, frozenset(expiries))

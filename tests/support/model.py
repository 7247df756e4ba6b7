"""A model of the vouchers in plain Python: the rules of DESIGN.md without Redis, scripts or keys.

It gets the time as a number, which may also go back: the state machine compares every result with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, NamedTuple

from lua_tools import sources as lua_sources


def constants(names: str) -> list[int]:
    """What lua/book.lua says in one line."""
    values = lua_sources.source("book").partition(f"local {names} = ")[2].partition("\n")[0].partition(" --")[0]
    return [int(value) for value in values.split(",")]


# How long ended sessions and deleted vouchers keep their last values.
(TOMBSTONE_MS,) = constants("TOMBSTONE_MS")
# How much longer than its last lock an index stays.
(LINGER_MS,) = constants("LINGER_MS")

MAX_NUMBER = UNLIMITED = 2**53 - 1


def read_book(stored: Any) -> tuple[list[Any], str]:
    """A book as lua/book.lua describes it: its values, and behind them the session key of its only lock, or ''."""
    text: str = stored.decode()
    assert text[0] == "1", "the format"
    values, end = json.JSONDecoder().raw_decode(text, 1)
    return values, text[end:]


def written_book(values: list[Any], only_key: str = "") -> str:
    return "1" + json.dumps(values, separators=(",", ":")) + only_key


def edit_book(admin: Any, code: str, at: int, value: int) -> None:
    """Change one word of the voucher's key, as nothing but a test does."""
    key = f"vs:{{{code}}}"
    values, only_key = read_book(admin.get(key))
    values[at] = value
    admin.set(key, written_book(values, only_key))


def stored_locks(admin: Any, code: str) -> list[tuple[str, int, int, int]]:
    """Session key, credits, points and expiry of each lock, whether the index has it or, alone, the book."""
    values, only_key = read_book(admin.get(f"vs:{{{code}}}"))
    locks = [(only_key, values[9], values[10], values[12])] if only_key else []
    for member, expires_at in admin.zrange(f"vs:{{{code}}}:locks", 0, -1, withscores=True):
        credits, points, key = member.split(b" ", 2)
        locks.append((key.decode(), int(credits), int(points), int(expires_at)))
    return locks


class Amounts(NamedTuple):
    quantity: int = 0
    credits: int = 0
    points: int = 0

    def plus(self, other: Amounts, sign: int = 1) -> Amounts:
        return Amounts(
            max(0, self.quantity + sign * other.quantity),
            max(0, self.credits + sign * other.credits),
            max(0, self.points + sign * other.points),
        )


def total(amounts: Iterable[Amounts]) -> Amounts:
    return reduce(Amounts.plus, amounts, Amounts())


class StoredReceipt(NamedTuple):
    """A receipt of a redemption as lua/book.lua describes it."""

    life: str
    taken: Amounts
    call_id: str
    back: Amounts  # by partial rollbacks
    rolled_back: bool  # the rest, too

    @property
    def kept(self) -> Amounts:
        """What has not been given back."""
        return Amounts() if self.rolled_back else self.taken.plus(self.back, -1)


def read_receipt(admin: Any, code: str, redemption_id: str) -> StoredReceipt:
    return parsed_receipt(admin.get(f"vs:{{{code}}}:redemption:{redemption_id}"))


def parsed_receipt(stored: bytes) -> StoredReceipt:
    format_, life, *taken, _, call_id, _, given_back, _ = stored.decode().split(" ", 9)
    assert format_ == "1", "the format"
    credits, points, rolled_back_by = ("0,0,-" if given_back == "-" else given_back).split(",")
    back = Amounts(0, int(credits), int(points))
    return StoredReceipt(life, Amounts(*map(int, taken)), call_id, back, rolled_back_by != "-")


@dataclass
class Lock:
    amounts: Amounts
    expires_at: int


@dataclass
class Receipt:
    life: int
    session_key: str | None
    taken: Amounts
    at: int
    stack: frozenset[str]  # the codes that were redeemed together
    back: Amounts = field(default_factory=Amounts)  # what partial rollbacks have given back
    rolled_back: bool = False  # the rest, too

    @property
    def left(self) -> Amounts:
        """What the rollback of the rest gives back, or has given back."""
        return self.taken.plus(self.back, -1)

    @property
    def given_back(self) -> Amounts:
        return self.taken if self.rolled_back else self.back

    @property
    def pays(self) -> bool:
        """Whether the redemption still pays for its order: not all of it was given back."""
        taken = self.taken[1:]
        return not self.rolled_back and (taken == (0, 0) or taken != self.back[1:])


class AdjustmentReceipt(NamedTuple):
    life: int
    changes: tuple[int, int, int]


class RollbackReceipt(NamedTuple):
    redemption_id: str
    credits: int
    points: int


@dataclass
class Book:
    limit: Amounts
    without_limit: bool
    life: int  # another one each time that the code is created
    used: Amounts = field(default_factory=Amounts)
    # Those that count, as soon as the clock shows a time before their expiry: what was taken out is in here no more.
    sessions: dict[str, Lock] = field(default_factory=dict)

    def live(self, now: int) -> dict[str, Lock]:
        return {key: lock for key, lock in self.sessions.items() if now < lock.expires_at}

    def reclaim(self, now: int) -> None:
        """Take out the locks that have expired: for good, whatever time the clock shows later."""
        self.sessions = self.live(now)

    def locked(self, now: int, besides: str | None = None) -> Amounts:
        return total(lock.amounts for key, lock in self.live(now).items() if key != besides)

    def deals_in_amounts(self) -> bool:
        """Whether a redemption of it can take credits or points."""
        return any((*self.limit[1:], *self.used[1:]))


class Refused(Exception):
    """A domain error, by the name of its class and its facts."""

    def __init__(self, name: str, **facts: Any) -> None:
        super().__init__(name, facts)
        self.name = name
        self.facts = facts


BALANCES = ("quantity", "credits", "points")
REASONS = (
    ("quantity_exceeded", "QuantityExceeded"),
    ("gift_amount_exceeded", "GiftAmountExceeded"),
    ("loyalty_card_points_exceeded", "LoyaltyPointsExceeded"),
)


class Verdict(NamedTuple):
    short: int | None  # which of the three balances falls short
    held: bool
    retry_after: int | None
    left: tuple[int, int, int]


class Books:
    """All vouchers and receipts.

    Every call that judges a voucher, or shows how much of it is locked, takes out the locks that have expired first.
    """

    def __init__(self) -> None:
        self.vouchers: dict[str, Book] = {}
        self.receipts: dict[tuple[str, str], Receipt] = {}
        self.rollbacks: dict[tuple[str, str], RollbackReceipt] = {}  # the partial ones
        self.adjustments: dict[tuple[str, str], AdjustmentReceipt] = {}
        self.lives = 0
        # The sessions that have ever been live, and when they were released or redeemed last, if they were.
        self.ended: dict[tuple[str, str], int | None] = {}

    def copy(self) -> Books:
        """The same, to be led another way. Locks and receipts, which are replaced and not changed, are shared."""
        other = Books()
        for code, book in self.vouchers.items():
            other.vouchers[code] = Book(book.limit, book.without_limit, book.life, book.used, dict(book.sessions))
        other.receipts = dict(self.receipts)
        other.rollbacks = dict(self.rollbacks)
        other.adjustments = dict(self.adjustments)
        other.lives = self.lives
        other.ended = dict(self.ended)
        return other

    def judge(self, book: Book, need: Amounts, key: str | None, now: int) -> Verdict:
        def short(left: tuple[int, ...]) -> int | None:
            return next((at for at in range(3) if need[at] > 0 and left[at] < need[at]), None)

        own = book.live(now)[key].amounts if key in book.live(now) else Amounts()
        others = book.locked(now, besides=key)
        unspent = tuple(limit - used for limit, used in zip(book.limit, book.used, strict=True))
        # Its own lock is the caller's up to what is unspent, even if the locks of all exceed that.
        quantity, credits, points = (max(0, unspent[at] - others[at], min(own[at], unspent[at])) for at in range(3))
        left = quantity, credits, points
        held = short(left) is not None and short(unspent) is None
        retry = min(lock.expires_at for other, lock in book.live(now).items() if other != key) - now if held else None
        return Verdict(short(left), held, retry, left)

    def put(
        self,
        code: str,
        limit: Amounts,
        without_limit: bool,
        used: Amounts | None,
        now: int,
        if_exists: str = "update",
    ) -> None:
        book = self.vouchers.get(code)
        if book is None:
            self.lives += 1
            self.vouchers[code] = Book(limit, without_limit, self.lives, used or Amounts())
            return
        book.reclaim(now)
        if if_exists == "raise":
            raise Refused("VoucherExists", code=code)
        if if_exists == "update":
            book.limit, book.without_limit = limit, without_limit
            book.used = book.used if used is None else used

    def adjust(self, code: str, changes: tuple[int, int, int], adjustment_id: str, now: int) -> bool:
        """Whether it is a replay."""
        book, done = self.vouchers.get(code), self.adjustments.get((code, adjustment_id))
        if book is None and done is None:
            self.refuse_without("VoucherNotFound", [code])
        if book is not None:
            book.reclaim(now)
        if done is not None:
            if done.changes != changes or (book is not None and book.life != done.life):
                raise Refused("AdjustmentConflict", code=code, adjustment_id=adjustment_id)
            return True
        assert book is not None
        for at, change in enumerate(changes):
            has_limit = not (at == 0 and book.without_limit)
            if change and not (has_limit and 0 <= book.limit[at] + change <= MAX_NUMBER):
                limit = book.limit[at] if has_limit else None
                raise Refused("AdjustmentRefused", code=code, balance=BALANCES[at], limit=limit, change=change)
        book.limit = Amounts(*(limit + change for limit, change in zip(book.limit, changes, strict=True)))
        self.adjustments[code, adjustment_id] = AdjustmentReceipt(book.life, changes)
        return False

    def delete(self, code: str) -> bool:
        return self.vouchers.pop(code, None) is not None

    def book(self, code: str) -> Book:
        """As it is: nothing is taken out."""
        if code not in self.vouchers:
            raise Refused("VoucherNotFound", code=code, codes=(code,))
        return self.vouchers[code]

    def read(self, code: str, now: int) -> Book:
        book = self.book(code)
        book.reclaim(now)
        return book

    def lock(self, code: str, key: str, lock: Lock) -> None:
        self.vouchers[code].sessions[key] = lock
        self.ended[code, key] = None

    def live_locks(self, codes: Sequence[str], key: str, now: int) -> list[Lock]:
        """The locks of a session. Nothing is reclaimed."""
        self.refuse_without("VoucherNotFound", [code for code in codes if code not in self.vouchers])
        not_live = [code for code in codes if key not in self.vouchers[code].live(now)]
        self.refuse_without("SessionNotFound", not_live, session_key=key)
        return [self.vouchers[code].sessions[key] for code in codes]

    def extend_stack(self, codes: Sequence[str], key: str, ttl_ms: int, now: int) -> list[Lock]:
        """The locks with the new expiry, all or none."""
        locks = [Lock(lock.amounts, now + ttl_ms) for lock in self.live_locks(codes, key, now)]
        for code, lock in zip(codes, locks, strict=True):
            self.lock(code, key, lock)
        return locks

    def end(self, code: str, key: str, now: int) -> bool:
        """Remove the lock of a session, by release or redeem. False: it is not live."""
        book = self.vouchers.get(code)
        if book is None or key not in book.live(now):
            return False
        del book.sessions[key]
        self.ended[code, key] = now
        return True

    def forget(self, now: int) -> None:
        """When sessions ended so long ago that nothing may be left of it at this time."""
        for name, ended_at in self.ended.items():
            if ended_at is not None and now >= ended_at + TOMBSTONE_MS:
                self.ended[name] = None

    def validate(
        self, code: str, credits: int, points: int, session: tuple[str, int] | None, now: int
    ) -> tuple[Verdict | None, Lock | None]:
        """The verdict (None: no such voucher) and the caller's live lock afterwards."""
        ((verdict, lock),) = self.validate_stack([(code, credits, points)], session, (), now)
        return verdict, lock

    def validate_stack(
        self,
        needs: Sequence[tuple[str, int | None, int | None]],
        session: tuple[str, int] | None,
        release: Sequence[str],
        now: int,
    ) -> list[tuple[Verdict | None, Lock | None]]:
        """The same of each; locked are all or none."""
        key = session[0] if session else None
        verdicts: list[Verdict | None] = []
        for code, credits, points in needs:
            book, need = self.vouchers.get(code), Amounts(1, credits or 0, points or 0)
            if book:
                book.reclaim(now)
            verdicts.append(self.judge(book, need, key, now) if book else None)
        if session is not None and all(verdict and verdict.short is None for verdict in verdicts):
            for code, credits, points in needs:
                self.lock(code, session[0], Lock(Amounts(1, credits or 0, points or 0), now + session[1]))
            for code in release:
                self.end(code, session[0], now)
        books = [self.vouchers.get(code) for code, _, _ in needs]
        locks = [book.live(now).get(key) if book and key else None for book in books]
        return list(zip(verdicts, locks, strict=True))

    def redeem(
        self,
        code: str,
        credits: int | None,
        points: int | None,
        key: str | None,
        redemption_id: str,
        if_missing: str,
        now: int,
    ) -> tuple[Receipt, bool]:
        """The receipt, and whether it is a replay."""
        (result,) = self.redeem_stack([(code, credits, points)], key, redemption_id, if_missing, now)
        return result

    def redeem_stack(
        self,
        needs: Sequence[tuple[str, int | None, int | None]],
        key: str | None,
        redemption_id: str,
        if_missing: str,
        now: int,
    ) -> list[tuple[Receipt, bool]]:
        """The same of each; redeemed are all or none. The refusals come in the order in which they are judged."""
        codes = [code for code, _, _ in needs]
        if any((code, redemption_id) in self.receipts for code in codes):
            return [(receipt, True) for receipt in self.repeated(needs, key, redemption_id)]
        for code in codes:
            if code in self.vouchers:
                self.vouchers[code].reclaim(now)
        self.refuse_without("VoucherNotFound", [code for code in codes if code not in self.vouchers])
        books = [self.vouchers[code] for code in codes]
        owns = [book.live(now).get(key) if key is not None else None for book in books]
        if key is not None and if_missing == "raise":
            not_live = [code for code, own in zip(codes, owns, strict=True) if own is None]
            self.refuse_without("SessionNotFound", not_live, session_key=key)
        self.refuse_without(
            "AmountRequired",
            [
                code
                for (code, credits, points), book, own in zip(needs, books, owns, strict=True)
                if own is None and credits is None and points is None and book.deals_in_amounts()
            ],
        )
        taken = []
        for (_, credits, points), own in zip(needs, owns, strict=True):
            mine = own.amounts if own else Amounts()
            taken.append(
                Amounts(1, mine.credits if credits is None else credits, mine.points if points is None else points)
            )
        for code, book, need in zip(codes, books, taken, strict=True):
            self.refuse(code, self.judge(book, need, key, now), need)
        done = []
        for code, book, need in zip(codes, books, taken, strict=True):
            if key is not None:
                self.end(code, key, now)
            book.used = book.used.plus(need)
            receipt = Receipt(book.life, key, need, now, frozenset(codes))
            self.receipts[code, redemption_id] = receipt
            done.append((receipt, False))
        return done

    def repeated(
        self, needs: Sequence[tuple[str, int | None, int | None]], key: str | None, redemption_id: str
    ) -> list[Receipt]:
        """The receipts of an id that was used before, if this is the same request and nothing was rolled back."""
        found = [(need, self.receipts.get((need[0], redemption_id))) for need in needs]
        codes = frozenset(code for code, _, _ in needs)
        if all(receipt for _, receipt in found):
            others = [
                code
                for (code, credits, points), receipt in found
                if receipt and not self.agrees(receipt, key, credits, points, codes)
            ]
        else:
            others = [code for (code, _, _), receipt in found if receipt]
        if others:
            raise Refused("RedemptionConflict", code=others[0], redemption_id=redemption_id)
        rolled_back = [code for (code, _, _), receipt in found if receipt and not receipt.pays]
        if rolled_back:
            raise Refused("RedemptionRolledBack", code=rolled_back[0], redemption_id=redemption_id)
        return [receipt for _, receipt in found if receipt]

    @staticmethod
    def agrees(
        receipt: Receipt, key: str | None, credits: int | None, points: int | None, codes: frozenset[str]
    ) -> bool:
        named = credits in (None, receipt.taken.credits) and points in (None, receipt.taken.points)
        return named and key == receipt.session_key and codes == receipt.stack

    @staticmethod
    def refuse_without(name: str, codes: Sequence[str], **facts: Any) -> None:
        """An error that names the vouchers that lack something."""
        if codes:
            raise Refused(name, code=codes[0], codes=tuple(codes), **facts)

    @staticmethod
    def refuse(code: str, verdict: Verdict, need: Amounts) -> None:
        if verdict.short is None:
            return
        reason, error = REASONS[verdict.short]
        raise Refused(
            error,
            code=code,
            reason=reason,
            requested=need[verdict.short],
            available=verdict.left[verdict.short],
            locked_by_others=verdict.held,
            retry_after_ms=verdict.retry_after,
        )

    def release(self, code: str, key: str, now: int) -> bool:
        return self.end(code, key, now)

    def rollback(self, code: str, redemption_id: str) -> tuple[Receipt, bool]:
        """The receipt, and whether it is a replay."""
        (result,) = self.rollback_stack([code], redemption_id)
        return result

    def rollback_stack(self, codes: Sequence[str], redemption_id: str) -> list[tuple[Receipt, bool]]:
        """The same of each; rolled back are all or none."""
        receipts = [self.receipt(code, redemption_id) for code in codes]
        done = []
        for code, receipt in zip(codes, receipts, strict=True):
            done.append((receipt, receipt.rolled_back))
            if receipt.rolled_back:
                continue
            self.receipts[code, redemption_id] = replace(receipt, rolled_back=True)
            self.give_back(code, receipt.life, receipt.left)
        return done

    def partial_rollback(self, code: str, redemption_id: str, credits: int, points: int, rollback_id: str) -> bool:
        """Whether it is a replay."""
        done, wanted = self.rollbacks.get((code, rollback_id)), RollbackReceipt(redemption_id, credits, points)
        if done is not None:
            if done != wanted:
                raise Refused("RedemptionConflict", code=code, redemption_id=redemption_id, rollback_id=rollback_id)
            return True
        receipt, amounts = self.receipt(code, redemption_id), Amounts(0, credits, points)
        left = Amounts() if receipt.rolled_back else receipt.left
        for at in (1, 2):
            if amounts[at] > left[at]:
                raise Refused(
                    "RollbackExceeded",
                    code=code,
                    redemption_id=redemption_id,
                    balance=BALANCES[at],
                    requested=amounts[at],
                    available=left[at],
                )
        self.rollbacks[code, rollback_id] = wanted
        self.receipts[code, redemption_id] = replace(receipt, back=receipt.back.plus(amounts))
        self.give_back(code, receipt.life, amounts)
        return False

    def give_back(self, code: str, life: int, amounts: Amounts) -> None:
        """What a redemption gives back, unless it was one of an earlier life of the voucher."""
        book = self.vouchers.get(code)
        if book is not None and book.life == life:
            book.used = book.used.plus(amounts, -1)

    def receipt(self, code: str, redemption_id: str) -> Receipt:
        if (code, redemption_id) not in self.receipts:
            raise Refused("RedemptionNotFound", code=code, redemption_id=redemption_id)
        return self.receipts[code, redemption_id]

"""Random histories of all verbs: after every step the results are compared with a model in plain Python.

On fakeredis the test moves the clock, by 1 ms to days, and back. On real servers it waits: locks there are either short,
and have expired before the next step, or last for hours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import fakeredis
import pytest
import time_machine
from conftest import BlockingAsync
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.model import (
    LINGER_MS,
    REASONS,
    TOMBSTONE_MS,
    UNLIMITED,
    Amounts,
    Books,
    Lock,
    Receipt,
    Refused,
    Verdict,
    read_book,
    read_receipt,
    stored_locks,
    total,
)
from support.moved_clock import FakeClock
from support.servers import BINARIES, Server

from voucher_sessions import (
    AsyncVoucherSessions,
    InvalidRequest,
    Redeemable,
    RedemptionRolledBack,
    Used,
    Voucher,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions.models import MAX_NUMBER, ttl_in_ms

pytestmark = pytest.mark.unmeasured

CODES = st.sampled_from(["A", "B"])
KEYS = st.sampled_from(["k1", "k2", "k3"])
IDS = st.sampled_from(["o1", "o2", "o3"])
IDS_OR_NEW = IDS | st.none()
ROLLBACK_IDS = st.sampled_from(["r1", "r2"])
ADJUSTMENT_IDS = st.sampled_from(["a1", "a2"])
AMOUNTS = st.integers(0, 4)
MAYBE_AMOUNTS = st.none() | AMOUNTS
IF_EXISTS = st.sampled_from(["update", "update", "keep", "raise"])
# As much as leaves a voucher something to give, more often than not.
LIMITS = st.builds(Amounts, st.sampled_from([3, 2, 4, 1, 0]), st.sampled_from([6, 9, 3, 0]), st.sampled_from([5, 3, 0]))
USED = st.builds(Amounts, st.integers(0, 2), AMOUNTS, AMOUNTS)
# Mostly small changes of limits; the largest number fits only if nothing was there.
CHANGE = st.sampled_from([0, 0, 1, -1, 2, -2, 3, -3, 5, UNLIMITED, -UNLIMITED])
LIMIT_CHANGES = st.tuples(CHANGE, CHANGE, CHANGE)
HOUR = 3_600_000
WEEK = 7 * 24 * HOUR
IF_MISSING = st.sampled_from(["raise", "redeem"])
# How a request that is made again under its id differs from the first.
CHANGES = st.sampled_from(["nothing", "fewer", "more", "order", "session", "amounts", "names no amounts"])
# Sessions, the credits and points that they lock, and for how many ms.
Others = list[tuple[str, int, int, int]]
OTHERS = st.lists(
    st.tuples(KEYS, st.integers(0, 3), st.sampled_from([0, 0, 1, 2]), st.sampled_from([HOUR, 1000, 10])),
    min_size=1,
    max_size=3,
    unique_by=lambda each: each[0],
)
RECEIPTS = (":redemption:", ":rollback:", ":adjustment:")
STACKS = st.lists(
    st.builds(Redeemable, code=CODES, credits=MAYBE_AMOUNTS, points=MAYBE_AMOUNTS),
    min_size=1,
    max_size=2,
    unique_by=lambda each: each.code,
)


def needs(stack: list[Redeemable]) -> list[tuple[str, int | None, int | None]]:
    return [(each.code, each.credits, each.points) for each in stack]


class Machine(RuleBasedStateMachine):
    """The rules. What it runs on is said by subclasses."""

    TTLS = st.sampled_from([None, 1, 2, 10, 1000, HOUR, 24 * HOUR, WEEK])  # None: the engine's default
    STEPS = st.sampled_from([1, 2, 9, 10, 999, 1000, HOUR, 24 * HOUR, WEEK])
    slack_ms = shortest_ttl_ms = 0
    has_stacks = True
    default_ttl_ms, max_ttl_ms = WEEK, 3650 * 24 * HOUR

    engine: VoucherSessions
    admin: Any

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.books = Books()
        self.held: dict[str, tuple[int, ...]] = {}  # what each voucher had given and locked, one step before
        self.gone_back_ms = 0
        self.open()

    def open(self) -> None:
        raise NotImplementedError

    def move(self, ms: int) -> None:
        raise NotImplementedError

    def now(self) -> int:
        """The server's time, at which the next call will happen."""
        seconds, micros = self.admin.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def teardown(self) -> None:
        self.stack.close()

    def same_time(self, seen: int, expected: int) -> None:
        assert abs(seen - expected) <= self.slack_ms

    def outcome(self, call: Callable[[], Any], model: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Both results, or None when both refused alike."""
        expected = self.expected(model)
        if isinstance(expected, Refused):
            with pytest.raises(VoucherSessionsError) as raised:
                call()
            assert type(raised.value).__name__ == expected.name
            for fact, value in expected.facts.items():
                seen = getattr(raised.value, fact)
                if fact == "retry_after_ms" and value is not None:
                    self.same_time(seen, value)
                else:
                    assert seen == value, fact
            if isinstance(raised.value, RedemptionRolledBack):
                code, redemption_id = expected.facts["code"], expected.facts["redemption_id"]
                receipt = self.books.receipts[code, redemption_id]
                self.agree_on_redemption(code, redemption_id, raised.value.redemption, receipt, replayed=True)
            return None
        return call(), expected

    @staticmethod
    def expected(model: Callable[[], Any]) -> Any:
        try:
            return model()
        except Refused as refused:
            return refused

    @initialize()
    def begin(self) -> None:
        self.put("A", Amounts(3, 6, 5), False, None, "update")
        self.put("B", Amounts(2, 9, 2), False, None, "update")

    @rule(
        code=CODES,
        limit=LIMITS,
        without_limit=st.sampled_from([False, False, True]),
        used=st.none() | st.none() | USED,
        if_exists=IF_EXISTS,
    )
    def put(self, code: str, limit: Amounts, without_limit: bool, used: Amounts | None, if_exists: Any) -> None:
        quantity, credits, points = limit
        voucher = Voucher(code=code, quantity=None if without_limit else quantity, credits=credits, points=points)
        brought = Used(quantity=used[0], credits=used[1], points=used[2]) if used else None
        now = self.now()
        stored = Amounts(UNLIMITED if without_limit else quantity, credits, points)
        both = self.outcome(
            lambda: self.engine.put_voucher(voucher, used=brought, if_exists=if_exists),
            lambda: self.books.put(code, stored, without_limit, used, now, if_exists),
        )
        self.held.pop(code, None)
        if both:
            self.agree_on_state(code, both[0], now)

    @rule(code=CODES, changes=LIMIT_CHANGES, adjustment_id=ADJUSTMENT_IDS | st.none())
    def adjust(self, code: str, changes: tuple[int, int, int], adjustment_id: str | None) -> None:
        quantity, credits, points = changes
        now, adjustment_id = self.now(), adjustment_id or f"new{len(self.books.adjustments)}"

        def call() -> Any:
            return self.engine.adjust(
                code, quantity=quantity, credits=credits, points=points, adjustment_id=adjustment_id
            )

        if changes == (0, 0, 0):
            with pytest.raises(InvalidRequest):
                call()
            return
        both = self.outcome(call, lambda: self.books.adjust(code, changes, adjustment_id, now))
        if both:
            done, replayed = both
            assert (done.id, done.code, done.replayed) == (adjustment_id, code, replayed)
            assert (done.quantity, done.credits, done.points) == changes
            assert (done.voucher is not None) == (code in self.books.vouchers)
            if done.voucher is not None:
                self.agree_on_state(code, done.voucher, now)

    @precondition(lambda self: self.books.adjustments)
    @rule(which=st.integers(0, 5), change=st.sampled_from([0, 0, 1]), delete=st.sampled_from([None, False, True]))
    def adjust_again(self, which: int, change: int, delete: bool | None) -> None:
        """Repeat an adjustment under its id, or use the id for another. The voucher may be deleted, and put again."""
        (code, adjustment_id), done = sorted(self.books.adjustments.items())[which % len(self.books.adjustments)]
        if delete is not None:
            self.delete(code, put_again=delete)
        quantity, credits, points = done.changes
        other = max(-MAX_NUMBER, min(points + change, MAX_NUMBER))  # beyond, no adjustment can ask for it
        self.adjust(code, (quantity, credits, other), adjustment_id)

    @precondition(lambda self: self.locks())
    @rule(which=st.integers(0, 5), below=st.builds(Amounts, st.integers(0, 2), AMOUNTS, AMOUNTS), others=OTHERS)
    def lower_limits(self, which: int, below: Amounts, others: Others) -> None:
        """To what is used and locked or below that; then a holder of a lock is served, or not."""
        code, key, lock = self.chosen_lock(which)
        self.lock_for_several(code, others)
        book = self.books.vouchers[code]
        self.put(code, book.used.plus(book.locked(self.now())).plus(below, -1), False, None, "update")
        self.lock(code, key, *lock.amounts[1:], HOUR)
        self.redeem(code, None, None, key, None, "raise")

    @rule(code=CODES, used=st.none() | USED, key=st.none() | KEYS)
    def redeem_what_deals_in_no_amounts_any_more(self, code: str, used: Amounts | None, key: str | None) -> None:
        """Credits and points are limited to 0, but some may have been used."""
        quantity = self.books.vouchers[code].used.quantity if code in self.books.vouchers else 0
        self.put(code, Amounts(quantity + 1, 0, 0), False, used, "update")
        self.redeem(code, None, None, key, None, "redeem")

    def locks(self) -> list[tuple[str, str, Lock]]:
        """The live ones, the soonest to expire first."""
        now, books = self.now(), self.books.vouchers
        live = [(code, key, lock) for code in sorted(books) for key, lock in books[code].live(now).items()]
        return sorted(live, key=lambda each: each[2].expires_at)

    def new_id(self) -> str:
        return f"new{len(self.books.receipts)}"

    def chosen_lock(self, which: int) -> tuple[str, str, Lock]:
        locks = self.locks()
        return locks[which % len(locks)]

    @rule(code=CODES)
    def get(self, code: str) -> None:
        now = self.now()
        both = self.outcome(lambda: self.engine.get_voucher(code), lambda: self.books.read(code, now))
        if both:
            self.agree_on_state(code, both[0], now)

    @rule(code=CODES)
    def audit(self, code: str) -> None:
        now = self.now()
        both = self.outcome(lambda: self.engine.audit(code), lambda: self.books.read(code, now))
        if both:
            audit, book = both
            assert (audit.differs, audit.expiries_agree, audit.exact) == (False, True, True)
            for counted in (audit.recorded, audit.counted):
                assert (counted.quantity, counted.credits, counted.points) == book.locked(now)

    def agree_on_state(self, code: str, state: Any, now: int) -> None:
        book = self.books.vouchers[code]
        locked = book.locked(now)
        for at, balance in enumerate((state.quantity, state.credits, state.points)):
            assert (balance.used, balance.locked) == (book.used[at], locked[at])
            if at == 0 and book.without_limit:
                assert (balance.limit, balance.available) == (None, None)
            else:
                assert balance.limit == book.limit[at]
                assert balance.available == max(0, book.limit[at] - book.used[at] - locked[at])

    @rule(code=CODES, put_again=st.sampled_from([True, True, False]))
    def delete(self, code: str, put_again: bool) -> None:
        assert self.engine.delete_voucher(code) == self.books.delete(code)
        if put_again:
            self.put(code, Amounts(2, 6, 3), False, None, "raise")

    @rule(code=CODES, more=LIMITS, others=OTHERS)
    def raise_limits(self, code: str, more: Amounts, others: Others) -> None:
        """So that there is something to lock, and somebody locks it."""
        book = self.books.vouchers.get(code)
        self.put(code, book.used.plus(more) if book else more, False, None, "update")
        self.lock_for_several(code, others)

    @rule(code=CODES, others=OTHERS)
    def lock_for_several(self, code: str, others: Others) -> None:
        for key, credits, points, ttl_ms in others:
            self.lock(code, key, credits, points, ttl_ms)

    def lock(self, code: str, key: str, credits: int, points: int, ttl_ms: int) -> None:
        ttl_ms = max(ttl_ms, self.shortest_ttl_ms)
        now = self.now()
        verdict, lock = self.books.validate(code, credits, points, (key, ttl_ms), now)
        session = {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
        answer = self.engine.validate(code, credits=credits, points=points, session=session)
        self.agree_on_validation(code, answer, verdict, lock, key, ttl_ms if answer.valid else None)

    @rule(code=CODES, credits=AMOUNTS, points=AMOUNTS, key=st.none() | KEYS, data=st.data())
    def validate(self, code: str, credits: int, points: int, key: str | None, data: st.DataObject) -> None:
        session, ttl_ms = self.session(key, data)
        now = self.now()
        verdict, lock = self.books.validate(code, credits, points, (key, ttl_ms) if key else None, now)
        answer = self.engine.validate(code, credits=credits, points=points, session=session)
        self.agree_on_validation(code, answer, verdict, lock, key, ttl_ms if answer.valid else None)

    def session(self, key: str | None, data: st.DataObject) -> tuple[dict[str, Any] | None, int]:
        """To be given to validate, and for how many ms it locks."""
        if key is None:
            return None, 0
        ttl_ms = data.draw(self.TTLS)
        if ttl_ms is None:
            return {"type": "LOCK", "key": key}, self.default_ttl_ms
        return {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}, ttl_ms

    @rule(code=CODES, key=KEYS)
    def validate_for_too_long(self, code: str, key: str) -> None:
        session = {"type": "LOCK", "key": key, "ttl": self.max_ttl_ms + 1, "ttl_unit": "MILLISECONDS"}
        with pytest.raises(InvalidRequest):
            self.engine.validate(code, session=session)

    @rule(code=CODES, key=KEYS)
    def get_session(self, code: str, key: str) -> None:
        now = self.now()
        both = self.outcome(lambda: self.engine.get_session(code, key), lambda: self.books.live_locks([code], key, now))
        if both:
            self.agree_on_session(key, both[0], both[1][0], None)

    @rule(code=CODES, key=KEYS, data=st.data())
    def extend(self, code: str, key: str, data: st.DataObject) -> None:
        self.extend_to([code], key, data.draw(self.TTLS))

    @rule(codes=st.permutations(["A", "B"]), key=KEYS, data=st.data())
    def extend_stack(self, codes: list[str], key: str, data: st.DataObject) -> None:
        self.extend_to(codes, key, data.draw(self.TTLS))

    @rule(key=KEYS, lock_both=st.booleans(), ttl_ms=st.sampled_from([10, 5000, HOUR]))
    def lock_and_extend_a_stack(self, key: str, lock_both: bool, ttl_ms: int) -> None:
        """Lock both vouchers and extend the stack, or lock only one, so that the stack is refused."""
        for code in ("A", "B") if lock_both else ("A",):
            book = self.books.vouchers.get(code)
            held = book.used.plus(book.locked(self.now())) if book else Amounts()
            self.put(code, held.plus(Amounts(1, 2, 2)), False, None, "update")
            self.lock(code, key, 2, 1, HOUR)
        self.extend_to(["B", "A"], key, max(ttl_ms, self.shortest_ttl_ms))

    @precondition(lambda self: self.locks())
    @rule(which=st.integers(0, 5), ttl_ms=st.sampled_from([1, 10, 5000, HOUR, WEEK]), then_use=st.booleans())
    def extend_a_lock(self, which: int, ttl_ms: int, then_use: bool) -> None:
        """Extend a live session to a later or an earlier expiry; perhaps redeem it afterwards."""
        code, key, _ = self.chosen_lock(which)
        self.extend_to([code], key, max(ttl_ms, self.shortest_ttl_ms))
        if then_use:
            self.redeem(code, None, None, key, None, "raise")

    def extend_to(self, codes: list[str], key: str, ttl_ms: int | None) -> None:
        """A stack is extended as a whole, or not at all."""
        ttl: dict[str, Any] = {} if ttl_ms is None else {"ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
        expected_ttl_ms = self.default_ttl_ms if ttl_ms is None else ttl_ms
        now = self.now()

        def call() -> Any:
            if len(codes) == 1:
                return [self.engine.extend(codes[0], key, **ttl)]
            return self.engine.extend_stack(codes, key, **ttl)

        both = self.outcome(call, lambda: self.books.extend_stack(codes, key, expected_ttl_ms, now))
        if both:
            for seen, lock in zip(*both, strict=True):
                self.agree_on_session(key, seen, lock, expected_ttl_ms)

    @rule(code=CODES, key=KEYS)
    def extend_for_too_long(self, code: str, key: str) -> None:
        with pytest.raises(InvalidRequest):
            self.engine.extend(code, key, ttl=self.max_ttl_ms + 1, ttl_unit="MILLISECONDS")

    def agree_on_session(self, key: str, seen: Any, lock: Lock, ttl_ms: int | None) -> None:
        assert (seen.key, seen.quantity, seen.credits, seen.points) == (key, *lock.amounts)
        assert (ttl_in_ms(seen.ttl, seen.ttl_unit) if seen.ttl is not None else None) == ttl_ms
        expires_at = round(seen.expires_at.timestamp() * 1000)
        self.same_time(expires_at, lock.expires_at)
        self.same_time(seen.remaining_ms, lock.expires_at - self.now())
        lock.expires_at = expires_at  # the server's word for it, a little later than ours on a real one

    def agree_on_validation(
        self, code: str, answer: Any, verdict: Verdict | None, lock: Lock | None, key: str | None, ttl_ms: int | None
    ) -> None:
        assert answer.code == code
        if verdict is None:
            assert (answer.valid, answer.reason, answer.session) == (False, "not_found", None)
            return
        assert answer.valid == (verdict.short is None)
        assert answer.reason == (None if verdict.short is None else REASONS[verdict.short][0])
        assert answer.locked_by_others == verdict.held
        if verdict.retry_after is None:
            assert answer.retry_after_ms is None
        else:
            self.same_time(answer.retry_after_ms or 0, verdict.retry_after)
        without_limit = self.books.vouchers[code].without_limit
        assert answer.available.quantity == (None if without_limit else verdict.left[0])
        assert (answer.available.credits, answer.available.points) == verdict.left[1:]
        if lock is None:
            assert answer.session is None
            return
        assert answer.session is not None
        self.agree_on_session(key or "", answer.session, lock, ttl_ms)

    @rule(stack=STACKS, release=st.booleans(), key=st.none() | KEYS, data=st.data())
    def validate_stack(self, stack: list[Redeemable], release: bool, key: str | None, data: st.DataObject) -> None:
        session, ttl_ms = self.session(key, data)
        left = [code for code in ("A", "B") if code not in {each.code for each in stack}] if release and key else []
        now = self.now()
        expected = self.books.validate_stack(needs(stack), (key, ttl_ms) if key else None, left, now)
        answer = self.engine.validate_stack(stack, session=session, release=tuple(left))
        assert answer.valid == all(verdict and verdict.short is None for verdict, _ in expected)
        for each, (verdict, lock), validation in zip(stack, expected, answer.validations, strict=True):
            self.agree_on_validation(each.code, validation, verdict, lock, key, ttl_ms if answer.valid else None)
        locks = [lock for _, lock in expected if lock]
        assert (answer.session is None) == (not locks)
        if answer.session:
            assert answer.session.credits == sum(lock.amounts.credits for lock in locks)
            assert answer.session.quantity == len(locks)

    @rule(stack=STACKS, key=st.none() | KEYS, redemption_id=IDS_OR_NEW, if_missing=IF_MISSING)
    def redeem_stack(
        self, stack: list[Redeemable], key: str | None, redemption_id: str | None, if_missing: Any
    ) -> None:
        now, redemption_id = self.now(), redemption_id or self.new_id()
        both = self.outcome(
            lambda: self.engine.redeem_stack(
                stack, session=key, redemption_id=redemption_id, if_session_missing=if_missing
            ),
            lambda: self.books.redeem_stack(needs(stack), key, redemption_id, if_missing, now),
        )
        if both:
            done, expected = both
            assert (done.id, done.replayed) == (redemption_id, expected[0][1])
            for each, redemption, (receipt, replayed) in zip(stack, done.redemptions, expected, strict=True):
                self.agree_on_redemption(each.code, redemption_id, redemption, receipt, replayed)

    @rule(codes=st.permutations(["A", "B"]), key=KEYS)
    def release_stack(self, codes: list[str], key: str) -> None:
        now = self.now()
        for code, release in zip(codes, self.engine.release_stack(codes, key), strict=True):
            self.agree_on_release(code, key, release, now)

    @precondition(lambda self: self.books.receipts)
    @rule(codes=st.permutations(["A", "B"]), redemption_id=IDS)
    def rollback_stack(self, codes: list[str], redemption_id: str) -> None:
        both = self.outcome(
            lambda: self.engine.rollback_stack(codes, redemption_id),
            lambda: self.books.rollback_stack(codes, redemption_id),
        )
        if both:
            for code, seen, (receipt, replayed) in zip(codes, *both, strict=True):
                self.agree_on_rollback(code, redemption_id, seen, receipt, replayed)

    def agree_on_rollback(self, code: str, redemption_id: str, seen: Any, receipt: Receipt, replayed: bool) -> None:
        """A rollback without amounts gives back what was left of the redemption."""
        assert (seen.code, seen.redemption_id, seen.id, seen.replayed) == (code, redemption_id, None, replayed)
        assert (seen.quantity, seen.credits, seen.points) == receipt.left

    @rule(
        code=CODES,
        credits=MAYBE_AMOUNTS,
        points=MAYBE_AMOUNTS,
        key=st.none() | KEYS,
        redemption_id=IDS_OR_NEW,
        if_missing=IF_MISSING,
    )
    def redeem(
        self,
        code: str,
        credits: int | None,
        points: int | None,
        key: str | None,
        redemption_id: str | None,
        if_missing: Any,
    ) -> None:
        now, redemption_id = self.now(), redemption_id or self.new_id()
        both = self.outcome(
            lambda: self.engine.redeem(
                code,
                credits=credits,
                points=points,
                session=key,
                redemption_id=redemption_id,
                if_session_missing=if_missing,
            ),
            lambda: self.books.redeem(code, credits, points, key, redemption_id, if_missing, now),
        )
        if both:
            self.agree_on_redemption(code, redemption_id, both[0], *both[1])

    def agree_on_redemption(self, code: str, redemption_id: str, seen: Any, receipt: Receipt, replayed: bool) -> None:
        assert (seen.code, seen.id, seen.session_key) == (code, redemption_id, receipt.session_key)
        assert (seen.quantity, seen.credits, seen.points) == receipt.taken
        assert (seen.rolled_back, seen.replayed) == (receipt.rolled_back, replayed)
        assert (seen.credits_rolled_back, seen.points_rolled_back) == receipt.given_back[1:]
        self.same_time(round(seen.redeemed_at.timestamp() * 1000), receipt.at)
        receipt.at = round(seen.redeemed_at.timestamp() * 1000)

    @rule(code=CODES, key=KEYS)
    def release(self, code: str, key: str) -> None:
        now = self.now()
        self.agree_on_release(code, key, self.engine.release(code, key), now)

    def agree_on_release(self, code: str, key: str, release: Any, now: int) -> None:
        """``ended`` is never said of a session that never was, and always of one that ended a moment ago."""
        was_live, ended_at = (code, key) in self.books.ended, self.books.ended.get((code, key))
        released = self.books.release(code, key, now)
        assert (release.code, release.session_key, release.released) == (code, key, released)
        if released or not was_live:
            assert not release.ended
        elif ended_at is not None and now + self.slack_ms < ended_at + TOMBSTONE_MS:
            assert release.ended

    @precondition(lambda self: self.books.receipts)
    @rule(which=st.integers(0, 5), roll_back=st.booleans(), change=CHANGES, if_missing=IF_MISSING)
    def redeem_again(self, which: int, roll_back: bool, change: str, if_missing: Any) -> None:
        code, redemption_id = sorted(self.books.receipts)[which % len(self.books.receipts)]
        if roll_back:
            self.rollback(code, redemption_id)
        self.repeat(code, redemption_id, change, if_missing)

    @rule(key=st.none() | KEYS, roll_back=st.sampled_from([None, "A", "B"]), change=CHANGES, if_missing=IF_MISSING)
    def redeem_a_stack_and_again(self, key: str | None, roll_back: str | None, change: str, if_missing: Any) -> None:
        """A stack that is served: of each of the vouchers one more can be redeemed."""
        redemption_id = self.new_id()
        for code in ("A", "B"):
            book = self.books.vouchers.get(code)
            held = book.used.plus(book.locked(self.now())) if book else Amounts()
            self.put(code, held.plus(Amounts(1)), False, None, "update")
        stack = [Redeemable(code=code, credits=0, points=0) for code in ("A", "B")]
        self.redeem_stack(stack, key, redemption_id, "redeem")
        if roll_back is not None:
            self.rollback(roll_back, redemption_id)
        self.repeat("A", redemption_id, change, if_missing)

    def repeat(self, code: str, redemption_id: str, change: str, if_missing: Any) -> None:
        """The request of a redemption under its id, or one with a change."""
        receipt = self.books.receipts[code, redemption_id]
        key = receipt.session_key
        stack = []
        for each in sorted(receipt.stack):
            taken = self.books.receipts[each, redemption_id].taken
            stack.append(Redeemable(code=each, credits=taken.credits, points=taken.points))
        match change:
            case "order":
                stack.reverse()
            case "fewer":
                stack = stack[:1]
            case "more" if self.has_stacks:
                more = [each for each in ("A", "B") if each not in receipt.stack]
                stack = [*(Redeemable(code=each, credits=0, points=0) for each in more), *stack]
            case "session":
                key = "k1" if key is None else None
            case "amounts":
                stack[-1] = stack[-1].model_copy(update={"points": receipt.taken.points + 1})
            case "names no amounts":
                stack = [Redeemable(code=each.code) for each in stack]
        if len(stack) > 1:
            self.redeem_stack(stack, key, redemption_id, if_missing)
        else:
            self.redeem(stack[0].code, stack[0].credits, stack[0].points, key, redemption_id, if_missing)

    @precondition(lambda self: self.books.receipts)
    @rule(code=CODES, redemption_id=IDS)
    def rollback(self, code: str, redemption_id: str) -> None:
        both = self.outcome(
            lambda: self.engine.rollback(code, redemption_id), lambda: self.books.rollback(code, redemption_id)
        )
        if both:
            seen, (receipt, replayed) = both
            self.agree_on_rollback(code, redemption_id, seen, receipt, replayed)

    @precondition(lambda self: self.books.receipts)
    @rule(
        which=st.integers(0, 9),
        credits=MAYBE_AMOUNTS,
        points=MAYBE_AMOUNTS,
        rollback_id=ROLLBACK_IDS | st.none(),
        then=st.sampled_from(["nothing", "again", "again with a change", "the rest", "redeem again"]),
    )
    def roll_back_a_part(
        self, which: int, credits: int | None, points: int | None, rollback_id: str | None, then: str
    ) -> None:
        """Roll back a part of any receipt, so that rollback ids collide; then repeat it, roll back all, or redeem."""
        code, redemption_id = sorted(self.books.receipts)[which % len(self.books.receipts)]
        rollback_id = rollback_id or f"new{len(self.books.rollbacks)}"
        self.partial_rollback(code, redemption_id, credits, points, rollback_id)
        match then:
            case "again":
                self.partial_rollback(code, redemption_id, credits, points, rollback_id)
            case "again with a change":
                self.partial_rollback(code, redemption_id, credits, (points or 0) + 1, rollback_id)
            case "the rest":
                self.rollback(code, redemption_id)
            case "redeem again":
                self.repeat(code, redemption_id, "nothing", "raise")

    @precondition(lambda self: self.books.receipts)
    @rule(which=st.integers(0, 9), order=st.permutations(["credits", "points"]), then=st.booleans())
    def roll_back_in_parts(self, which: int, order: list[str], then: bool) -> None:
        """Give back all credits and points of a redemption in parts; then its id cannot be used again."""
        code, redemption_id = sorted(self.books.receipts)[which % len(self.books.receipts)]
        for name in order:
            left = self.books.receipts[code, redemption_id].left
            amounts = (left.credits, None) if name == "credits" else (None, left.points)
            self.partial_rollback(code, redemption_id, *amounts, f"new{len(self.books.rollbacks)}")
        self.repeat(code, redemption_id, "nothing", "raise")
        if then:
            self.rollback(code, redemption_id)

    @rule(code=CODES, redemption_id=IDS, credits=MAYBE_AMOUNTS, points=MAYBE_AMOUNTS, rollback_id=ROLLBACK_IDS)
    def partial_rollback(
        self, code: str, redemption_id: str, credits: int | None, points: int | None, rollback_id: str
    ) -> None:
        def call() -> Any:
            return self.engine.rollback(code, redemption_id, credits=credits, points=points, rollback_id=rollback_id)

        if not credits and not points:
            with pytest.raises(InvalidRequest):
                call()
            return
        both = self.outcome(
            call,
            lambda: self.books.partial_rollback(code, redemption_id, credits or 0, points or 0, rollback_id),
        )
        if both:
            seen, replayed = both
            assert (seen.code, seen.redemption_id, seen.id) == (code, redemption_id, rollback_id)
            assert (seen.quantity, seen.credits, seen.points) == (0, credits or 0, points or 0)
            assert seen.replayed == replayed

    @precondition(lambda self: self.books.receipts)
    @rule(code=CODES, redemption_id=IDS)
    def get_redemption(self, code: str, redemption_id: str) -> None:
        both = self.outcome(
            lambda: self.engine.get_redemption(code, redemption_id), lambda: self.books.receipt(code, redemption_id)
        )
        if both:
            self.agree_on_redemption(code, redemption_id, both[0], both[1], replayed=False)

    @rule(code=CODES, limit=st.integers(1, 4))
    def list_sessions(self, code: str, limit: int) -> None:
        now = self.now()
        both = self.outcome(lambda: self.engine.list_sessions(code, limit=limit), lambda: self.books.book(code))
        if not both:
            return
        live = sorted(both[1].live(now).values(), key=lambda lock: lock.expires_at)[:limit]
        assert [round(session.expires_at.timestamp() * 1000) for session in both[0]] == [
            lock.expires_at for lock in live
        ]
        for session in both[0]:
            assert both[1].sessions[session.key].amounts == (session.quantity, session.credits, session.points)

    @rule(code=CODES, batch=st.sampled_from([1, 2, 3, 1000]))
    def iter_sessions(self, code: str, batch: int) -> None:
        """It yields all live sessions, each once."""
        now = self.now()
        both = self.outcome(lambda: list(self.engine.iter_sessions(code, batch=batch)), lambda: self.books.book(code))
        if both:
            seen, book = both
            live = book.live(now)
            assert sorted(session.key for session in seen) == sorted(live)
            for session in seen:
                self.agree_on_session(session.key, session, live[session.key], None)

    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        self.move(data.draw(self.STEPS))
        self.books.forget(self.now())

    @rule()
    def flush_scripts(self) -> None:
        self.admin.script_flush()

    # What must hold after every step, read from the keys themselves, which no script has touched in between.

    @invariant()
    def nothing_is_granted_beyond_the_limit(self) -> None:
        """Beyond it is only what was so when the limits were put. No call adds to that, and no time of the clock."""
        held = {}
        for code in self.books.vouchers:
            values, _ = read_book(self.admin.get(f"vs:{{{code}}}"))
            locks = total(Amounts(1, credits, points) for _, credits, points, _ in stored_locks(self.admin, code))
            held[code] = Amounts(*values[5:8]).plus(locks)
            for figure, limit, before in zip(held[code], values[2:5], self.held.get(code, held[code]), strict=True):
                assert limit == -1 or figure <= max(limit, before)
        self.held.clear()
        self.held.update(held)

    @invariant()
    def stored_totals_match_the_model(self) -> None:
        now = self.now()
        for code in ("A", "B"):
            text = self.admin.get(f"vs:{{{code}}}")
            book = self.books.vouchers.get(code)
            assert (text is None or read_book(text)[0][0] == "deleted") == (book is None)
            if text is None or book is None:
                continue
            values, only_key = read_book(text)
            assert tuple(values[5:8]) == book.used
            locks = stored_locks(self.admin, code)
            live = {key: expires_at for key, *_, expires_at in locks if now < expires_at}
            assert live == {key: lock.expires_at for key, lock in book.live(now).items()}
            assert not only_key or len(locks) == values[8] == 1, "alone in the book, or all in the index"
            if now < values[12]:
                assert tuple(values[8:11]) == (
                    len(locks),
                    sum(credits for _, credits, _, _ in locks),
                    sum(points for _, _, points, _ in locks),
                ), "the totals are the sum of the locks, those not yet reclaimed included"
                assert values[11] <= min(expires_at for *_, expires_at in locks)
                assert values[12] >= max(expires_at for *_, expires_at in locks)

    @invariant()
    def receipts_match_the_model(self) -> None:
        """A stack has a receipt of the same call on each of its vouchers."""
        keys = {key.decode() for key in self.admin.keys("*")}
        for kind, receipts in (
            ("redemption", self.books.receipts),
            ("rollback", self.books.rollbacks),
            ("adjustment", self.books.adjustments),
        ):
            names = {f"vs:{{{code}}}:{kind}:{id_}" for code, id_ in receipts}
            assert {key for key in keys if f"}}:{kind}:" in key} == names
        stored = {name: read_receipt(self.admin, *name) for name in self.books.receipts}
        for (code, id_), receipt in self.books.receipts.items():
            seen = stored[code, id_]
            assert (seen.taken, seen.back, seen.rolled_back) == (receipt.taken, receipt.back, receipt.rolled_back)
            assert {stored[each, id_].call_id for each in receipt.stack} == {seen.call_id}

    @invariant()
    def every_lock_key_has_the_ttl_of_its_last_expiry(self) -> None:
        now = self.now()
        live = {(code, key): lock for code, book in self.books.vouchers.items() for key, lock in book.live(now).items()}
        keys = self.admin.keys("*")
        assert {f"vs:{{{code}}}:session:{key}".encode() for code, key in live} <= set(keys)
        for key in keys:
            code, _, rest = key.decode().removeprefix("vs:{").partition("}")
            ttl_ms = self.admin.pttl(key)
            expires_at = now + ttl_ms
            if rest.startswith(RECEIPTS) or (rest == "" and code in self.books.vouchers):
                assert ttl_ms == -1
            elif rest == "":
                assert 0 <= ttl_ms <= TOMBSTONE_MS + self.gone_back_ms
            elif rest == ":locks":
                until = read_book(self.admin.get(f"vs:{{{code}}}"))[0][12]
                self.same_time(expires_at, until + LINGER_MS)
            elif (session := live.get((code, rest.removeprefix(":session:")))) is not None:
                self.same_time(expires_at, session.expires_at)
            else:  # released, redeemed, or of a voucher that was deleted: only its TTL is left to it
                assert rest.startswith(":session:")
                assert 0 <= ttl_ms <= WEEK + self.gone_back_ms


class OnFakeredis(Machine):
    default_ttl_ms, max_ttl_ms = 6 * HOUR, WEEK

    def open(self) -> None:
        server = fakeredis.FakeServer()
        begin = datetime(2026, 11, 21, tzinfo=UTC)
        self.clock = FakeClock(self.stack.enter_context(time_machine.travel(begin, tick=False)))
        self.admin = fakeredis.FakeRedis(server=server)
        self.engine = self.engine_on(server)

    def engine_on(self, server: fakeredis.FakeServer) -> Any:
        default_ttl, max_ttl = timedelta(milliseconds=self.default_ttl_ms), self.max_ttl_ms / 1000
        return VoucherSessions(fakeredis.FakeRedis(server=server), default_ttl=default_ttl, max_ttl=max_ttl)

    def move(self, ms: int) -> None:
        self.clock.move(ms)

    @rule(ms=st.sampled_from([1, 2, 9, 10, 1000, 5000, HOUR, 24 * HOUR]))
    def time_goes_back(self, ms: int) -> None:
        """Redis drops a session's key after the millisecond of its expiry. Where a voucher still counts such a lock when
        the clock goes back, what becomes of it is for test_clock_jumps: here, a call takes it out before."""
        now = self.now()
        for code, book in self.books.vouchers.items():
            if any(lock.expires_at < now for lock in book.sessions.values()):
                self.get(code)
        self.gone_back_ms += ms
        self.move(-ms)

    @precondition(lambda self: self.locks())
    @rule(
        which=st.sampled_from([0, 0, 1, 2]),
        beside=st.none() | KEYS,
        call=st.sampled_from(["get", "lock", "audit", "redeem", "release", "none"]),
        others=OTHERS,
        back_ms=st.sampled_from([1, 2, 5000, HOUR, 0]),
        others_expire=st.booleans(),
        then=st.sampled_from(["redeem", "lock", "release", "none"]),
    )
    def reach_an_expiry(
        self, which: int, beside: str | None, call: str, others: Others, back_ms: int, others_expire: bool, then: str
    ) -> None:
        """A call in the very millisecond, in which Redis still has the session's key; then the clock may go back.

        ``beside``: another session keeps its lock, and all else that there is may be locked or spent.
        """
        code, key, lock = self.chosen_lock(which)
        if beside is not None:
            book = self.books.vouchers[code]
            self.put(code, book.used.plus(book.locked(self.now())).plus(Amounts(1)), False, None, "update")
            self.lock(code, beside, 0, 0, WEEK)
        self.move(lock.expires_at - self.now())
        self.books.forget(self.now())
        self.call(call, code, others)
        if back_ms:
            self.time_goes_back(back_ms)
        if others_expire:
            self.lock_for_several(code, [(other, 0, 0, 10) for other, *_ in others if other != key])
            self.move(10)
            self.get(code)
        self.use(then, code, key, lock)

    def call(self, verb: str, code: str, others: Others) -> None:
        match verb:
            case "get":
                self.get(code)
            case "audit":
                self.audit(code)
            case "lock":
                self.lock_for_several(code, others)
            case "redeem":
                self.redeem(code, 0, None, None, None, "raise")
            case "release":
                self.release(code, others[0][0])

    def use(self, verb: str, code: str, key: str, lock: Lock) -> None:
        match verb:
            case "redeem":
                self.redeem(code, None, None, key, None, "raise")
            case "lock":
                self.lock(code, key, *lock.amounts[1:], 10_000)
            case "release":
                self.release(code, key)


class OnFakeredisAsync(OnFakeredis):
    """The engine's own defaults here."""

    default_ttl_ms, max_ttl_ms = Machine.default_ttl_ms, Machine.max_ttl_ms

    def engine_on(self, server: fakeredis.FakeServer) -> Any:
        loop = asyncio.new_event_loop()
        self.stack.callback(loop.close)
        return BlockingAsync(AsyncVoucherSessions(fakeredis.FakeAsyncRedis(server=server)), loop)


class OnServer(Machine):
    TTLS = st.sampled_from([None, 1, 60, HOUR, 24 * HOUR])
    STEPS = st.sampled_from([1, 60])
    shortest_ttl_ms = HOUR
    slack_ms = 2000  # between our asking for the time and the script's doing so
    server: Server

    def open(self) -> None:
        self.admin = self.server.client()
        self.admin.flushall()
        self.stack.callback(self.admin.close)
        client = self.server.client()
        self.stack.callback(client.close)
        self.engine = VoucherSessions(client)

    def move(self, ms: int) -> None:
        time.sleep(ms / 1000)

    def now(self) -> int:
        """Not before the short locks have expired: nobody can tell on which side of its end a call would fall."""
        now = super().now()
        expiries = [lock.expires_at for book in self.books.vouchers.values() for lock in book.sessions.values()]
        short = max((expiry for expiry in expiries if expiry < now + HOUR // 2), default=0)
        while now <= short:
            time.sleep(0.001)
            now = super().now()
        return now


MANY = settings(max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=15, stateful_step_count=30)


@pytest.mark.parametrize("histories", [FEW, pytest.param(MANY, marks=pytest.mark.long)], ids=["few", "many"])
@pytest.mark.parametrize("machine", [OnFakeredis, OnFakeredisAsync])
def test_random_histories_match_the_model_on_fakeredis(machine: type[Machine], histories: settings) -> None:
    run_state_machine_as_test(machine, settings=histories)


@pytest.mark.parametrize("name", list(BINARIES))
def test_random_histories_match_the_model_on_a_real_server(name: str, server_of: Callable[[str], Server]) -> None:
    machine = type("OnThisServer", (OnServer,), {"server": server_of(name)})
    run_state_machine_as_test(machine, settings=FEW)

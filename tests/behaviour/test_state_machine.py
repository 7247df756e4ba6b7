"""Random histories of all verbs: after every step the results are compared with a model in plain Python.

On fakeredis the test moves the clock, by 1 ms to days. On real servers it waits: locks there are either short, and
have expired before the next step, or last for hours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import fakeredis
import pytest
import time_machine
from conftest import BlockingAsync
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support.model import (
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
    stored_locks,
)
from support.servers import BINARIES, Server

from voucher_sessions import AsyncVoucherSessions, Redeemable, Used, Voucher, VoucherSessions, VoucherSessionsError

CODES = st.sampled_from(["A", "B"])
KEYS = st.sampled_from(["k1", "k2", "k3"])
IDS = st.sampled_from(["o1", "o2", "o3"])
AMOUNTS = st.integers(0, 4)
MAYBE_AMOUNTS = st.none() | AMOUNTS
HOUR = 3_600_000
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

    TTLS = st.sampled_from([1, 2, 10, 1000, HOUR, 24 * HOUR, 7 * 24 * HOUR])
    STEPS = st.sampled_from([1, 2, 9, 10, 999, 1000, HOUR, 24 * HOUR, 7 * 24 * HOUR])
    slack_ms = 0

    engine: VoucherSessions
    admin: Any

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.books = Books()
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
        self.put("A", Amounts(3, 6, 5), False, None)

    @rule(
        code=CODES,
        limit=st.builds(Amounts, AMOUNTS, st.integers(0, 9), AMOUNTS),
        without_limit=st.booleans(),
        used=st.none() | st.builds(Amounts, AMOUNTS, AMOUNTS, AMOUNTS),
    )
    def put(self, code: str, limit: Amounts, without_limit: bool, used: Amounts | None) -> None:
        quantity, credits, points = limit
        voucher = Voucher(code=code, quantity=None if without_limit else quantity, credits=credits, points=points)
        brought = Used(quantity=used[0], credits=used[1], points=used[2]) if used else None
        now = self.now()
        self.books.put(
            code, Amounts(UNLIMITED if without_limit else quantity, credits, points), without_limit, used, now
        )
        state = self.engine.put_voucher(voucher, used=brought)
        self.agree_on_state(code, state, now)

    @rule(code=CODES)
    def get(self, code: str) -> None:
        now = self.now()
        both = self.outcome(lambda: self.engine.get_voucher(code), lambda: self.books.book(code))
        if both:
            self.agree_on_state(code, both[0], now)

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

    @rule(code=CODES)
    def delete(self, code: str) -> None:
        assert self.engine.delete_voucher(code) == self.books.delete(code)

    @rule(code=CODES, credits=AMOUNTS, points=AMOUNTS, key=st.none() | KEYS, data=st.data())
    def validate(self, code: str, credits: int, points: int, key: str | None, data: st.DataObject) -> None:
        ttl_ms = data.draw(self.TTLS) if key else 0
        session = None if key is None else {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
        now = self.now()
        verdict, lock = self.books.validate(code, credits, points, (key, ttl_ms) if key else None, now)
        answer = self.engine.validate(code, credits=credits, points=points, session=session)
        self.agree_on_validation(code, answer, verdict, lock, key, ttl_ms if answer.valid else None)

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
        assert (answer.session.key, answer.session.credits, answer.session.points) == (key, *lock.amounts[1:])
        assert answer.session.ttl == ttl_ms
        seen = round(answer.session.expires_at.timestamp() * 1000)
        self.same_time(seen, lock.expires_at)
        lock.expires_at = seen  # the server's word for it, a little later than ours on a real one

    @rule(stack=STACKS, release=st.booleans(), key=st.none() | KEYS, data=st.data())
    def validate_stack(self, stack: list[Redeemable], release: bool, key: str | None, data: st.DataObject) -> None:
        ttl_ms = data.draw(self.TTLS) if key else 0
        session = None if key is None else {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
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

    @rule(stack=STACKS, key=st.none() | KEYS, redemption_id=IDS, if_missing=st.sampled_from(["raise", "redeem"]))
    def redeem_stack(self, stack: list[Redeemable], key: str | None, redemption_id: str, if_missing: Any) -> None:
        now = self.now()
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
        expected = [self.books.release(code, key, now) for code in codes]
        assert [each.released for each in self.engine.release_stack(codes, key)] == expected

    @rule(codes=st.permutations(["A", "B"]), redemption_id=IDS)
    def rollback_stack(self, codes: list[str], redemption_id: str) -> None:
        both = self.outcome(
            lambda: self.engine.rollback_stack(codes, redemption_id),
            lambda: self.books.rollback_stack(codes, redemption_id),
        )
        if both:
            for seen, (receipt, replayed) in zip(*both, strict=True):
                assert (seen.quantity, seen.credits, seen.points, seen.replayed) == (*receipt.taken, replayed)

    @rule(
        code=CODES,
        credits=MAYBE_AMOUNTS,
        points=MAYBE_AMOUNTS,
        key=st.none() | KEYS,
        redemption_id=IDS,
        if_missing=st.sampled_from(["raise", "redeem"]),
    )
    def redeem(
        self, code: str, credits: int | None, points: int | None, key: str | None, redemption_id: str, if_missing: Any
    ) -> None:
        now = self.now()
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
        self.same_time(round(seen.redeemed_at.timestamp() * 1000), receipt.at)
        receipt.at = round(seen.redeemed_at.timestamp() * 1000)

    @rule(code=CODES, key=KEYS)
    def release(self, code: str, key: str) -> None:
        now = self.now()
        assert self.engine.release(code, key).released == self.books.release(code, key, now)

    @rule(code=CODES, redemption_id=IDS)
    def rollback(self, code: str, redemption_id: str) -> None:
        both = self.outcome(
            lambda: self.engine.rollback(code, redemption_id), lambda: self.books.rollback(code, redemption_id)
        )
        if both:
            seen, (receipt, replayed) = both
            assert (seen.quantity, seen.credits, seen.points, seen.replayed) == (*receipt.taken, replayed)

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

    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        self.move(data.draw(self.STEPS))

    @rule()
    def flush_scripts(self) -> None:
        self.admin.script_flush()

    # What must hold after every step, read from the keys themselves, which no script has touched in between.

    @invariant()
    def never_over_the_limit(self) -> None:
        now = self.now()
        for book in self.books.vouchers.values():
            if not book.lowered:
                held = book.used.plus(book.locked(now))
                assert all(figure <= limit for figure, limit in zip(held, book.limit, strict=True))

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
    def every_lock_key_has_the_ttl_of_its_last_expiry(self) -> None:
        now = self.now()
        live = {(code, key): lock for code, book in self.books.vouchers.items() for key, lock in book.live(now).items()}
        for key in self.admin.keys("*"):
            code, _, rest = key.decode().removeprefix("vs:{").partition("}")
            ttl_ms = self.admin.pttl(key)
            expires_at = now + ttl_ms
            if rest.startswith(":redemption:") or (rest == "" and code in self.books.vouchers):
                assert ttl_ms == -1
            elif rest == "":
                assert 0 <= ttl_ms <= TOMBSTONE_MS
            elif rest == ":locks":
                until = read_book(self.admin.get(f"vs:{{{code}}}"))[0][12]
                assert expires_at <= until + self.slack_ms, "the index outlives its last lock"
            elif (session := live.get((code, rest.removeprefix(":session:")))) is not None:
                self.same_time(expires_at, session.expires_at)
            else:  # released, redeemed, or of a voucher that was deleted: only its TTL is left to it
                assert rest.startswith(":session:")
                assert 0 <= ttl_ms <= 7 * 24 * HOUR


class OnFakeredis(Machine):
    def open(self) -> None:
        server = fakeredis.FakeServer()
        begin = datetime(2026, 11, 21, tzinfo=UTC)
        self.traveller = self.stack.enter_context(time_machine.travel(begin, tick=False))
        self.admin = fakeredis.FakeRedis(server=server)
        self.engine = self.engine_on(server)

    def engine_on(self, server: fakeredis.FakeServer) -> Any:
        return VoucherSessions(fakeredis.FakeRedis(server=server))

    def move(self, ms: int) -> None:
        self.traveller.shift(ms / 1000)


class OnFakeredisAsync(OnFakeredis):
    def engine_on(self, server: fakeredis.FakeServer) -> Any:
        loop = asyncio.new_event_loop()
        self.stack.callback(loop.close)
        return BlockingAsync(AsyncVoucherSessions(fakeredis.FakeAsyncRedis(server=server)), loop)


class OnServer(Machine):
    TTLS = st.sampled_from([1, 60, HOUR, 24 * HOUR])
    STEPS = st.sampled_from([1, 60])
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


FAKE = settings(max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
REAL = settings(FAKE, max_examples=15, stateful_step_count=30)


@pytest.mark.parametrize("machine", [OnFakeredis, OnFakeredisAsync])
def test_random_histories_match_the_model_on_fakeredis(machine: type[Machine]) -> None:
    run_state_machine_as_test(machine, settings=FAKE)


@pytest.mark.parametrize("name", list(BINARIES))
def test_random_histories_match_the_model_on_a_real_server(name: str, server_of: Callable[[str], Server]) -> None:
    machine = type("OnThisServer", (OnServer,), {"server": server_of(name)})
    run_state_machine_as_test(machine, settings=REAL)

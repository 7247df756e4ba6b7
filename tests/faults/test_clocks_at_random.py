"""Random calls of several sessions on one voucher, while the server's clock goes forward and back at random.

The checker knows what was answered and nothing of how it is stored. After every call:

- what is spent, and what the sessions hold that were granted a lock whose expiry no clock has shown yet, is within the
  limits; and each of those is listed;
- what is spent and what is locked, as the voucher's state says, is within the limits, and agrees with the list;
- an audit finds nothing to repair.

And a session that redeem reported as not live never redeems until it has locked again, whatever the clock shows. Of
release that is not demanded: it takes no expired lock out, so one that nobody took out is live again when the clock
goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.moved_clock import FakeClock

from faults.moved_clocks import HOUR, Figures, Shop, agree, lock
from voucher_sessions import LimitExceeded, SessionNotFound, Voucher

LIMITS = Figures(4, 20, 10)
KEYS = st.sampled_from(["k1", "k2", "k3", "k4", "k5", "k6"])
AMOUNTS = st.sampled_from([0, 0, 3, 5, 10])
TTLS = st.sampled_from([1, 2, 10, 10, 1000, 5000])
STEPS = st.sampled_from([1, 2, 9, 10, 1000, 5000, -1, -1, -2, -9, -10, -1000, -5000])
LOCKING = st.tuples(st.just("lock"), KEYS, AMOUNTS, AMOUNTS, TTLS)
CALLS = st.one_of(
    LOCKING,
    LOCKING,
    LOCKING,
    st.tuples(st.just("redeem"), KEYS, st.none() | AMOUNTS),
    st.tuples(st.just("redeem_without_session"), AMOUNTS),
    st.tuples(st.just("release"), KEYS),
    st.tuples(st.just("roll_back")),
    st.tuples(st.just("move"), STEPS),
    st.tuples(st.just("move"), st.sampled_from([-1, -5000])),
    st.tuples(st.just("reach_expiry"), KEYS),
    st.tuples(st.just("visit_the_next_hour"), st.booleans()),
)
# Not shrunk: that takes longer than a test may. The history that failed is printed whole, 40 calls at most.
RANDOM = settings(
    report_multiple_bugs=False,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Held:
    amounts: Figures
    expires_at: int


@dataclass
class Checker:
    """Makes the calls, and remembers what was answered."""

    shop: Shop
    held: dict[str, Held] = field(default_factory=dict)  # no clock has shown their expiry
    gone: set[str] = field(default_factory=set)  # those that redeem reported as not live
    redemptions: dict[str, Figures] = field(default_factory=dict)

    def lock(self, key: str, credits: int, points: int, ttl_ms: int) -> None:
        answer = self.shop.engine.validate("V", credits=credits, points=points, session=lock(key, ttl_ms))
        if not answer.valid:
            return
        assert answer.session is not None
        assert (answer.session.remaining_ms, answer.session.credits, answer.session.points) == (ttl_ms, credits, points)
        self.gone.discard(key)
        self.held[key] = Held(Figures(1, credits, points), self.shop.clock.now_ms() + ttl_ms)

    def redeem(self, key: str, credits: int | None) -> None:
        """``credits`` None: what it holds."""
        known = self.held.get(key)
        try:
            done = self.shop.engine.redeem("V", credits=credits, session=key)
        except SessionNotFound:
            assert known is None, f"{key} was granted a lock that has not expired"
            self.gone.add(key)
            return
        except LimitExceeded:
            assert credits is not None, f"{key} was granted what it holds"
            return
        assert key not in self.gone, f"{key} was reported as not live"
        assert known is None or (done.points, done.credits) == (
            known.amounts.points,
            known.amounts.credits if credits is None else credits,
        )
        self.held.pop(key, None)
        self.gone.add(key)
        self.redemptions[done.id] = Figures(1, done.credits, done.points)

    def redeem_without_session(self, credits: int) -> None:
        try:
            done = self.shop.engine.redeem("V", credits=credits)
        except LimitExceeded:
            return
        self.redemptions[done.id] = Figures(1, done.credits, done.points)

    def release(self, key: str) -> None:
        released = self.shop.engine.release("V", key).released
        assert released or key not in self.held, f"{key} was granted a lock that has not expired"
        assert not (released and key in self.gone), f"{key} was reported as not live"
        if released:
            self.gone.add(key)
        self.held.pop(key, None)

    def roll_back(self) -> None:
        """The oldest redemption, so that there is something to give again."""
        for redemption_id in list(self.redemptions)[:1]:
            self.shop.engine.rollback("V", redemption_id)
            del self.redemptions[redemption_id]

    def move(self, ms: int) -> None:
        self.shop.clock.move(ms)
        now = self.shop.clock.now_ms()
        self.held = {key: held for key, held in self.held.items() if now < held.expires_at}

    def reach_expiry(self, key: str) -> None:
        """The very millisecond, in which Redis still has the session's key."""
        if key in self.held:
            self.move(self.held[key].expires_at - self.shop.clock.now_ms())

    def visit_the_next_hour(self, asked: bool) -> None:
        self.move(HOUR)
        if asked:
            self.shop.engine.get_voucher("V")
        self.move(-HOUR)

    def check(self) -> None:
        sessions = {
            each.key: Figures(each.quantity, each.credits, each.points)
            for each in self.shop.engine.list_sessions("V", limit=1000)
        }
        for key, held in self.held.items():
            assert sessions.get(key) == held.amounts
        agree(self.shop.engine, "V")
        state = self.shop.engine.get_voucher("V")
        used = tuple(balance.used for balance in (state.quantity, state.credits, state.points))
        assert used == total(self.redemptions.values())
        granted = total([*self.redemptions.values(), *(held.amounts for held in self.held.values())])
        assert all(given <= limit for given, limit in zip(granted, LIMITS, strict=True)), "granted twice"


def total(amounts: Any) -> tuple[int, ...]:
    return tuple(map(sum, zip(*amounts, strict=True))) or Figures()


def replay(shop: Shop, calls: list[Any], checker: Checker) -> None:
    shop.client.flushall()
    shop.engine.put_voucher(Voucher(code="V", quantity=LIMITS.quantity, credits=LIMITS.credits, points=LIMITS.points))
    for verb, *words in calls:
        getattr(checker, verb)(*words)
        checker.check()
    for key in ("k1", "k2", "k3", "k4", "k5", "k6"):
        checker.redeem(key, None)
        checker.check()


@pytest.mark.timeout(600)
def test_nothing_is_granted_twice_whatever_the_clock_shows(shop: Shop) -> None:
    slower = isinstance(shop.clock, FakeClock)

    @settings(RANDOM, max_examples=60 if slower else 300)
    @given(calls=st.lists(CALLS, min_size=5, max_size=40))
    def histories(calls: list[Any]) -> None:
        replay(shop, calls, Checker(shop))

    histories()

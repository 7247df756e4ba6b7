"""A server's clock that is wrong for a while, and clocks of two servers that differ.

What remains of a clock that jumps forward by an hour and back, and no test can exclude:

- Redis drops the keys of sessions whose expiry the wrong time has passed. Their holders get ``SessionNotFound``
  afterwards. If a call asked for the voucher in that hour, what they held was given back in that call. If none did, it
  stays counted, though nobody can redeem it, until the lock's own expiry, as if its holder had gone away.
- A lock that was set in the wrong hour expires by that hour: it is live for an hour longer than was asked for, unless
  its session releases, redeems or locks again.
- If the clock jumps by more than a day beyond a voucher's last expiry and back, Redis has dropped the voucher's index of
  locks too. Its totals then count locks that nobody holds until a moment at which nothing is locked, or ``repair``.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.moved_clock import START_MS, running_with_clock
from support.servers import BINARIES
from support.waiting import until

from faults.moved_clocks import HOUR, MINUTE, Figures, Shop, agree, hour_forward_and_back, lock, locked
from faults.proxy import Proxy
from faults.replicas import replication
from voucher_sessions import (
    Durability,
    LimitExceeded,
    Redeemable,
    SessionNotFound,
    Used,
    Voucher,
    VoucherSessions,
)

# --- Wrong by an hour while locks are taken out ---------------------------------------------------------------------


@pytest.fixture(params=["only lock", "beside others"])
def reclaimed_in_a_wrong_hour(shop: Shop, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """A's lock was taken out of voucher V by a clock that was an hour ahead; now the clock is right again."""
    shop.engine.put_voucher(Voucher(code="V", quantity=5, credits=100))
    if request.param == "beside others":
        for key in ("x", "y"):
            assert shop.engine.validate("V", session=lock(key, 24 * HOUR)).valid
    assert shop.engine.validate("V", credits=100, session=lock("A", MINUTE)).valid
    shop.clock.move(HOUR)
    assert locked(shop.engine, "V").credits == 0
    shop.clock.move(-HOUR)
    yield shop
    agree(shop.engine, "V")


def test_it_stays_dead(reclaimed_in_a_wrong_hour: Shop) -> None:
    shop = reclaimed_in_a_wrong_hour
    assert shop.engine.validate("V", credits=100, session=lock("B", HOUR)).valid
    assert shop.engine.release("V", "A").released is False
    with pytest.raises(SessionNotFound):
        shop.engine.redeem("V", session="A")


def test_later_locks_are_as_long_as_was_asked_for(reclaimed_in_a_wrong_hour: Shop) -> None:
    shop = reclaimed_in_a_wrong_hour
    now = shop.clock.now_ms()
    for key in ("B", "B", "C"):  # new, set again, and beside another
        validation = shop.engine.validate("V", credits=50, session=lock(key, MINUTE))
        assert validation.session is not None
        assert validation.session.remaining_ms == MINUTE
        assert round(validation.session.expires_at.timestamp() * 1000) == now + MINUTE
    assert shop.engine.validate("V", credits=1).retry_after_ms == MINUTE
    shop.clock.move(MINUTE - 1)
    assert {"B", "C"} <= {each.key for each in shop.engine.list_sessions("V")}
    assert locked(shop.engine, "V").credits == 100
    shop.clock.move(1)
    assert locked(shop.engine, "V").credits == 0
    for key in ("B", "C"):
        with pytest.raises(SessionNotFound):
            shop.engine.redeem("V", session=key)
        assert shop.engine.release("V", key).released is False
    assert shop.engine.validate("V", credits=100).valid


def test_later_locks_are_live_on_every_path(reclaimed_in_a_wrong_hour: Shop) -> None:
    """While the time is before that of the reclaim, a lock needs proof that it is live: each has it."""
    shop = reclaimed_in_a_wrong_hour
    shop.engine.put_voucher(Voucher(code="W", quantity=1))
    for key in ("B", "C", "D"):
        assert shop.engine.validate("V", credits=30, session=lock(key)).valid
    for step_ms in (1, -1, 5000):
        shop.clock.move(step_ms)
        agree(shop.engine, "V")
        assert shop.engine.validate("V", credits=40, session=lock("B")).valid, "its own 30, and the 10 that are left"
        assert shop.engine.validate("V", credits=30, session=lock("B")).valid
    assert shop.engine.release("V", "B").released
    stack = [Redeemable(code="V", credits=20), Redeemable(code="W")]
    assert shop.engine.validate_stack(stack, session=lock("C")).valid
    done = shop.engine.redeem_stack([Redeemable(code="V"), Redeemable(code="W")], session="C")
    assert [each.credits for each in done.redemptions] == [20, 0]
    assert shop.engine.redeem("V", session="D").credits == 30


def test_a_voucher_that_was_put_again_is_judged_by_its_own_locks(reclaimed_in_a_wrong_hour: Shop) -> None:
    shop = reclaimed_in_a_wrong_hour
    assert shop.engine.validate("V", credits=10, session=lock("A")).valid
    shop.engine.delete_voucher("V")
    shop.engine.put_voucher(Voucher(code="V", quantity=5, credits=100))
    assert shop.engine.release("V", "A").released is False
    assert shop.engine.validate("V", credits=10, session=lock("A")).valid
    shop.engine.put_voucher(Voucher(code="V", quantity=4, credits=100), used=Used(quantity=1))
    assert shop.engine.repair("V").differs is False
    assert shop.engine.redeem("V", session="A").credits == 10


# --- An hour forward and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("asked", [False, True])
def test_locks_that_nobody_holds_do_not_remain(shop: Shop, number: int, asked: bool) -> None:
    """``asked``: a call asks for the voucher in the wrong hour. Nothing before the next expiry clears all at once."""
    keys = [f"k{at}" for at in range(number)]
    shop.engine.put_voucher(Voucher(code="V", quantity=number + 1, credits=100))
    for key in keys:
        assert shop.engine.validate("V", credits=10, session=lock(key, MINUTE)).valid
    hour_forward_and_back(shop, lambda: locked(shop.engine, "V") if asked else None)
    held = agree(shop.engine, "V")
    assert held == (Figures() if asked else Figures(number, 10 * number)), "given back, or still held"
    assert shop.engine.validate("V", credits=10, session=lock("new", 2 * HOUR)).valid
    for key in keys:
        with pytest.raises(SessionNotFound):
            shop.engine.redeem("V", session=key)
    agree(shop.engine, "V")
    shop.clock.move(MINUTE)
    assert agree(shop.engine, "V") == Figures(1, 10), "what is held by the one that is there"
    for at in range(number):
        assert shop.engine.validate("V", session=lock(f"next{at}", HOUR)).valid


@pytest.mark.parametrize("number", [1, 3])
def test_who_locks_again_after_the_jump_is_counted_once(shop: Shop, number: int) -> None:
    """Once with the amounts that Redis has dropped, once with others."""
    shop.engine.put_voucher(Voucher(code="V", quantity=9, credits=100))
    keys = [f"k{at}" for at in range(number)]
    for key in keys:
        assert shop.engine.validate("V", credits=10, session=lock(key, MINUTE)).valid
    hour_forward_and_back(shop)
    for at, key in enumerate(keys):
        assert shop.engine.validate("V", credits=10 + at, session=lock(key, HOUR)).valid
        agree(shop.engine, "V")
    shop.clock.move(MINUTE)
    assert agree(shop.engine, "V") == Figures(number, sum(range(10, 10 + number)))
    for key in keys:
        assert shop.engine.redeem("V", session=key).session_key == key
    assert agree(shop.engine, "V") == Figures()


class Shopper(threading.Thread):
    """Locks, redeems and releases under keys of its own, and counts its redemptions."""

    def __init__(self, socket: str, number: int, codes: list[str], ended: threading.Event) -> None:
        super().__init__()
        self.redeemed = dict.fromkeys(codes, 0)
        self.granted_twice: list[str] = []
        self.failure: Exception | None = None
        self._url, self._number, self._ended = f"unix://{socket}", number, ended

    def run(self) -> None:
        try:
            with VoucherSessions.from_url(self._url) as engine:
                self._shop(engine, random.Random(self._number))
        except Exception as failure:
            self.failure = failure

    def _shop(self, engine: VoucherSessions, chance: random.Random) -> None:
        gone: set[str] = set()  # its sessions that redeem has reported as not live
        while not self._ended.is_set():
            code = chance.choice(list(self.redeemed))
            key = f"{self._number}-{chance.randrange(4)}"
            place, verb = f"{code} {key}", chance.choice(["lock", "lock", "redeem", "release"])
            if verb == "lock":
                if engine.validate(code, session=lock(key, chance.choice([40, 1000, 30_000]))).valid:
                    gone.discard(place)
                continue
            if verb == "release":
                engine.release(code, key)
                continue
            try:
                engine.redeem(code, session=key)
                self.redeemed[code] += 1
                if place in gone:
                    self.granted_twice.append(place)
            except SessionNotFound:
                gone.add(place)
            except LimitExceeded:
                pass


@pytest.mark.parametrize("name", list(BINARIES))
def test_an_hour_forward_and_back_under_calls(name: str) -> None:
    """On the running clock. One voucher gets no calls in the wrong hour, and calls without a pause after it."""
    with running_with_clock(name) as (server, clock), server.client() as client:
        engine = VoucherSessions(client)
        codes = ["V", "W"]
        for code in (*codes, "quiet"):
            engine.put_voucher(Voucher(code=code, quantity=20 if code == "V" else 100_000))
        clock.run()
        for at in range(5):
            assert engine.validate("quiet", session=lock(f"early{at}", 30_000)).valid
        ended = threading.Event()
        shoppers = [Shopper(server.socket, number, codes, ended) for number in range(4)]
        for shopper in shoppers:
            shopper.start()
        time.sleep(0.3)
        clock.run(HOUR)
        time.sleep(1.5)
        clock.run()
        for at in range(20):
            assert engine.validate("quiet", session=lock(f"late{at}", HOUR)).valid
        time.sleep(0.3)
        ended.set()
        for shopper in shoppers:
            shopper.join()
            assert shopper.failure is None, shopper.failure
            assert not shopper.granted_twice

        clock.reach(clock.now_ms())
        for code in (*codes, "quiet"):
            agree(engine, code)
            used = engine.get_voucher(code).quantity.used
            assert used == sum(shopper.redeemed.get(code, 0) for shopper in shoppers)
        clock.move(MINUTE)  # now only locks of the wrong hour and later ones are live, and each has its holder
        assert agree(engine, "quiet") == Figures(20)
        for code in (*codes, "quiet"):
            for session in engine.list_sessions(code, limit=10_000):
                assert engine.release(code, session.key).released
            assert agree(engine, code) == Figures()


# --- A failover to a clock that is behind ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BINARIES))
@pytest.mark.parametrize("beside", [0, 2])
@pytest.mark.parametrize("tries", ["redeem", "release", "validate"])
def test_a_failover_to_a_replica_that_is_behind(name: str, beside: int, tries: str) -> None:
    """Confirmed by the replica, whose clock is 5 s behind: it has all that was granted, and not the time."""
    with ExitStack() as stack:
        primary, its_clock = stack.enter_context(running_with_clock(name, repl_diskless_sync_delay="0"))
        link = stack.enter_context(Proxy(primary.socket))
        replica, clock_behind = stack.enter_context(running_with_clock(name, replicaof=f"127.0.0.1 {link.port}"))
        clock_behind.reach(START_MS - 5000)
        until(lambda: replication(replica)["master_link_status"] == "up")

        with primary.client() as client:
            engine = VoucherSessions(client, durability=Durability(replicas=1, timeout_ms=3000))
            engine.put_voucher(Voucher(code="V", quantity=1 + beside))
            for key in ("x", "y")[:beside]:
                assert engine.validate("V", session=lock(key, HOUR)).valid
            assert engine.validate("V", session=lock("A", 1000)).valid
            its_clock.move(1000)
            clock_behind.move(1000)
            assert engine.validate("V", session=lock("B", HOUR)).valid
        primary.kill()
        with replica.client() as client:
            client.replicaof("NO", "ONE")
            engine = VoucherSessions(client)
            if tries == "redeem":
                with pytest.raises(SessionNotFound):
                    engine.redeem("V", session="A")
            elif tries == "release":
                assert engine.release("V", "A").released is False
            else:
                answer = engine.validate("V", session=lock("A"))
                assert (answer.valid, answer.locked_by_others, answer.session) == (False, True, None)
            assert agree(engine, "V") == Figures(1 + beside)
            assert engine.redeem("V", session="B").session_key == "B"
            with pytest.raises(SessionNotFound):
                engine.redeem("V", session="A")
            assert agree(engine, "V") == Figures(beside)

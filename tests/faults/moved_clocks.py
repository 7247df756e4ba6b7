"""What the tests of moved clocks share: an engine on a server whose clock they hold, and what must hold afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import fakeredis
import pytest
import redis
import time_machine
from support.moved_clock import START_MS, FakeClock, ServerClock, StoppedClock, running_with_clock
from support.servers import BINARIES, Server

from voucher_sessions import Redeemable, SessionNotFound, Voucher, VoucherSessions

BACKENDS = ["fakeredis", *BINARIES]
MINUTE, HOUR = 60_000, 3_600_000


class Shop(NamedTuple):
    """An engine, a client to the same data, and the clock, which stands still."""

    engine: VoucherSessions
    client: redis.Redis
    clock: StoppedClock


@contextmanager
def shop_on(name: str, servers: dict[str, tuple[Server, ServerClock]], stack: ExitStack) -> Iterator[Shop]:
    """An empty one. ``servers`` are those that run already; ``stack`` ends what is started."""
    if name == "fakeredis":
        with time_machine.travel(datetime(2026, 11, 21, 12, tzinfo=UTC), tick=False) as traveller:
            fake = fakeredis.FakeRedis()
            yield Shop(VoucherSessions(fake), fake, FakeClock(traveller))
        return
    if name not in servers:
        servers[name] = stack.enter_context(running_with_clock(name))
    server, clock = servers[name]
    with server.client() as client:
        client.flushall()
        clock.reach(START_MS)
        yield Shop(VoucherSessions(client), client, clock)


def lock(key: str, ttl_ms: int = 10_000) -> dict[str, Any]:
    return {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}


class Figures(NamedTuple):
    quantity: int = 0
    credits: int = 0
    points: int = 0


def locked(engine: VoucherSessions, code: str) -> Figures:
    state = engine.get_voucher(code)
    return Figures(state.quantity.locked, state.credits.locked, state.points.locked)


def agree(engine: VoucherSessions, code: str) -> Figures:
    """What is locked: the same in the totals, in the sum of the sessions that are listed, and in an audit.

    With what is spent it is within the limits.
    """
    state, audit = engine.get_voucher(code), engine.audit(code)
    sessions = engine.list_sessions(code, limit=10_000)
    listed = Figures(len(sessions), sum(each.credits for each in sessions), sum(each.points for each in sessions))
    balances = state.quantity, state.credits, state.points
    assert listed == tuple(balance.locked for balance in balances)
    assert not audit.differs
    assert (audit.counted.quantity, audit.counted.credits, audit.counted.points) == listed
    for balance in balances:
        assert balance.limit is None or balance.used + balance.locked <= balance.limit, "more than the limit is given"
    return listed


def hour_forward_and_back(shop: Shop, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Redis drops in that hour what expires in it: a key that a command names at once, the others in its own time."""
    names = shop.client.keys("*")
    shop.clock.move(HOUR)
    meanwhile()
    shop.client.exists(*names)
    shop.clock.move(-HOUR)


# --- A has expired, B has what A held, and the clock goes back ------------------------------------------------------

TTL_MS, LONG_MS = 10_000, 10 * MINUTE
EXPIRY = START_MS + TTL_MS  # of A's lock


class Case(NamedTuple):
    """Vouchers of which A and then B lock ``amounts``, all that there is, beside locks that stay."""

    name: str
    voucher: dict[str, Any]
    amounts: Mapping[str, Any] = MappingProxyType({})
    codes: tuple[str, ...] = ("V",)
    beside: tuple[tuple[str, int], ...] = ()  # other sessions, without credits and points, and their TTLs

    def holds(self) -> Figures:
        return Figures(1, self.amounts.get("credits", 0), self.amounts.get("points", 0))

    def redeemables(self) -> list[Redeemable]:
        return [Redeemable(code=code, **self.amounts) for code in self.codes]

    def locked(self) -> list[Redeemable]:
        """To redeem what the session locked."""
        return [Redeemable(code=code) for code in self.codes]

    def living(self) -> int:
        return sum(ttl_ms > TTL_MS for _, ttl_ms in self.beside)


LIVING = (("x", LONG_MS), ("y", LONG_MS))
EXPIRING = (("x", TTL_MS), ("y", TTL_MS - 1))
CASES = [
    Case("only lock", {"quantity": 1}),
    Case("beside living locks", {"quantity": 3}, beside=LIVING),
    Case("beside locks that expire", {"quantity": 1 + len(EXPIRING)}, beside=EXPIRING),
    Case("credits", {"credits": 100}, {"credits": 100}),
    Case("credits beside living locks", {"credits": 100}, {"credits": 100}, beside=LIVING),
    Case("points", {"points": 7, "credits": 1}, {"points": 7}, beside=LIVING[:1]),
    Case("stack", {"quantity": 1, "credits": 5}, {"credits": 5}, ("V", "W")),
    Case("stack beside living locks", {"quantity": 3, "points": 9}, {"points": 9}, ("V", "W"), LIVING),
]


def a_expires(shop: Shop, case: Case) -> None:
    for code in case.codes:
        shop.engine.put_voucher(Voucher(code=code, **case.voucher))
        for key, ttl_ms in case.beside:
            assert shop.engine.validate(code, session=lock(key, ttl_ms)).valid
    assert shop.engine.validate_stack(case.redeemables(), session=lock("A", TTL_MS)).valid
    shop.clock.reach(EXPIRY)


def granted_to_b(shop: Shop, case: Case, back_ms: int) -> None:
    """A's lock has expired, B has what it held, and the clock goes back."""
    a_expires(shop, case)
    if case.name == "beside locks that expire":
        assert shop.engine.validate("V", session=lock("z", LONG_MS)).valid, "what x had"
        assert shop.engine.validate("V", session=lock("u", LONG_MS)).valid, "what y had"
    assert shop.engine.validate_stack(case.redeemables(), session=lock("B", LONG_MS)).valid
    shop.clock.move(-back_ms)


def b_is_served(shop: Shop, case: Case) -> None:
    """B's lock stands as it was, and gives what it holds; A has no part in it, nor when the time comes again."""
    beside = 2 if case.name == "beside locks that expire" else case.living()
    for code in case.codes:
        assert agree(shop.engine, code) == Figures(1 + beside, *case.holds()[1:])
        assert {each.key for each in shop.engine.list_sessions(code)} >= {"B"}
    for redemption in shop.engine.redeem_stack(case.locked(), session="B", redemption_id="b").redemptions:
        assert (redemption.quantity, redemption.credits, redemption.points) == case.holds()
    for at_ms in (shop.clock.now_ms(), EXPIRY, EXPIRY + 1):
        shop.clock.reach(at_ms)
        with pytest.raises(SessionNotFound):
            shop.engine.redeem_stack(case.locked(), session="A", redemption_id="a")
        for code in case.codes:
            assert agree(shop.engine, code) == Figures(beside)
            state = shop.engine.get_voucher(code)
            assert (state.quantity.used, state.credits.used, state.points.used) == case.holds()

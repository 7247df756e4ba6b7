"""A server's clock that goes back: what was given to somebody else is not given twice.

A lock expires, a call takes it out of the totals, and its amounts are granted to another session. Then the clock goes
back to before the expiry, by a correction of the time (1 ms) or as in a failover to a replica whose clock is behind
(5 s). Redis still has the expired session's key, since a key lives through the very millisecond of its expiry: the
tests stop the clock at that millisecond.

What a lock that nobody took out of the totals does when the clock goes back is not tested here: it is live again, and
that is right, for nobody else has got what it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
from support.moved_clock import ServerClock, running_with_clock
from support.servers import BINARIES, Server

from faults.moved_clocks import (
    CASES,
    EXPIRY,
    LONG_MS,
    TTL_MS,
    Case,
    Figures,
    Shop,
    a_expires,
    agree,
    b_is_served,
    granted_to_b,
    lock,
    locked,
)
from voucher_sessions import AsyncVoucherSessions, LimitExceeded, Redeemable, SessionNotFound, Voucher, VoucherSessions

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
by_step = pytest.mark.parametrize("back_ms", [1, 5000])


# What A can try. Each once by the verb for a single voucher and once, where there are more, by that for a stack.


def validates(shop: Shop, case: Case) -> None:
    for code in case.codes:
        answer = shop.engine.validate(code, **case.amounts, session=lock("A"))
        assert (answer.valid, answer.locked_by_others, answer.session) == (False, True, None)
    stack = shop.engine.validate_stack(case.redeemables(), session=lock("A"))
    assert (stack.valid, stack.session) == (False, None)


def asks_what_is_available(shop: Shop, case: Case) -> None:
    """As much as somebody without any session: what it held is not counted as its own."""
    for code in case.codes:
        available = shop.engine.validate(code, **case.amounts).available
        assert shop.engine.validate(code, **case.amounts, session=lock("A")).available == available


def redeems(shop: Shop, case: Case) -> None:
    for code in case.codes:
        with pytest.raises(SessionNotFound):
            shop.engine.redeem(code, session="A", redemption_id="a")
        with pytest.raises(SessionNotFound):
            shop.engine.redeem(code, **case.amounts, session="A", redemption_id="a")
    with pytest.raises(SessionNotFound):
        shop.engine.redeem_stack(case.locked(), session="A", redemption_id="a")


def redeems_without_its_lock(shop: Shop, case: Case) -> None:
    for code in case.codes:
        with pytest.raises(LimitExceeded):
            shop.engine.redeem(code, **case.amounts, session="A", redemption_id="a", if_session_missing="redeem")


def releases(shop: Shop, case: Case) -> None:
    for code in case.codes:
        assert shop.engine.release(code, "A").released is False
    assert [each.released for each in shop.engine.release_stack(case.codes, "A")] == [False] * len(case.codes)
    shop.engine.put_voucher(Voucher(code="other", quantity=1))
    assert shop.engine.validate_stack([Redeemable(code="other")], session=lock("A"), release=case.codes).valid


def is_listed(shop: Shop, case: Case) -> None:
    for code in case.codes:
        assert "A" not in {each.key for each in shop.engine.list_sessions(code)}


def pipelines(shop: Shop, case: Case) -> None:
    with shop.engine.pipeline() as batch:
        for code in case.codes:
            batch.validate(code, **case.amounts, session=lock("A"))
            batch.release(code, "A")
            batch.redeem(code, session="A", redemption_id="a")
        answers = batch.execute(raise_on_error=False)
    for validation, release, redemption in zip(*3 * [iter(answers)], strict=True):
        assert (validation.valid, validation.session, release.released) == (False, None, False)
        assert isinstance(redemption, SessionNotFound)


TRIES = [validates, asks_what_is_available, redeems, redeems_without_its_lock, releases, is_listed, pipelines]


@by_step
@by_case
@pytest.mark.parametrize("tries", TRIES, ids=lambda tries: tries.__name__)
def test_what_was_granted_to_another_is_not_given_twice(
    shop: Shop, tries: Callable[[Shop, Case], None], case: Case, back_ms: int
) -> None:
    granted_to_b(shop, case, back_ms)
    tries(shop, case)
    b_is_served(shop, case)


def asks_for_the_state(shop: Shop, code: str) -> None:
    assert locked(shop.engine, code).quantity == 0


def audits(shop: Shop, code: str) -> None:
    assert shop.engine.audit(code).counted.quantity == 0


def repairs(shop: Shop, code: str) -> None:
    assert shop.engine.repair(code).counted.quantity == 0


def puts_again(shop: Shop, code: str) -> None:
    assert shop.engine.put_voucher(Voucher(code=code, quantity=1)).quantity.locked == 0


def validates_without_a_session(shop: Shop, code: str) -> None:
    assert shop.engine.validate(code).valid


@by_step
@pytest.mark.parametrize(
    "takes_out",
    [asks_for_the_state, audits, repairs, puts_again, validates_without_a_session],
    ids=lambda takes_out: takes_out.__name__,
)
def test_a_lock_that_any_call_has_taken_out_stays_dead(
    shop: Shop, takes_out: Callable[[Shop, str], None], back_ms: int
) -> None:
    """Nobody has got it yet, but everybody was shown that it is free."""
    case = CASES[0]
    a_expires(shop, case)
    takes_out(shop, "V")
    shop.clock.move(-back_ms)
    assert shop.engine.release("V", "A").released is False
    with pytest.raises(SessionNotFound):
        shop.engine.redeem("V", session="A")
    assert agree(shop.engine, "V") == Figures()
    assert shop.engine.validate("V", session=lock("B", LONG_MS)).valid
    b_is_served(shop, case)


@by_step
@by_case
def test_what_was_spent_by_another_is_not_spent_twice(shop: Shop, case: Case, back_ms: int) -> None:
    a_expires(shop, case)
    shop.engine.redeem_stack(case.redeemables(), redemption_id="b")
    shop.clock.move(-back_ms)
    for code in case.codes:
        with pytest.raises(SessionNotFound):
            shop.engine.redeem(code, session="A", redemption_id="a")
        assert shop.engine.release(code, "A").released is False
        agree(shop.engine, code)
        state = shop.engine.get_voucher(code)
        assert (state.quantity.used, state.credits.used, state.points.used) == case.holds()


@by_step
@by_case
def test_a_session_that_locks_again_after_the_step_back_has_a_lock_as_any_other(
    shop: Shop, case: Case, back_ms: int
) -> None:
    """Under the same key, with other amounts than before; it is live on every path until its new expiry."""
    granted_to_b(shop, case, back_ms)
    for code in case.codes:
        assert shop.engine.release(code, "B").released
        for amounts in ({}, dict(case.amounts)):
            validation = shop.engine.validate(code, **amounts, session=lock("A", TTL_MS))
            assert validation.session is not None
            assert validation.session.remaining_ms == TTL_MS
        agree(shop.engine, code)
    shop.clock.move(TTL_MS - 1)
    for code in case.codes:
        assert "A" in {each.key for each in shop.engine.list_sessions(code)}
    for redemption in shop.engine.redeem_stack(case.locked(), session="A").redemptions:
        assert (redemption.quantity, redemption.credits, redemption.points) == case.holds()
    for code in case.codes:
        agree(shop.engine, code)


@pytest.mark.parametrize("beside", [False, True])
def test_a_short_lock_after_the_step_back_does_not_revive_the_expired_one(shop: Shop, beside: bool) -> None:
    """It moves the soonest expiry of the voucher to before that of the expired lock."""
    shop.engine.put_voucher(Voucher(code="V", quantity=1 + beside))
    if beside:
        assert shop.engine.validate("V", session=lock("x", LONG_MS)).valid
    assert shop.engine.validate("V", session=lock("A", TTL_MS)).valid
    shop.clock.reach(EXPIRY)
    assert shop.engine.validate("V", session=lock("B", LONG_MS)).valid
    shop.clock.move(-5000)
    assert shop.engine.release("V", "B").released
    assert shop.engine.validate("V", session=lock("C", 1000)).valid
    assert shop.engine.release("V", "A").released is False
    with pytest.raises(SessionNotFound):
        shop.engine.redeem("V", session="A")
    assert agree(shop.engine, "V") == Figures(1 + beside)
    assert shop.engine.redeem("V", session="C").quantity == 1
    agree(shop.engine, "V")


@pytest.mark.parametrize("try_first", ["redeem", "release"])
def test_locks_of_one_millisecond_on_both_sides_of_a_batch(shop: Shop, try_first: str) -> None:
    """The clock goes back between two scripts of one call, when 250 of 300 locks of one millisecond are taken out.

    The other 50 are live again, and they alone.
    """
    keys = [f"k{at}" for at in range(300)]
    shop.engine.put_voucher(Voucher(code="V", quantity=301))
    shop.engine.validate("V", session=lock("x", LONG_MS))
    for key in keys:
        assert shop.engine.validate("V", session=lock(key, TTL_MS)).valid
    shop.clock.reach(EXPIRY)
    client: Any = shop.client
    execute = client.execute_command

    def then_the_clock_goes_back(*words: Any, **options: Any) -> Any:
        reply = execute(*words, **options)
        if shop.clock.now_ms() == EXPIRY:
            shop.clock.move(-1)
        return reply

    client.execute_command = then_the_clock_goes_back
    assert VoucherSessions(client).validate("V").valid
    assert shop.clock.now_ms() == EXPIRY - 1
    living = {each.key for each in shop.engine.list_sessions("V", limit=1000)} - {"x"}
    assert len(living) == 50
    for at in range(250):
        assert shop.engine.validate("V", session=lock(f"new{at}", LONG_MS)).valid
    assert shop.engine.validate("V").locked_by_others
    for key in keys:
        if try_first == "release":
            assert shop.engine.release("V", key).released is (key in living)
        elif key in living:
            assert shop.engine.redeem("V", session=key).quantity == 1
        else:
            with pytest.raises(SessionNotFound):
                shop.engine.redeem("V", session=key)
    assert agree(shop.engine, "V") == Figures(251)


@pytest.mark.parametrize("name", list(BINARIES))
def test_the_asyncio_engine_does_not_give_it_twice(name: str) -> None:
    async def history(server: Server, clock: ServerClock) -> None:
        client = redis.asyncio.Redis(unix_socket_path=server.socket)
        async with client, AsyncVoucherSessions(client) as engine:
            await engine.put_voucher(Voucher(code="V", quantity=1))
            assert (await engine.validate("V", session=lock("A", TTL_MS))).valid
            clock.reach(EXPIRY)
            assert (await engine.validate("V", session=lock("B", LONG_MS))).valid
            clock.move(-1)
            assert (await engine.release("V", "A")).released is False
            assert (await engine.validate("V", session=lock("A"))).valid is False
            with pytest.raises(SessionNotFound):
                await engine.redeem("V", session="A")
            assert (await engine.redeem("V", session="B")).quantity == 1
            assert not (await engine.audit("V")).differs

    with running_with_clock(name) as (server, clock):
        asyncio.run(history(server, clock))

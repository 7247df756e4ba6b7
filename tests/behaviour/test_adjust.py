"""DESIGN.md 3.19: ``adjust`` adds to the limits of a voucher, atomically, and once per adjustment id."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Backend, Clock

from behaviour.test_blocked_stacks import write_foreign_value
from behaviour.test_repeated_calls import CALLS
from behaviour.test_semantics import BIGGEST, figures, lock, plant_expired_locks
from voucher_sessions import (
    AdjustmentConflict,
    AdjustmentRefused,
    AsyncVoucherSessions,
    CorruptState,
    GiftAmountExceeded,
    UnknownFormat,
    Used,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)
from voucher_sessions._core.call import Call

RECEIPT = "vs:{GIFT}:adjustment:topup"
TEN_MINUTES = 600


def run(backend: Backend, call: Call[Any]) -> Any:
    """The result of a call. Running the same call again is an automatic retry of the client."""
    return call.result(backend.admin.execute_command(*call.eval_command()))


def limits(engine: VoucherSessions, code: str = "GIFT") -> tuple[int | None, int | None, int | None]:
    state = engine.get_voucher(code)
    return state.quantity.limit, state.credits.limit, state.points.limit


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    engine.put_voucher(Voucher(code="GIFT", quantity=5, credits=100, points=10))
    return engine


def test_it_changes_the_limits_and_nothing_else(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", quantity=5, credits=100, points=10), used=Used(quantity=1, credits=20))
    engine.validate("GIFT", credits=30, points=4, session=lock("cart"))
    done = engine.adjust("GIFT", quantity=2, credits=-40, points=7)
    assert figures(engine, "GIFT") == {"quantity": (7, 1, 1, 5), "credits": (60, 20, 30, 10), "points": (17, 0, 4, 13)}
    assert (done.code, done.quantity, done.credits, done.points, done.replayed) == ("GIFT", 2, -40, 7, False)
    assert done.voucher == engine.get_voucher("GIFT")
    assert re.fullmatch("adj_[A-Za-z0-9]{32}", done.id)


def test_the_voucher_that_it_returns_has_no_expired_locks(engine: VoucherSessions, backend: Backend) -> None:
    """More of them than one call of the script reclaims, beside a live one."""
    engine.put_voucher(Voucher(code="HOT", quantity=1202, credits=20_000))
    engine.validate("HOT", credits=7, session=lock("stays"))
    plant_expired_locks(backend, "HOT", 1201)
    voucher = engine.adjust("HOT", credits=5, adjustment_id="top-up").voucher
    assert voucher is not None
    assert (voucher.quantity.locked, voucher.credits.locked, voucher.credits.limit) == (1, 7, 20_005)


def test_once_per_id(gift: VoucherSessions, backend: Backend) -> None:
    assert gift.adjust("GIFT", credits=50, adjustment_id="topup").replayed is False
    gift.redeem("GIFT", credits=60)
    before = backend.contents()
    again = gift.adjust("GIFT", credits=50, adjustment_id="topup")
    assert (again.id, again.credits, again.replayed) == ("topup", 50, True)
    assert again.voucher == gift.get_voucher("GIFT"), "as it is now"
    assert backend.contents() == before
    assert limits(gift) == (5, 150, 10)


def test_each_call_without_an_id_counts(gift: VoucherSessions) -> None:
    first, second = gift.adjust("GIFT", credits=50), gift.adjust("GIFT", credits=50)
    assert first.id != second.id
    assert limits(gift) == (5, 200, 10)


def test_an_id_belongs_to_its_voucher(gift: VoucherSessions) -> None:
    gift.put_voucher(Voucher(code="CARD"))
    gift.adjust("GIFT", credits=50, adjustment_id="topup")
    assert gift.adjust("CARD", credits=5, adjustment_id="topup").replayed is False
    assert (limits(gift), limits(gift, "CARD")) == ((5, 150, 10), (None, 5, 0))


@pytest.mark.parametrize(
    "other", [{"credits": 49}, {"credits": -50}, {"credits": 50, "points": 1}, {"points": 50}, {"quantity": 50}]
)
def test_other_changes_under_an_id_are_a_conflict(
    gift: VoucherSessions, backend: Backend, other: dict[str, int]
) -> None:
    gift.adjust("GIFT", credits=50, adjustment_id="topup")
    before = backend.contents()
    with pytest.raises(AdjustmentConflict) as refused:
        gift.adjust("GIFT", **other, adjustment_id="topup")
    assert (refused.value.code, refused.value.adjustment_id) == ("GIFT", "topup")
    assert backend.contents() == before


@pytest.mark.parametrize(
    ("quantity", "credits", "points", "changes", "balance", "limit"),
    [
        (5, 100, 10, {"credits": -101}, "credits", 100),
        (5, 100, 10, {"credits": 50, "points": -11}, "points", 10),
        (5, 100, 10, {"credits": 50, "quantity": -6}, "quantity", 5),
        (None, 100, 10, {"quantity": 1}, "quantity", None),
        (None, 100, 10, {"quantity": -1, "credits": 5}, "quantity", None),
        (0, 0, 0, {"credits": -1}, "credits", 0),
        (0, BIGGEST, 0, {"credits": 1}, "credits", BIGGEST),
        (0, 1, BIGGEST, {"credits": 1, "points": BIGGEST}, "points", BIGGEST),
        (BIGGEST, 0, 0, {"quantity": 1}, "quantity", BIGGEST),
        (0, 0, BIGGEST - 1, {"points": -BIGGEST}, "points", BIGGEST - 1),
    ],
)
def test_a_limit_stays_in_its_range(
    engine: VoucherSessions,
    backend: Backend,
    quantity: int | None,
    credits: int,
    points: int,
    changes: dict[str, int],
    balance: str,
    limit: int | None,
) -> None:
    engine.put_voucher(Voucher(code="GIFT", quantity=quantity, credits=credits, points=points))
    before = backend.contents()
    with pytest.raises(AdjustmentRefused) as refused:
        engine.adjust("GIFT", **changes, adjustment_id="topup")
    error = refused.value
    assert (error.code, error.balance, error.limit, error.change) == ("GIFT", balance, limit, changes[balance])
    assert backend.contents() == before


def test_up_to_the_ends_of_the_range(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", quantity=0))
    engine.adjust("GIFT", quantity=BIGGEST, credits=BIGGEST - 1, points=BIGGEST)
    engine.adjust("GIFT", credits=1)
    assert limits(engine) == (BIGGEST, BIGGEST, BIGGEST)
    state = engine.adjust("GIFT", quantity=-BIGGEST, credits=-BIGGEST, points=1 - BIGGEST).voucher
    assert state == engine.get_voucher("GIFT")
    assert limits(engine) == (0, 0, 1)


def test_a_voucher_without_a_limit_of_its_quantity_can_be_topped_up(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=5))
    engine.adjust("GIFT", credits=5, points=5)
    assert limits(engine) == (None, 10, 5)


def test_a_refusal_is_not_remembered(gift: VoucherSessions) -> None:
    with pytest.raises(AdjustmentRefused):
        gift.adjust("GIFT", credits=-101, adjustment_id="topup")
    gift.adjust("GIFT", credits=1)
    assert gift.adjust("GIFT", credits=-101, adjustment_id="topup").replayed is False
    assert limits(gift) == (5, 0, 10)


@pytest.mark.parametrize("deleted", [False, True])
def test_there_must_be_a_voucher(engine: VoucherSessions, backend: Backend, deleted: bool) -> None:
    if deleted:
        engine.put_voucher(Voucher(code="GIFT"))
        engine.delete_voucher("GIFT")
    before = backend.contents()
    with pytest.raises(VoucherNotFound):
        engine.adjust("GIFT", credits=5, adjustment_id="topup")
    assert backend.contents() == before


def test_an_id_that_was_used_before_the_voucher_was_deleted(gift: VoucherSessions, backend: Backend) -> None:
    gift.adjust("GIFT", credits=50, adjustment_id="topup")
    gift.delete_voucher("GIFT")
    before = backend.contents()
    again = gift.adjust("GIFT", credits=50, adjustment_id="topup")
    assert (again.credits, again.voucher, again.replayed) == (50, None, True)
    with pytest.raises(AdjustmentConflict):
        gift.adjust("GIFT", credits=51, adjustment_id="topup")
    assert backend.contents() == before

    gift.put_voucher(Voucher(code="GIFT", credits=7))
    before = backend.contents()
    with pytest.raises(AdjustmentConflict):
        gift.adjust("GIFT", credits=50, adjustment_id="topup")
    assert backend.contents() == before
    gift.adjust("GIFT", credits=50, adjustment_id="topup of the new one")
    assert limits(gift) == (None, 57, 0)


def test_below_what_is_used_and_locked_holders_are_served(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100), used=Used(credits=20))
    for key in ("first", "second"):
        assert engine.validate("GIFT", credits=40, session=lock(key)).valid
    engine.adjust("GIFT", credits=-30)
    assert figures(engine, "GIFT")["credits"] == (70, 20, 80, 0)
    assert engine.validate("GIFT", credits=1).locked_by_others
    assert engine.redeem("GIFT", session="first").credits == 40
    with pytest.raises(GiftAmountExceeded) as refused:
        engine.redeem("GIFT", session="second")
    assert (refused.value.available, refused.value.locked_by_others) == (10, False)
    engine.adjust("GIFT", credits=-70)
    assert figures(engine, "GIFT")["credits"] == (0, 60, 40, 0)
    engine.adjust("GIFT", credits=100)
    assert engine.redeem("GIFT", session="second").credits == 40


def test_locks_that_have_expired_are_left_out_of_the_result(gift: VoucherSessions, clock: Clock) -> None:
    gift.validate("GIFT", credits=30, session=lock("goes", ttl_ms=40))
    gift.validate("GIFT", credits=20, session=lock("stays", ttl_ms=60_000))
    clock.advance(41)
    voucher = gift.adjust("GIFT", credits=10).voucher
    assert voucher is not None
    assert (voucher.credits.locked, voucher.credits.available, voucher.quantity.locked) == (20, 90, 1)


@pytest.mark.parametrize("backend", ["fakeredis"], indirect=True)
def test_with_more_expired_locks_than_one_script_call_reclaims(backend: Backend) -> None:
    with backend.client() as client:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        pipe = engine.pipeline()
        for at in range(260):
            pipe.validate("GIFT", session=lock(f"goes-{at}", ttl_ms=1000))
        pipe.validate("GIFT", credits=20, session=lock("stays", ttl_ms=60_000)).execute()
        backend.clock.advance(1001)
        voucher = engine.adjust("GIFT", credits=10, adjustment_id="topup").voucher
        assert voucher is not None
        assert (voucher.quantity.locked, voucher.credits.limit, voucher.credits.available) == (1, 110, 90)


def test_receipts_stay_for_good_or_as_long_as_receipt_ttl(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> None:
    for options, longest in (({}, -1), ({"receipt_ttl": TEN_MINUTES}, TEN_MINUTES * 1000)):
        engine = make_engine(**options)
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        engine.adjust("GIFT", credits=50, adjustment_id="topup")
        engine.redeem("GIFT", credits=1, redemption_id="order")
        ttls_ms = backend.keys()
        for key in (RECEIPT, "vs:{GIFT}:redemption:order"):
            assert longest - 10_000 < ttls_ms[key.encode()] <= longest
        assert ttls_ms[b"vs:{GIFT}"] == -1
        backend.admin.flushall()


@pytest.mark.parametrize("backend", ["fakeredis"], indirect=True)
def test_once_receipt_ttl_has_passed_an_id_is_new(make_engine: Callable[..., VoucherSessions], clock: Clock) -> None:
    engine = make_engine(receipt_ttl=TEN_MINUTES)
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.adjust("GIFT", credits=50, adjustment_id="topup")
    clock.advance(TEN_MINUTES * 1000 - 1)
    assert engine.adjust("GIFT", credits=50, adjustment_id="topup").replayed
    clock.advance(2)
    assert engine.adjust("GIFT", credits=50, adjustment_id="topup").replayed is False
    assert limits(engine) == (None, 200, 0)


@pytest.mark.parametrize("id_", ["x" * 256, "ä ö\n{GIFT}:adjustment:topup", "1 2 3", "-"])
def test_an_id_is_any_text(gift: VoucherSessions, id_: str) -> None:
    assert [gift.adjust("GIFT", credits=1, adjustment_id=id_).replayed for _ in range(2)] == [False, True]
    assert gift.adjust("GIFT", credits=1, adjustment_id="topup").replayed is False
    assert limits(gift) == (5, 102, 10)


def test_in_a_pipeline(gift: VoucherSessions, execute: Callable[..., list[Any]]) -> None:
    pipe = gift.pipeline()
    pipe.adjust("GIFT", credits=50, adjustment_id="topup")
    pipe.adjust("GIFT", credits=50, adjustment_id="topup")
    pipe.adjust("GIFT", credits=51, adjustment_id="topup")
    pipe.adjust("GIFT", quantity=-6)
    pipe.adjust("NOBODY", points=1)
    pipe.adjust("GIFT", points=1)
    first, again, conflict, refused, not_found, last = execute(pipe, raise_on_error=False)
    assert (first.replayed, again.replayed) == (False, True)
    assert list(map(type, (conflict, refused, not_found))) == [AdjustmentConflict, AdjustmentRefused, VoucherNotFound]
    assert last.voucher == gift.get_voucher("GIFT")
    assert limits(gift) == (5, 150, 11)


# 4 workers top up 25 times by 100, and each sends every top-up twice.
TOP_UPS = [f"till-{till}-{at}" for at in range(25) for till in range(4)] * 2


@pytest.mark.parametrize("backend", ["fakeredis", "valkey"], indirect=True)
def test_threads_lose_nothing(backend: Backend) -> None:
    with backend.client() as client, VoucherSessions(client) as engine, ThreadPoolExecutor(4) as threads:
        engine.put_voucher(Voucher(code="GIFT"))
        done = list(threads.map(lambda id_: engine.adjust("GIFT", credits=100, adjustment_id=id_), TOP_UPS))
        assert [each.replayed for each in done].count(False) == 100
        assert limits(engine) == (None, 10_000, 0)


@pytest.mark.parametrize("backend", ["fakeredis", "valkey"], indirect=True)
def test_tasks_lose_nothing(backend: Backend) -> None:
    async def top_up() -> None:
        async with backend.async_client() as client, AsyncVoucherSessions(client) as engine:
            await engine.put_voucher(Voucher(code="GIFT"))
            await asyncio.gather(*(engine.adjust("GIFT", credits=100, adjustment_id=id_) for id_ in TOP_UPS))
            assert (await engine.get_voucher("GIFT")).credits.limit == 10_000

    asyncio.run(top_up())


def test_a_call_that_a_client_sends_again_has_one_effect(backend: Backend) -> None:
    call = CALLS.adjust("GIFT", 0, 50, 0, None)
    with backend.client() as client:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        first = run(backend, call)
        engine.adjust("GIFT", credits=5)
        again = run(backend, call)
        assert (again.id, again.replayed, again.voucher.credits.limit) == (first.id, False, 155)
        engine.delete_voucher("GIFT")
        assert run(backend, call).voucher is None
        engine.put_voucher(Voucher(code="GIFT", credits=7))
        again = run(backend, call)
        assert (again.voucher, again.replayed) == (None, False), "its own first answer, and nothing of the new voucher"
        assert limits(engine) == (None, 7, 0)


@pytest.mark.parametrize("if_exists", ["update", "keep"])
def test_a_put_that_a_client_sends_again_does_not_undo_an_adjustment(backend: Backend, if_exists: Any) -> None:
    call = CALLS.put_voucher(Voucher(code="GIFT", credits=100), None, if_exists)
    with backend.client() as client:
        engine = VoucherSessions(client)
        run(backend, call)
        for _ in range(6):
            engine.adjust("GIFT", credits=50)
        run(backend, call)
        assert limits(engine) == (None, 400, 0)


@pytest.mark.parametrize("key", ["vs:{GIFT}", "vs:{GIFT}:locks", RECEIPT])
@pytest.mark.parametrize("kind", ["list", "text"])
@pytest.mark.parametrize("expired", [False, True])
def test_a_foreign_value_is_refused_before_anything_is_written(
    backend: Backend, key: str, kind: str, expired: bool
) -> None:
    with backend.client() as client:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        for at in range(2):
            engine.validate("GIFT", credits=1, session=lock(f"cart-{at}", ttl_ms=30 if expired else 60_000))
        engine.validate("GIFT", credits=1, session=lock("stays", ttl_ms=60_000))
        if expired:
            backend.clock.advance(31)
        write_foreign_value(backend.admin, key, kind)
        before = backend.contents()
        if key.endswith("locks") and not expired:
            assert engine.adjust("GIFT", credits=50, adjustment_id="topup").replayed is False, "it reads no lock"
            assert limits(engine) == (None, 150, 0)
        else:
            with pytest.raises(CorruptState):
                engine.adjust("GIFT", credits=50, adjustment_id="topup")
            assert backend.contents() == before


@pytest.mark.parametrize("key", ["vs:{GIFT}", RECEIPT])
@pytest.mark.parametrize("expired", [False, True])
def test_a_newer_format_is_refused_before_anything_is_written(
    engine: VoucherSessions, backend: Backend, key: str, expired: bool
) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.adjust("GIFT", credits=50, adjustment_id="topup")
    engine.validate("GIFT", credits=1, session=lock("cart", ttl_ms=30 if expired else 60_000))
    if expired:
        backend.clock.advance(31)
    value: Any = backend.admin.get(key)
    for as_format, error in (("2", UnknownFormat), ("17", UnknownFormat), ("x", CorruptState)):
        backend.admin.set(key, as_format.encode() + value[1:])
        before = backend.contents()
        with pytest.raises(CorruptState) as refused:
            engine.adjust("GIFT", credits=50, adjustment_id="topup")
        assert type(refused.value) is error
        assert backend.contents() == before

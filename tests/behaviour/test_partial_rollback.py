"""DESIGN.md 3.11: a partial rollback happens once per rollback id, and never gives back more than is left."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Backend, Clock

from behaviour.test_adjust import run
from behaviour.test_blocked_stacks import write_foreign_value
from behaviour.test_repeated_calls import CALLS
from behaviour.test_semantics import figures
from voucher_sessions import (
    CorruptState,
    Redeemable,
    RedemptionConflict,
    RedemptionNotFound,
    RedemptionRolledBack,
    RollbackExceeded,
    UnknownFormat,
    Used,
    Voucher,
    VoucherSessions,
)

RECEIPT = "vs:{GIFT}:rollback:refund"
TEN_MINUTES = 600


@pytest.fixture
def order(engine: VoucherSessions) -> VoucherSessions:
    """An engine with a voucher of which the redemption "order" took 60 credits and 6 points."""
    engine.put_voucher(Voucher(code="GIFT", quantity=5, credits=100, points=10))
    engine.redeem("GIFT", credits=60, points=6, redemption_id="order")
    return engine


def used(engine: VoucherSessions, code: str = "GIFT") -> tuple[int, int, int]:
    state = engine.get_voucher(code)
    return state.quantity.used, state.credits.used, state.points.used


def given_back(engine: VoucherSessions, code: str = "GIFT") -> tuple[int, int, bool]:
    receipt = engine.get_redemption(code, "order")
    return receipt.credits_rolled_back, receipt.points_rolled_back, receipt.rolled_back


def test_it_gives_back_that_much_and_leaves_the_rest_and_the_quantity(order: VoucherSessions) -> None:
    done = order.rollback("GIFT", "order", credits=20, points=1)
    assert figures(order, "GIFT") == {"quantity": (5, 1, 0, 4), "credits": (100, 40, 0, 60), "points": (10, 5, 0, 5)}
    assert done.model_dump(exclude={"id"}) == {
        "code": "GIFT",
        "redemption_id": "order",
        "quantity": 0,
        "credits": 20,
        "points": 1,
        "replayed": False,
    }
    assert done.id is not None
    assert re.fullmatch("rbk_[A-Za-z0-9]{32}", done.id)
    receipt = order.get_redemption("GIFT", "order")
    assert (receipt.credits, receipt.points, receipt.quantity) == (60, 6, 1), "what was taken"
    assert given_back(order) == (20, 1, False)


@pytest.mark.parametrize(("credits", "points"), [(20, None), (None, 2), (20, 0)])
def test_an_amount_that_is_left_out_is_0(order: VoucherSessions, credits: int | None, points: int | None) -> None:
    done = order.rollback("GIFT", "order", credits=credits, points=points)
    assert (done.credits, done.points) == (credits or 0, points or 0)
    assert used(order) == (1, 60 - (credits or 0), 6 - (points or 0))


def test_once_per_id(order: VoucherSessions, backend: Backend) -> None:
    assert order.rollback("GIFT", "order", credits=20, rollback_id="refund").replayed is False
    before = backend.contents()
    for amounts in ({"credits": 20}, {"credits": 20, "points": 0}):
        again = order.rollback("GIFT", "order", **amounts, rollback_id="refund")
        assert (again.id, again.credits, again.points, again.replayed) == ("refund", 20, 0, True)
    assert backend.contents() == before
    for _ in range(2):  # each call without an id counts
        order.rollback("GIFT", "order", credits=10)
    assert used(order) == (1, 20, 6)


@pytest.mark.parametrize(
    ("redemption_id", "amounts"),
    [
        ("order", {"credits": 19}),
        ("order", {"credits": 1000}),
        ("order", {"credits": 20, "points": 1}),
        ("order", {"points": 20}),
        ("other", {"credits": 20}),
        ("nobody's", {"credits": 20}),
    ],
)
def test_another_rollback_under_an_id_is_a_conflict(
    order: VoucherSessions, backend: Backend, redemption_id: str, amounts: dict[str, int]
) -> None:
    order.redeem("GIFT", credits=30, points=1, redemption_id="other")
    order.rollback("GIFT", "order", credits=20, rollback_id="refund")
    before = backend.contents()
    with pytest.raises(RedemptionConflict) as refused:
        order.rollback("GIFT", redemption_id, **amounts, rollback_id="refund")
    error = refused.value
    assert (error.code, error.redemption_id, error.rollback_id) == ("GIFT", redemption_id, "refund")
    assert "'refund'" in str(error)
    assert backend.contents() == before


def test_an_id_belongs_to_its_voucher(order: VoucherSessions) -> None:
    order.put_voucher(Voucher(code="CARD", credits=50))
    order.redeem("CARD", credits=50, redemption_id="order")
    for code in ("GIFT", "CARD"):
        assert order.rollback(code, "order", credits=20, rollback_id="refund").replayed is False
    assert (used(order), used(order, "CARD")) == ((1, 40, 6), (1, 30, 0))


@pytest.mark.parametrize(
    ("amounts", "balance", "available"),
    [
        ({"credits": 41}, "credits", 40),
        ({"points": 6}, "points", 5),
        ({"credits": 40, "points": 6}, "points", 5),
        ({"credits": 2**53 - 1}, "credits", 40),
    ],
)
def test_in_sum_never_more_than_was_taken(
    order: VoucherSessions, backend: Backend, amounts: dict[str, int], balance: str, available: int
) -> None:
    order.rollback("GIFT", "order", credits=20, points=1)
    before = backend.contents()
    with pytest.raises(RollbackExceeded) as refused:
        order.rollback("GIFT", "order", **amounts, rollback_id="refund")
    error = refused.value
    assert (error.code, error.redemption_id, error.balance) == ("GIFT", "order", balance)
    assert (error.requested, error.available) == (amounts[balance], available)
    assert backend.contents() == before
    assert order.rollback("GIFT", "order", credits=40, points=5, rollback_id="refund").replayed is False
    assert (used(order), given_back(order)) == ((1, 0, 0), (60, 6, False))


def test_a_whole_rollback_afterwards_gives_the_rest(order: VoucherSessions, backend: Backend) -> None:
    order.redeem("GIFT", credits=40, points=4, redemption_id="other")
    order.rollback("GIFT", "order", credits=20, points=1, rollback_id="refund")
    rest = order.rollback("GIFT", "order")
    assert (rest.id, rest.quantity, rest.credits, rest.points, rest.replayed) == (None, 1, 40, 5, False)
    assert (used(order), given_back(order)) == ((1, 40, 4), (60, 6, True))
    before = backend.contents()
    assert order.rollback("GIFT", "order") == rest.model_copy(update={"replayed": True})
    assert order.rollback("GIFT", "order", credits=20, points=1, rollback_id="refund").replayed
    with pytest.raises(RollbackExceeded) as refused:
        order.rollback("GIFT", "order", points=1)
    assert (refused.value.balance, refused.value.requested, refused.value.available) == ("points", 1, 0)
    assert backend.contents() == before


def test_a_whole_rollback_gives_the_quantity_even_if_nothing_else_is_left(order: VoucherSessions) -> None:
    order.rollback("GIFT", "order", credits=60, points=6)
    rest = order.rollback("GIFT", "order")
    assert (rest.quantity, rest.credits, rest.points, rest.replayed) == (1, 0, 0, False)
    assert used(order) == (0, 0, 0)


def test_there_must_be_a_redemption(order: VoucherSessions, backend: Backend) -> None:
    before = backend.contents()
    for code, redemption_id in (("GIFT", "nobody's"), ("NOBODY", "order")):
        with pytest.raises(RedemptionNotFound) as refused:
            order.rollback(code, redemption_id, credits=1, rollback_id="refund")
        assert (refused.value.code, refused.value.redemption_id) == (code, redemption_id)
    assert backend.contents() == before


def test_an_id_whose_credits_and_points_all_went_back_does_not_pay_again(
    order: VoucherSessions, backend: Backend
) -> None:
    order.rollback("GIFT", "order", credits=60)
    again = order.redeem("GIFT", credits=60, points=6, redemption_id="order")
    assert (again.replayed, again.credits_rolled_back, again.points_rolled_back) == (True, 60, 0)
    order.rollback("GIFT", "order", points=6)
    before = backend.contents()
    with pytest.raises(RedemptionRolledBack) as refused:
        order.redeem("GIFT", credits=60, points=6, redemption_id="order")
    redemption = refused.value.redemption
    assert (redemption.rolled_back, redemption.credits_rolled_back, redemption.points_rolled_back) == (False, 60, 6)
    with pytest.raises(RedemptionConflict) as conflict:
        order.redeem("GIFT", credits=59, points=6, redemption_id="order")
    assert type(conflict.value) is RedemptionConflict
    assert backend.contents() == before


def test_a_redemption_that_took_nothing_pays_until_it_is_rolled_back(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=5))
    engine.redeem("SALE", redemption_id="order")
    with pytest.raises(RollbackExceeded):
        engine.rollback("SALE", "order", credits=1)
    assert engine.redeem("SALE", redemption_id="order").replayed


STACK = [Redeemable(code="A", credits=30), Redeemable(code="B", credits=20), Redeemable(code="C")]


@pytest.fixture
def stack(engine: VoucherSessions) -> VoucherSessions:
    for code in ("A", "B", "C"):
        engine.put_voucher(Voucher(code=code, quantity=5, credits=70), used=Used(credits=40))
    engine.redeem_stack([*STACK[:2], Redeemable(code="C", credits=0)], redemption_id="order")
    return engine


def test_a_stack_after_a_partial_rollback_of_one_voucher(stack: VoucherSessions, backend: Backend) -> None:
    stack.rollback("B", "order", credits=5)
    assert stack.redeem_stack(STACK, redemption_id="order").replayed
    before = backend.contents()
    with pytest.raises(RedemptionNotFound):
        stack.rollback_stack(["A", "B", "NOBODY"], "order")
    assert backend.contents() == before, "all or none"
    rest = stack.rollback_stack(["A", "B", "C"], "order")
    assert [(each.quantity, each.credits, each.replayed) for each in rest] == [
        (1, 30, False),
        (1, 15, False),
        (1, 0, False),
    ]
    assert [used(stack, code) for code in "ABC"] == [(0, 40, 0)] * 3
    again = stack.rollback_stack(["A", "B", "C"], "order")
    assert again == [each.model_copy(update={"replayed": True}) for each in rest]


def test_one_voucher_of_a_stack_that_got_all_back_is_enough(stack: VoucherSessions) -> None:
    stack.rollback("B", "order", credits=20)
    with pytest.raises(RedemptionRolledBack) as refused:
        stack.redeem_stack(STACK, redemption_id="order")
    assert refused.value.code == "B"
    assert used(stack, "A") == (1, 70, 0)


def test_a_stack_of_which_one_voucher_was_rolled_back_wholly(stack: VoucherSessions) -> None:
    stack.rollback("A", "order", credits=10)
    stack.rollback("A", "order")
    stack.rollback("B", "order", credits=10)
    rest = stack.rollback_stack(["A", "B", "C"], "order")
    assert [(each.credits, each.replayed) for each in rest] == [(20, True), (10, False), (0, False)]
    assert [used(stack, code) for code in "ABC"] == [(0, 40, 0)] * 3


def test_what_a_deleted_voucher_took_is_not_taken_from_its_successor(order: VoucherSessions) -> None:
    order.delete_voucher("GIFT")
    assert order.rollback("GIFT", "order", credits=20, rollback_id="refund").replayed is False
    assert order.rollback("GIFT", "order", credits=20, rollback_id="refund").replayed
    order.put_voucher(Voucher(code="GIFT", credits=100, points=100), used=Used(quantity=3, credits=50, points=50))
    assert order.rollback("GIFT", "order", credits=30, points=6).replayed is False
    assert given_back(order) == (50, 6, False)
    with pytest.raises(RollbackExceeded):
        order.rollback("GIFT", "order", credits=11)
    assert order.rollback("GIFT", "order").credits == 10
    assert used(order) == (3, 50, 50)


def test_used_never_falls_below_0(order: VoucherSessions) -> None:
    order.put_voucher(Voucher(code="GIFT", quantity=5, credits=100), used=Used(quantity=1, credits=15, points=6))
    order.rollback("GIFT", "order", credits=20, points=2)
    assert used(order) == (1, 0, 4)
    order.rollback("GIFT", "order")
    assert used(order) == (0, 0, 0)


def test_it_revives_no_lock(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.validate("GIFT", credits=60, session={"type": "LOCK", "key": "cart"})
    engine.redeem("GIFT", session="cart", redemption_id="order")
    engine.rollback("GIFT", "order", credits=60)
    assert engine.list_sessions("GIFT") == []
    assert figures(engine, "GIFT")["credits"] == (100, 0, 0, 100)
    assert engine.get_redemption("GIFT", "order").session_key == "cart"


def test_its_receipt_lives_as_long_as_the_redemptions(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> None:
    for taking, returning, longest_ms in (
        ({}, {"receipt_ttl": TEN_MINUTES}, -1),
        ({"receipt_ttl": TEN_MINUTES}, {}, TEN_MINUTES * 1000),
    ):
        make_engine(**taking).put_voucher(Voucher(code="GIFT", credits=100))
        make_engine(**taking).redeem("GIFT", credits=60, redemption_id="order")
        backend.clock.advance(20)
        make_engine(**returning).rollback("GIFT", "order", credits=20, rollback_id="refund")
        make_engine(**returning).rollback("GIFT", "order")
        ttls_ms = backend.keys()
        redemption_ms, rollback_ms = ttls_ms[b"vs:{GIFT}:redemption:order"], ttls_ms[RECEIPT.encode()]
        assert longest_ms - 10_000 < redemption_ms <= max(-1, longest_ms - 20)
        # On a real server the clock goes on between the two PTTLs.
        assert abs(redemption_ms - rollback_ms) <= (0 if backend.is_fake or longest_ms < 0 else 1000)
        backend.admin.flushall()


@pytest.mark.parametrize("backend", ["fakeredis"], indirect=True)
def test_both_receipts_expire_at_the_same_time(make_engine: Callable[..., VoucherSessions], clock: Clock) -> None:
    engine = make_engine(receipt_ttl=TEN_MINUTES)
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.redeem("GIFT", credits=60, redemption_id="order")
    clock.advance(TEN_MINUTES * 1000 - 1)
    assert engine.rollback("GIFT", "order", credits=20, rollback_id="refund").replayed is False
    assert engine.rollback("GIFT", "order", credits=20, rollback_id="refund").replayed
    clock.advance(2)
    with pytest.raises(RedemptionNotFound):
        engine.rollback("GIFT", "order", credits=20, rollback_id="refund")


@pytest.mark.parametrize("id_", ["x" * 256, "ä ö\n{GIFT}:rollback:refund", "1 2 3 -", "-"])
def test_ids_are_any_text(order: VoucherSessions, id_: str) -> None:
    order.redeem("GIFT", credits=3, redemption_id=id_)
    done = [order.rollback("GIFT", id_, credits=1, rollback_id=id_) for _ in range(2)]
    assert [each.replayed for each in done] == [False, True]
    assert order.rollback("GIFT", id_, credits=1, rollback_id="refund").replayed is False
    assert used(order) == (2, 61, 6)
    assert order.get_redemption("GIFT", id_).credits_rolled_back == 2


def test_in_a_pipeline(order: VoucherSessions, execute: Callable[..., list[Any]]) -> None:
    pipe = order.pipeline()
    pipe.rollback("GIFT", "order", credits=20, rollback_id="refund")
    pipe.rollback("GIFT", "order", credits=20, rollback_id="refund")
    pipe.rollback("GIFT", "order", points=2, rollback_id="refund")
    pipe.rollback("GIFT", "order", credits=41)
    pipe.rollback("GIFT", "order")
    pipe.get_redemption("GIFT", "order")
    first, again, conflict, exceeded, rest, receipt = execute(pipe, raise_on_error=False)
    assert (first.replayed, again.replayed) == (False, True)
    assert list(map(type, (conflict, exceeded))) == [RedemptionConflict, RollbackExceeded]
    assert (rest.id, rest.credits, rest.points) == (None, 40, 6)
    assert (receipt.rolled_back, receipt.credits_rolled_back, receipt.points_rolled_back) == (True, 60, 6)
    assert used(order) == (0, 0, 0)


def test_calls_that_a_client_sends_again_have_one_effect(backend: Backend) -> None:
    redeeming = CALLS.redeem("GIFT", 60, None, None, "order", "raise")
    part, rest = CALLS.rollback("GIFT", "order", 20, None, None), CALLS.rollback("GIFT", "order", None, None, None)
    with backend.client() as client:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        taken = run(backend, redeeming)
        first = run(backend, part)
        back = {"credits_rolled_back": 20}
        assert run(backend, redeeming) == taken.model_copy(update=back)
        engine.rollback("GIFT", "order", credits=40)
        assert run(backend, redeeming) == taken.model_copy(update={"credits_rolled_back": 60}), "its own first answer"
        assert run(backend, part) == first
        given = run(backend, rest)
        assert (given.quantity, given.credits, given.replayed) == (1, 0, False)
        assert (run(backend, rest), run(backend, part)) == (given, first)
        again = run(backend, redeeming)
        assert (again.rolled_back, again.replayed, again.credits_rolled_back) == (True, False, 60)
        assert used(engine) == (0, 0, 0)


@pytest.mark.parametrize("key", ["vs:{GIFT}", "vs:{GIFT}:redemption:order", RECEIPT])
@pytest.mark.parametrize("kind", ["list", "text"])
def test_a_foreign_value_is_refused_before_anything_is_written(backend: Backend, key: str, kind: str) -> None:
    with backend.client() as client:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        engine.redeem("GIFT", credits=60, redemption_id="order")
        write_foreign_value(backend.admin, key, kind)
        before = backend.contents()
        with pytest.raises(CorruptState):
            engine.rollback("GIFT", "order", credits=20, rollback_id="refund")
        assert backend.contents() == before


@pytest.mark.parametrize("key", ["vs:{%s}", "vs:{%s}:redemption:order"])
@pytest.mark.parametrize("kind", ["list", "text"])
@pytest.mark.parametrize("code", ["A", "C"])
def test_a_foreign_value_in_a_stack_is_refused_before_anything_is_written(
    backend: Backend, key: str, kind: str, code: str
) -> None:
    with backend.client() as client:
        engine = VoucherSessions(client)
        for each in ("A", "B", "C"):
            engine.put_voucher(Voucher(code=each, credits=50))
        engine.redeem_stack([Redeemable(code=each, credits=30) for each in ("A", "B", "C")], redemption_id="order")
        engine.rollback("B", "order", credits=10)
        write_foreign_value(backend.admin, key % code, kind)
        before = backend.contents()
        with pytest.raises(CorruptState):
            engine.rollback_stack(["A", "B", "C"], "order")
        assert backend.contents() == before


@pytest.mark.parametrize("key", ["vs:{GIFT}", "vs:{GIFT}:redemption:order", RECEIPT])
def test_a_newer_format_is_refused_before_anything_is_written(
    order: VoucherSessions, backend: Backend, key: str
) -> None:
    if key == RECEIPT:
        order.rollback("GIFT", "order", credits=20, rollback_id="refund")
    value: Any = backend.admin.get(key)
    for as_format, error in (("2", UnknownFormat), ("17", UnknownFormat), ("x", CorruptState)):
        backend.admin.set(key, as_format.encode() + value[1:])
        before = backend.contents()
        with pytest.raises(CorruptState) as refused:
            order.rollback("GIFT", "order", credits=20, rollback_id="refund")
        assert type(refused.value) is error
        assert backend.contents() == before

"""DESIGN.md 3.10: a redemption id that was used before. A repetition is answered only if it is the same request."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Backend

from behaviour.test_semantics import figures, lock
from voucher_sessions import (
    Redeemable,
    RedemptionConflict,
    RedemptionRolledBack,
    Voucher,
    VoucherSessions,
)


def test_an_id_that_was_rolled_back_is_refused(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    engine.redeem("GIFT", credits=3000, redemption_id="order")
    engine.rollback("GIFT", "order")
    before = backend.contents()
    with pytest.raises(RedemptionRolledBack) as refused:
        engine.redeem("GIFT", credits=3000, redemption_id="order")
    assert isinstance(refused.value, RedemptionConflict)
    assert (refused.value.code, refused.value.redemption_id) == ("GIFT", "order")
    assert (refused.value.redemption.credits, refused.value.redemption.rolled_back) == (3000, True)
    assert backend.contents() == before
    assert engine.get_redemption("GIFT", "order").rolled_back


def test_another_request_under_an_id_that_was_rolled_back_is_a_conflict(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    engine.redeem("GIFT", credits=3000, redemption_id="order")
    engine.rollback("GIFT", "order")
    with pytest.raises(RedemptionConflict) as refused:
        engine.redeem("GIFT", credits=2999, redemption_id="order")
    assert not isinstance(refused.value, RedemptionRolledBack)


def test_one_rolled_back_redemption_of_a_stack_is_enough(engine: VoucherSessions) -> None:
    for code in ("A", "B"):
        engine.put_voucher(Voucher(code=code, quantity=5))
    engine.redeem_stack(["A", "B"], redemption_id="order")
    engine.rollback("B", "order")
    with pytest.raises(RedemptionRolledBack) as refused:
        engine.redeem_stack(["A", "B"], redemption_id="order")
    assert refused.value.code == "B"
    assert figures(engine, "A")["quantity"] == (5, 1, 0, 4)


@pytest.mark.parametrize("other", [["A"], ["A", "B"], ["A", "B", "C", "D"]], ids=["one", "fewer", "more"])
def test_a_stack_repeated_with_another_set_of_vouchers_is_a_conflict(
    engine: VoucherSessions, backend: Backend, other: list[str]
) -> None:
    for code in ("A", "B", "C", "D"):
        engine.put_voucher(Voucher(code=code, quantity=5))
    engine.redeem_stack(["A", "B", "C"], redemption_id="order")
    before = backend.contents()
    with pytest.raises(RedemptionConflict):
        engine.redeem_stack(other, redemption_id="order")
    with pytest.raises(RedemptionConflict):
        engine.redeem("A", redemption_id="order")
    assert backend.contents() == before
    assert engine.redeem_stack(["C", "A", "B"], redemption_id="order").replayed, "the same set in another order"


def test_a_stack_under_the_id_of_a_single_redemption_is_a_conflict(engine: VoucherSessions) -> None:
    for code in ("A", "B"):
        engine.put_voucher(Voucher(code=code, quantity=5))
        engine.redeem(code, redemption_id="order")
    with pytest.raises(RedemptionConflict):
        engine.redeem_stack(["A", "B"], redemption_id="order")
    assert engine.redeem_stack(["A"], redemption_id="order").replayed, "a stack of one is the single redemption"


@pytest.mark.parametrize("session", [None, lock("cart")])
def test_the_conflict_comes_before_every_other_refusal(engine: VoucherSessions, session: Any) -> None:
    engine.put_voucher(Voucher(code="A", quantity=1))
    if session:
        engine.validate("A", session=session)
    engine.redeem("A", session="cart" if session else None, redemption_id="order")
    engine.rollback("A", "order")
    engine.delete_voucher("A")
    with pytest.raises(RedemptionRolledBack):
        engine.redeem("A", session="cart" if session else None, redemption_id="order")
    with pytest.raises(RedemptionConflict):
        engine.redeem_stack([Redeemable(code="A"), Redeemable(code="B")], redemption_id="order")

"""DESIGN.md 3.1 and 3.13: limits below what is used and locked. Holders are served, in turn, up to the limit."""

from __future__ import annotations

import pytest

from behaviour.test_semantics import figures, lock
from voucher_sessions import GiftAmountExceeded, QuantityExceeded, Redeemable, Voucher, VoucherSessions


def test_holders_are_served_up_to_a_lowered_quantity(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=5))
    for holder in range(5):
        assert engine.validate("SALE", session=lock(f"cart-{holder}")).valid
    engine.put_voucher(Voucher(code="SALE", quantity=4))
    assert figures(engine, "SALE")["quantity"] == (4, 0, 5, 0)
    for holder in range(4):
        assert engine.validate("SALE", session=lock(f"cart-{holder}")).available.quantity == 1
        assert engine.redeem("SALE", session=f"cart-{holder}").quantity == 1
    with pytest.raises(QuantityExceeded) as refused:
        engine.redeem("SALE", session="cart-4")
    assert (refused.value.available, refused.value.locked_by_others, refused.value.retry_after_ms) == (0, False, None)
    answer = engine.validate("SALE", session=lock("cart-4"))
    assert (answer.reason, answer.locked_by_others, answer.available.quantity) == ("quantity_exceeded", False, 0)
    assert figures(engine, "SALE")["quantity"] == (4, 4, 1, 0)


def test_nobody_without_a_lock_gets_anything_of_a_lowered_quantity(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=3))
    for holder in range(3):
        engine.validate("SALE", session=lock(f"cart-{holder}"))
    engine.put_voucher(Voucher(code="SALE", quantity=2))
    with pytest.raises(QuantityExceeded) as refused:
        engine.redeem("SALE")
    assert (refused.value.available, refused.value.locked_by_others) == (0, True)
    answer = engine.validate("SALE", session=lock("newcomer"))
    assert (answer.valid, answer.locked_by_others, answer.session) == (False, True, None)


def test_a_holder_keeps_its_amounts_and_competes_for_more(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=100, points=100))
    engine.validate("GIFT", credits=60, points=60, session=lock("mine"))
    engine.validate("GIFT", credits=40, points=40, session=lock("other"))
    engine.put_voucher(Voucher(code="GIFT", credits=80, points=50))
    mine = engine.validate("GIFT", credits=61, session=lock("mine"))
    assert (mine.valid, mine.locked_by_others) == (False, True)
    assert (mine.available.credits, mine.available.points) == (60, 50)
    assert mine.session is not None
    assert (mine.session.credits, mine.session.points) == (60, 60)
    assert engine.validate("GIFT", credits=60, points=50, session=lock("mine")).valid
    assert engine.redeem("GIFT", session="mine").credits == 60
    with pytest.raises(GiftAmountExceeded) as refused:
        engine.redeem("GIFT", session="other", points=0)
    assert (refused.value.requested, refused.value.available, refused.value.locked_by_others) == (40, 20, False)
    assert engine.redeem("GIFT", session="other", credits=20, points=0).credits == 20
    assert figures(engine, "GIFT")["credits"] == (80, 80, 0, 0)


def test_a_stack_of_holders_is_served_as_a_single_voucher_is(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=2))
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    stack = [Redeemable(code="SALE"), Redeemable(code="GIFT", credits=50)]
    for holder in ("first", "second"):
        assert engine.validate_stack(stack, session=lock(holder)).valid
    engine.put_voucher(Voucher(code="SALE", quantity=1))
    engine.put_voucher(Voucher(code="GIFT", credits=50))
    assert engine.validate_stack(stack, session=lock("second")).valid
    assert engine.redeem_stack(stack, session="first").redemptions[1].credits == 50
    with pytest.raises(QuantityExceeded) as refused:
        engine.redeem_stack(stack, session="second")
    assert [each.available for each in refused.value.refusals] == [0, 0]
    assert [each.locked_by_others for each in refused.value.refusals] == [False, False]

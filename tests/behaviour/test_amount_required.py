"""DESIGN.md 3.9: without a live session nobody knows the amounts, so a redemption must name them."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Backend, Clock

from behaviour.test_semantics import lock
from voucher_sessions import AmountRequired, Redeemable, SessionNotFound, Used, Voucher, VoucherSessions

EXPIRED: dict[str, Any] = {"session": "cart", "if_session_missing": "redeem"}


@pytest.mark.parametrize("asked", [EXPIRED, {}], ids=["session-not-live", "no-session"])
@pytest.mark.parametrize(
    ("voucher", "used"),
    [
        (Voucher(code="CARD", credits=5000), None),
        (Voucher(code="CARD", credits=1), None),
        (Voucher(code="CARD", points=1), None),
        (Voucher(code="CARD", quantity=3, credits=1, points=1), None),
        (Voucher(code="CARD", quantity=3), Used(credits=1)),
        (Voucher(code="CARD", quantity=3), Used(points=1)),
    ],
)
def test_a_voucher_with_amounts_is_not_redeemed_for_nothing(
    engine: VoucherSessions, backend: Backend, voucher: Voucher, used: Used | None, asked: dict[str, Any]
) -> None:
    engine.put_voucher(voucher, used=used)
    before = backend.contents()
    with pytest.raises(AmountRequired) as refused:
        engine.redeem("CARD", redemption_id="order", **asked)
    assert (refused.value.code, refused.value.codes) == ("CARD", ("CARD",))
    assert backend.contents() == before


def test_an_expired_session_is_redeemed_for_named_amounts(engine: VoucherSessions, clock: Clock) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    engine.validate("GIFT", credits=3000, session=lock("cart", 20))
    clock.advance(20)
    with pytest.raises(AmountRequired):
        engine.redeem("GIFT", **EXPIRED)
    assert engine.redeem("GIFT", credits=3000, **EXPIRED).credits == 3000
    assert engine.redeem("GIFT", points=0, **EXPIRED).credits == 0, "one named amount says that the other is 0"


def test_a_discount_voucher_needs_no_amounts(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=2))
    assert engine.redeem("SALE", **EXPIRED).quantity == 1
    assert engine.redeem("SALE").quantity == 1


def test_a_live_session_knows_the_amounts(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    engine.validate("GIFT", credits=3000, session=lock("cart"))
    assert engine.redeem("GIFT", **EXPIRED).credits == 3000


def test_one_voucher_of_a_stack_refuses_all(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=2))
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    engine.put_voucher(Voucher(code="LOYAL", points=100))
    before = backend.contents()
    stack = [Redeemable(code="SALE"), Redeemable(code="GIFT"), Redeemable(code="LOYAL", points=5)]
    with pytest.raises(AmountRequired) as refused:
        engine.redeem_stack(stack, **EXPIRED)
    assert refused.value.codes == ("GIFT",)
    assert backend.contents() == before


def test_it_is_judged_after_the_session_and_before_the_limits(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT", quantity=0, credits=5000))
    with pytest.raises(SessionNotFound):
        engine.redeem("GIFT", session="cart")
    with pytest.raises(AmountRequired):
        engine.redeem("GIFT", **EXPIRED)

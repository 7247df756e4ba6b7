"""The planned carts and their vouchers."""

from __future__ import annotations

from voucher_sessions import Voucher
from voucher_sessions.demo.carts import DISCOUNT, GIFT_CARD, LOYALTY_CARD, Ending, plan_carts, vouchers_for


def test_the_plan_is_the_same_in_every_run_and_has_every_kind_of_cart() -> None:
    carts = plan_carts(500)
    assert carts == plan_carts(500)
    assert len({cart.order_id for cart in carts}) == 500
    assert {cart.ending for cart in carts} == set(Ending)
    bodies = [
        {"type": "LOCK"},
        {"key": "ssn_yQGMTeKBSw8OOuFPwlBEjzGy8d8VA9Ts", "type": "LOCK"},
        {"type": "LOCK", "ttl": 7, "ttl_unit": "DAYS"},
    ]
    for code in (DISCOUNT, GIFT_CARD, LOYALTY_CARD):
        served = [cart for cart in carts if cart.code == code]
        assert [body for body in bodies if any(cart.session == body for cart in served)] == bodies
    assert all((cart.session not in bodies) == (cart.ending is Ending.ABANDONS) for cart in carts)
    discount, gift_card, loyalty_card = vouchers_for(carts)
    assert discount == Voucher(code=DISCOUNT, quantity=50)
    assert 0 < gift_card.credits < sum(cart.credits for cart in carts)
    assert 0 < loyalty_card.points < sum(cart.points for cart in carts)

"""The demo's vouchers, and the carts that are planned for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

from voucher_sessions import Balance, SessionFields, Voucher, VoucherState

DISCOUNT: Final = "SALE-50"
GIFT_CARD: Final = "GIFT-CARD"
LOYALTY_CARD: Final = "LOYALTY"
CODES: Final = (DISCOUNT, GIFT_CARD, LOYALTY_CARD)

# Three ways to ask for a session: with a generated key, with a key of the shop's own, with an expiry of the shop's own.
# All carts that use the second one have the same key, like several browser tabs of one customer: each validation
# overrides the lock of the one before, and the first redemption removes it.
SESSIONS: Final[tuple[SessionFields, ...]] = (
    {"type": "LOCK"},
    {"key": "ssn_yQGMTeKBSw8OOuFPwlBEjzGy8d8VA9Ts", "type": "LOCK"},
    {"type": "LOCK", "ttl": 7, "ttl_unit": "DAYS"},
)
ABANDONED_SECONDS: Final = 0.6
ABANDONED_SESSION: Final[SessionFields] = {"type": "LOCK", "ttl": ABANDONED_SECONDS, "ttl_unit": "SECONDS"}


class Ending(StrEnum):
    """What a cart does after it has locked its voucher."""

    PAYS = auto()
    PAYS_TWICE = auto()
    CHANGES_AND_PAYS = auto()
    RELEASES = auto()
    ABANDONS = auto()
    KEEPS_LOCK = auto()


ENDINGS: Final = (
    *[Ending.PAYS] * 4,
    *[Ending.PAYS_TWICE] * 2,
    *[Ending.CHANGES_AND_PAYS] * 2,
    Ending.RELEASES,
    Ending.ABANDONS,
)


@dataclass(frozen=True, slots=True)
class Cart:
    """One customer's cart. ``seconds`` pass between the lock and the next step."""

    order_id: str
    code: str
    credits: int
    points: int
    session: SessionFields
    ending: Ending
    seconds: float


def plan_carts(count: int) -> list[Cart]:
    """Plan carts that depend on ``count`` alone, so that the parent knows every order id without asking the workers."""
    chance = random.Random(count)
    carts: list[Cart] = []
    for number in range(count):
        code, ending = CODES[number % 3], chance.choice(ENDINGS)
        if number in {1, 2}:
            ending = Ending.KEEPS_LOCK  # one for each card, so that the checks at the end find live sessions
        cart = Cart(
            order_id=f"order-{number + 1:04}",
            code=code,
            credits=chance.randrange(5_00, 50_00) if code == GIFT_CARD else 0,
            points=chance.randrange(10, 500) if code == LOYALTY_CARD else 0,
            session=ABANDONED_SESSION if ending is Ending.ABANDONS else SESSIONS[number // 3 % 3],
            ending=ending,
            seconds=chance.uniform(0.020, 0.050),
        )
        carts.append(cart)
    return carts


def vouchers_for(carts: Sequence[Cart]) -> list[Voucher]:
    """A discount for 50, and two cards with two thirds of what the carts ask for, so that the last carts are refused."""
    return [
        Voucher(code=DISCOUNT, quantity=50),
        Voucher(code=GIFT_CARD, credits=sum(cart.credits for cart in carts) * 2 // 3),
        Voucher(code=LOYALTY_CARD, points=sum(cart.points for cart in carts) * 2 // 3),
    ]


def main_balance(state: VoucherState) -> Balance:
    """The balance that is limited: a discount's quantity, a gift card's credits, a loyalty card's points."""
    if state.quantity.limit is not None:
        return state.quantity
    return state.credits if state.credits.limit else state.points

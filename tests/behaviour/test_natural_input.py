"""What callers have at hand: the session that a call returned, its JSON, mappings and bare codes as redeemables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest
from conftest import Backend

from behaviour.test_semantics import lock
from voucher_sessions import ActiveSession, InvalidRequest, Redeemable, Session, Voucher, VoucherSessions

FORMS: list[Callable[[ActiveSession], Any]] = [
    lambda session: session,
    lambda session: session.model_dump(),
    lambda session: session.model_dump(mode="json"),
    lambda session: json.loads(session.model_dump_json()),
    lambda session: MappingProxyType(session.model_dump()),
]


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    return engine


def locked_by(gift: VoucherSessions) -> ActiveSession:
    session = gift.validate("GIFT", credits=3000, session=lock("cart", 60_000)).session
    assert session is not None
    return session


@pytest.mark.parametrize("form", FORMS)
def test_the_session_that_validate_returned(gift: VoucherSessions, form: Callable[[ActiveSession], Any]) -> None:
    again = gift.validate("GIFT", credits=100, session=form(locked_by(gift))).session
    assert again is not None
    assert (again.key, again.credits, again.ttl, again.ttl_unit) == ("cart", 100, 60_000, "MILLISECONDS")
    stacked = gift.validate_stack(["GIFT"], session=form(again)).session
    assert stacked is not None
    assert (stacked.key, stacked.credits) == ("cart", 0)
    assert gift.redeem("GIFT", credits=200, session=form(stacked)).session_key == "cart"


@pytest.mark.parametrize("form", FORMS)
def test_a_session_whose_ttl_is_not_known(
    gift: VoucherSessions, backend: Backend, form: Callable[[ActiveSession], Any]
) -> None:
    locked_by(gift)
    (listed,) = gift.list_sessions("GIFT")
    before = backend.contents()
    with pytest.raises(InvalidRequest, match="is missing") as refused:
        gift.validate("GIFT", credits=100, session=form(listed))
    assert refused.value.field == "session.ttl"
    assert backend.contents() == before
    assert gift.redeem_stack(["GIFT"], session=form(listed)).redemptions[0].credits == 3000


@pytest.mark.parametrize(
    "session",
    [
        "cart",
        {"key": "cart"},
        {"key": "cart", "type": "something"},
        {"key": "cart", "type": None, "ttl": -1, "ttl_unit": "FORTNIGHTS"},
        Session(key="cart"),
        Session(type="LOCK", key="cart", ttl=1, ttl_unit="DAYS"),
    ],
    ids=repr,
)
def test_redeem_looks_at_the_key_alone(gift: VoucherSessions, session: Any) -> None:
    locked_by(gift)
    assert gift.redeem("GIFT", session=session).credits == 3000


@pytest.mark.parametrize(("session", "field"), [({"kex": "cart"}, "session.kex"), ({"type": "LOCK"}, "session.key")])
def test_redeem_finds_a_misspelt_or_missing_key(gift: VoucherSessions, session: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        gift.redeem("GIFT", session=session)
    assert refused.value.field == field


def test_redeemables_are_models_mappings_or_codes(gift: VoucherSessions) -> None:
    for code in ("SALE", "LOYAL"):
        gift.put_voucher(Voucher(code=code, quantity=1, points=10))
    stack: list[Any] = [Redeemable(code="GIFT", credits=3000), MappingProxyType({"code": "LOYAL", "points": 5}), "SALE"]
    validation = gift.validate_stack(stack, session=lock("cart"))
    assert [each.session and (each.session.credits, each.session.points) for each in validation.validations] == [
        (3000, 0),
        (0, 5),
        (0, 0),
    ]
    paid = gift.redeem_stack(["GIFT", {"code": "LOYAL"}, "SALE"], session="cart")
    assert [(each.code, each.credits, each.points) for each in paid.redemptions] == [
        ("GIFT", 3000, 0),
        ("LOYAL", 0, 5),
        ("SALE", 0, 0),
    ]


@pytest.mark.parametrize("session", [None, lock("cart")])
def test_a_cart_from_which_nothing_was_removed(gift: VoucherSessions, session: Any) -> None:
    assert gift.validate_stack(["GIFT"], session=session, release=[]).valid
    assert gift.validate_stack(["GIFT"], session=session, release=()).valid


class Unreadable(list[str]):
    def __iter__(self) -> Iterator[str]:
        raise ZeroDivisionError


def test_released_codes_that_cannot_be_read_are_refused(engine: VoucherSessions) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.validate_stack(["A"], session={"type": "LOCK"}, release=Unreadable())
    assert (refused.value.field, refused.value.problem) == ("release", "must be a list")

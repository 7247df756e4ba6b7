"""DESIGN.md 3.14: several vouchers validated, redeemed, released or rolled back in one call, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pytest
from conftest import Backend, Clock
from support import untyped

from behaviour.test_bad_input import NOT_AMOUNTS, NOT_TEXT, AsyncUncallableClient, UncallableClient
from behaviour.test_semantics import figures, lock, plant_expired_locks
from voucher_sessions import (
    CorruptState,
    CrossSlotStack,
    GiftAmountExceeded,
    InvalidRequest,
    LoyaltyPointsExceeded,
    Redeemable,
    RedemptionConflict,
    RedemptionNotFound,
    SessionNotFound,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs


def cart(sale: bool = True, gift: int | None = 2000, points: int | None = 50) -> list[Redeemable]:
    """A discount, a gift card and a loyalty card."""
    stack = [Redeemable(code="SALE")] if sale else []
    return [*stack, Redeemable(code="GIFT", credits=gift), Redeemable(code="LOYAL", points=points)]


CODES = ["SALE", "GIFT", "LOYAL"]


@pytest.fixture
def cart_engine(engine: VoucherSessions) -> VoucherSessions:
    engine.put_voucher(Voucher(code="SALE", quantity=2))
    engine.put_voucher(Voucher(code="GIFT", credits=5000))
    engine.put_voucher(Voucher(code="LOYAL", points=100))
    return engine


def locked(engine: VoucherSessions) -> list[tuple[int, int, int]]:
    states = [engine.get_voucher(code) for code in CODES]
    return [(state.quantity.locked, state.credits.locked, state.points.locked) for state in states]


def used(engine: VoucherSessions) -> list[tuple[int, int, int]]:
    states = [engine.get_voucher(code) for code in CODES]
    return [(state.quantity.used, state.credits.used, state.points.used) for state in states]


NOTHING = [(0, 0, 0)] * 3
CART = [(1, 0, 0), (1, 2000, 0), (1, 0, 50)]


def test_14_a_stack_without_a_session_changes_nothing(cart_engine: VoucherSessions, backend: Backend) -> None:
    before = backend.contents()
    answer = cart_engine.validate_stack(cart())
    assert (answer.valid, answer.session) == (True, None)
    assert [validation.code for validation in answer.validations] == CODES
    assert [validation.available.credits for validation in answer.validations] == [0, 5000, 0]
    assert backend.contents() == before


def test_14_a_stack_locks_all_in_the_order_of_the_request(cart_engine: VoucherSessions) -> None:
    answer = cart_engine.validate_stack(cart(), session=lock("cart", 60_000))
    assert answer.valid
    assert [validation.session is not None for validation in answer.validations] == [True] * 3
    session = answer.session
    assert session is not None
    assert (session.key, session.quantity, session.credits, session.points) == ("cart", 3, 2000, 50)
    assert session.ttl == 60_000
    assert 50_000 < session.remaining_ms <= 60_000
    assert locked(cart_engine) == CART


def test_14_a_stack_is_all_or_nothing_and_reports_every_refusal(cart_engine: VoucherSessions, backend: Backend) -> None:
    cart_engine.validate("GIFT", credits=4000, session=lock("other"))
    cart_engine.validate("SALE", session=lock("cart", 90_000))
    before = backend.contents()
    stack = [*cart(points=101), Redeemable(code="NOBODY")]
    answer = cart_engine.validate_stack(stack, session=lock("cart"))
    assert not answer.valid
    assert [(each.valid, each.reason, each.locked_by_others) for each in answer.validations] == [
        (True, None, False),
        (False, "gift_amount_exceeded", True),
        (False, "loyalty_card_points_exceeded", False),
        (False, "not_found", False),
    ]
    assert backend.contents() == before
    assert answer.session is not None, "what the session held before, it holds"
    assert (answer.session.quantity, answer.session.credits) == (1, 0)
    assert answer.validations[0].session is not None
    assert answer.validations[1].session is None


def test_14_a_stack_is_redeemed_under_one_id_with_a_receipt_each(
    cart_engine: VoucherSessions, backend: Backend
) -> None:
    cart_engine.validate_stack(cart(), session=lock("cart"))
    done = cart_engine.redeem_stack([Redeemable(code=code) for code in CODES], session="cart", redemption_id="order")
    assert (done.id, done.replayed) == ("order", False)
    assert [(each.quantity, each.credits, each.points) for each in done.redemptions] == CART
    assert used(cart_engine) == CART
    assert locked(cart_engine) == NOTHING
    for redemption in done.redemptions:
        assert cart_engine.get_redemption(redemption.code, "order") == redemption
    again = cart_engine.redeem_stack(
        [Redeemable(code=code) for code in reversed(CODES)], session="cart", redemption_id="order"
    )
    assert again.replayed
    assert [each.code for each in again.redemptions] == CODES[::-1]
    with pytest.raises(RedemptionConflict):  # a single call under the id of a stack is another request
        cart_engine.redeem("GIFT", credits=2000, session="cart", redemption_id="order")
    assert used(cart_engine) == CART


def test_14_a_refused_redemption_changes_nothing_and_reports_every_refusal(
    cart_engine: VoucherSessions, backend: Backend
) -> None:
    cart_engine.validate_stack(cart(), session=lock("cart"))
    cart_engine.validate("GIFT", credits=3000, session=lock("other"))
    before = backend.contents()
    with pytest.raises(GiftAmountExceeded) as refused:
        cart_engine.redeem_stack(cart(gift=2001, points=101), session="cart", redemption_id="order")
    first, second = refused.value.refusals
    assert (first.code, first.requested, first.available, first.locked_by_others) == ("GIFT", 2001, 2000, True)
    assert isinstance(second, LoyaltyPointsExceeded)
    assert (second.code, second.requested, second.available, second.locked_by_others) == ("LOYAL", 101, 100, False)
    assert backend.contents() == before


def test_14_every_missing_voucher_and_session_is_reported(cart_engine: VoucherSessions, backend: Backend) -> None:
    cart_engine.validate("GIFT", credits=1, session=lock("cart"))
    before = backend.contents()
    with pytest.raises(SessionNotFound) as no_session:
        cart_engine.redeem_stack(cart(), session="cart")
    assert no_session.value.codes == ("SALE", "LOYAL")
    with pytest.raises(VoucherNotFound) as no_voucher:
        cart_engine.redeem_stack([Redeemable(code="X"), *cart(), Redeemable(code="Y")], session="cart")
    assert no_voucher.value.codes == ("X", "Y")
    assert backend.contents() == before
    done = cart_engine.redeem_stack(cart(), session="cart", if_session_missing="redeem")
    assert used(cart_engine) == CART
    assert [each.session_key for each in done.redemptions] == ["cart"] * 3


@pytest.mark.parametrize(("code", "amounts"), [("SALE", {}), ("GIFT", {"credits": 2000}), ("LOYAL", {"points": 50})])
def test_14_an_id_that_one_voucher_of_the_stack_has_used_is_a_conflict(
    cart_engine: VoucherSessions, backend: Backend, code: str, amounts: dict[str, Any]
) -> None:
    """Wherever it stands in the stack: nothing is redeemed, and that one not twice."""
    cart_engine.redeem(code, redemption_id="order", **amounts)
    before = backend.contents()
    with pytest.raises(RedemptionConflict) as conflict:
        cart_engine.redeem_stack(cart(), redemption_id="order")
    assert conflict.value.code == code
    assert backend.contents() == before


def test_14_an_id_of_another_stack_is_a_conflict(cart_engine: VoucherSessions) -> None:
    cart_engine.redeem_stack(cart(), redemption_id="second")
    with pytest.raises(RedemptionConflict) as conflict:
        cart_engine.redeem_stack(cart(points=51), redemption_id="second")
    assert conflict.value.code == "LOYAL"


def test_14_a_stack_is_released_and_rolled_back_as_one(cart_engine: VoucherSessions, backend: Backend) -> None:
    cart_engine.validate_stack(cart(), session=lock("cart"))
    cart_engine.release("SALE", "cart")
    assert [release.released for release in cart_engine.release_stack([*CODES, "NOBODY"], "cart")] == [
        False,
        True,
        True,
        False,
    ]
    assert locked(cart_engine) == NOTHING
    cart_engine.redeem_stack(cart(), redemption_id="order")
    cart_engine.rollback("GIFT", "order")
    before = backend.contents()
    with pytest.raises(RedemptionNotFound):
        cart_engine.rollback_stack(["SALE", "NOBODY"], "order")
    assert backend.contents() == before
    back = cart_engine.rollback_stack(CODES, "order")
    assert [(each.quantity, each.credits, each.points, each.replayed) for each in back] == [
        (1, 0, 0, False),
        (1, 2000, 0, True),
        (1, 0, 50, False),
    ]
    assert used(cart_engine) == NOTHING
    assert all(each.replayed for each in cart_engine.rollback_stack(CODES, "order"))


def test_14_release_frees_the_vouchers_that_left_the_cart(cart_engine: VoucherSessions, backend: Backend) -> None:
    cart_engine.validate_stack(cart(), session=lock("cart"))
    cart_engine.validate("GIFT", credits=1000, session=lock("other"))
    swapped = [Redeemable(code="LOYAL", points=70)]
    refused = cart_engine.validate_stack(
        [Redeemable(code="LOYAL", points=101)], session=lock("cart"), release=["SALE", "GIFT", "NOBODY"]
    )
    assert not refused.valid
    assert locked(cart_engine) == [(1, 0, 0), (2, 3000, 0), (1, 0, 50)]
    answer = cart_engine.validate_stack(swapped, session=lock("cart"), release=["SALE", "GIFT", "NOBODY"])
    assert answer.valid
    assert len(answer.validations) == 1
    assert locked(cart_engine) == [(0, 0, 0), (1, 1000, 0), (1, 0, 70)]
    assert [session.key for session in cart_engine.list_sessions("GIFT")] == ["other"]


def test_14_thirty_vouchers_in_one_stack(engine: VoucherSessions) -> None:
    codes = [f"V{at}" for at in range(30)]
    for code in codes:
        engine.put_voucher(Voucher(code=code, quantity=1, credits=10))
    stack = [Redeemable(code=code, credits=at % 11) for at, code in enumerate(codes)]
    assert engine.validate_stack(stack, session=lock("cart")).valid
    assert not engine.validate_stack(stack, session=lock("other")).valid
    assert len(engine.redeem_stack(stack, session="cart").redemptions) == 30
    assert figures(engine, "V10")["credits"] == (10, 10, 0, 0)


def test_14_one_batch_of_expired_locks_a_script_call_is_enough_for_a_stack(
    engine: VoucherSessions, backend: Backend, clock: Clock
) -> None:
    for code in ("A", "B"):
        engine.put_voucher(Voucher(code=code, quantity=701, credits=7010))
        engine.validate(code, session=lock("stays"))
        plant_expired_locks(backend, code, 700)
    stack = [Redeemable(code=code, credits=7010) for code in ("A", "B")]
    assert engine.validate_stack(stack, session=lock("cart")).valid
    assert figures(engine, "B")["credits"] == (7010, 0, 7010, 0)


def test_14_all_vouchers_of_a_call_share_one_batch(engine: VoucherSessions, backend: Backend) -> None:
    """However large the stack, one script call keeps the server busy no longer than another."""
    codes = [f"V{at}" for at in range(4)]
    for code in codes:
        engine.put_voucher(Voucher(code=code, quantity=101))
        engine.validate(code, session=lock("stays"))
        plant_expired_locks(backend, code, 100)
    call = Verbs(Keys("vs"), None).validate_stack([Redeemable(code=code) for code in codes], None, ())
    backend.admin.execute_command(*call.eval_command())
    assert sum(backend.admin.zcard(f"vs:{{{code}}}:locks") for code in codes) == 4 * 101 - 250


@pytest.mark.parametrize(
    "act",
    [
        methodcaller("validate_stack", cart(), session=lock("cart")),
        methodcaller("validate_stack", cart()[1:], session=lock("cart")),
        methodcaller("redeem_stack", cart(), session="cart"),
        methodcaller("redeem_stack", cart()[1:], session="cart"),
        methodcaller("release_stack", CODES, "cart"),
        methodcaller("release_stack", CODES[1:], "cart"),
    ],
)
def test_14_a_stack_with_a_foreign_index_changes_nothing(
    cart_engine: VoucherSessions, backend: Backend, act: methodcaller
) -> None:
    cart_engine.validate_stack(cart(), session=lock("cart"))
    backend.admin.delete("vs:{LOYAL}:locks")
    backend.admin.set("vs:{LOYAL}:locks", "someone else's", px=60_000)
    before = backend.contents()
    with pytest.raises(CorruptState):
        act(cart_engine)
    assert backend.contents() == before


TWICE = [Redeemable(code="A"), Redeemable(code="B"), Redeemable(code="A", credits=5)]
TOO_MANY = [Redeemable(code=str(at)) for at in range(31)]
BAD: list[tuple[str, methodcaller]] = [
    *(
        ("redeemables", methodcaller(verb, stack))
        for verb in ("validate_stack", "redeem_stack")
        for stack in ([], (), TWICE, TOO_MANY, "AB", None, 5, {Redeemable(code="A")}, {"A": 1}, {"code": "A"})
    ),
    *(
        ("redeemables", methodcaller(verb, stack))
        for verb in ("validate_stack", "redeem_stack")
        for stack in (["A", "B", "A"], ["A", {"code": "A"}], [Redeemable(code="A"), "A"], list(map(str, range(31))))
    ),
    *(
        (field, methodcaller(verb, ["A", each]))
        for verb in ("validate_stack", "redeem_stack")
        for field, each in (
            ("redeemables.1", 5),
            ("redeemables.1", None),
            ("redeemables.1", b"B"),
            ("redeemables.1", ["B"]),
            ("redeemables.1.code", ""),
            ("redeemables.1.code", {}),
            ("redeemables.1.code", {"code": 5}),
            ("redeemables.1.credits", {"code": "B", "credits": -1}),
            ("redeemables.1.amount", {"code": "B", "amount": 1}),
        )
    ),
    *(
        ("codes", methodcaller(verb, codes, "k"))
        for verb in ("release_stack", "rollback_stack")
        for codes in ([], ["A", "B", "A"], [str(at) for at in range(31)], "AB", None, 5, {"A"})
    ),
    *(
        ("codes.1", methodcaller(verb, ["A", text], "k"))
        for verb in ("release_stack", "rollback_stack")
        for text in NOT_TEXT
        if not isinstance(text, list)
    ),
    *(("session_key", methodcaller("release_stack", ["A"], text)) for text in NOT_TEXT),
    *(("redemption_id", methodcaller("rollback_stack", ["A"], text)) for text in NOT_TEXT),
    ("release", methodcaller("validate_stack", cart(), release=["X"])),
    ("release", methodcaller("validate_stack", cart(), session=lock("k"), release=["GIFT"])),
    ("release", methodcaller("validate_stack", cart(), session=lock("k"), release=["X", "X"])),
    ("release", methodcaller("validate_stack", cart(), session=lock("k"), release="X")),
    ("release", methodcaller("validate_stack", cart(), session=lock("k"), release=None)),
    ("release.0", methodcaller("validate_stack", cart(), session=lock("k"), release=[5])),
    ("session.type", methodcaller("validate_stack", cart(), session={})),
    ("if_session_missing", methodcaller("redeem_stack", cart(), if_session_missing="maybe")),
]


@pytest.mark.parametrize(("field", "act"), BAD)
def test_14_bad_input_names_the_field_and_sends_nothing(field: str, act: methodcaller) -> None:
    with pytest.raises(InvalidRequest) as refused:
        act(untyped.VoucherSessions(UncallableClient()))
    assert refused.value.field == field
    with pytest.raises(InvalidRequest) as refused_async:
        asyncio.run(act(untyped.AsyncVoucherSessions(AsyncUncallableClient())))
    assert str(refused_async.value) == str(refused.value)


@pytest.mark.parametrize("amount", NOT_AMOUNTS, ids=lambda amount: type(amount).__name__)
def test_14_bad_amounts_are_refused_when_a_redeemable_is_made(amount: Any) -> None:
    with pytest.raises(InvalidRequest, match="credits"):
        Redeemable(code="A", credits=amount)


def customer(code: str) -> str:
    return code.partition("-")[0]


def test_14_on_a_cluster_a_stack_of_several_slots_is_refused_before_anything_is_sent() -> None:
    stack = [Redeemable(code=code) for code in ("ann-1", "bob-1", "ann-2")]
    calls: list[Callable[[Verbs], Any]] = [
        lambda calls: calls.validate_stack(stack, None, ()),
        lambda calls: calls.redeem_stack(stack, None, None, "raise"),
        lambda calls: calls.release_stack(["ann-1", "bob-1", "ann-2"], "k"),
        lambda calls: calls.rollback_stack(["ann-1", "bob-1", "ann-2"], "order"),
        lambda calls: calls.extend_stack(["ann-1", "bob-1", "ann-2"], "k", None, None),
        lambda calls: calls.validate_stack(stack[:1], lock("k"), ["bob-1", "ann-2"]),
    ]
    for call in calls:
        with pytest.raises(CrossSlotStack) as refused:
            call(Verbs(Keys("vs", clustered=True), None))
        assert refused.value.groups == (("ann-1",), ("bob-1",), ("ann-2",))
        assert "partition" in str(refused.value)
        with pytest.raises(CrossSlotStack) as refused:
            call(Verbs(Keys("vs", customer, clustered=True), None))
        assert refused.value.groups == (("ann-1", "ann-2"), ("bob-1",))
        assert call(Verbs(Keys("vs"), None)).keys
        assert call(Verbs(Keys("vs", lambda code: "one", clustered=True), None)).keys


def test_14_a_partition_puts_codes_into_one_slot(make_engine: Callable[..., VoucherSessions], backend: Backend) -> None:
    engine = make_engine(partition=customer)
    for code in ("ann-1", "ann-2", "ann-{3}", "}{"):
        engine.put_voucher(Voucher(code=code, credits=10))
    assert engine.validate_stack(
        [Redeemable(code=code, credits=3) for code in ("ann-1", "ann-2", "ann-{3}")], session=lock("cart")
    ).valid
    assert set(backend.keys()) >= {
        b"vs:{ann}{ann-1}",
        b"vs:{ann}{ann-2}",
        b"vs:{ann}{ann-%7B3%7D}",
        b"vs:{%7D%7B}{%7D%7B}",
    }


@pytest.mark.parametrize(
    "other",
    [
        str,
        str.upper,
        lambda code: code.partition("_")[0],
        lambda code: code[:1],
        lambda code: str(len(code)),
    ],
)
def test_14_engines_with_different_partitions_are_refused_at_their_first_call(
    make_engine: Callable[..., VoucherSessions], backend: Backend, other: Callable[[str], str]
) -> None:
    first = make_engine(partition=customer)
    first.put_voucher(Voucher(code="ann-1", credits=10))
    assert make_engine(partition=lambda code: code.split("-")[0]).get_voucher("ann-1").credits.limit == 10
    before = backend.contents()
    disagrees = make_engine(partition=other)
    for _ in range(2):
        with pytest.raises(InvalidRequest) as refused:
            disagrees.put_voucher(Voucher(code="ann-1", credits=10))
        assert refused.value.field == "partition"
    assert backend.contents() == before


def test_14_without_partition_and_cluster_no_agreement_is_checked() -> None:
    assert Verbs(Keys("vs"), None).agree_on_partition() is None
    assert Verbs(Keys("vs", clustered=True), None).agree_on_partition() is not None

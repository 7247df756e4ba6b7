"""DESIGN.md 3.20: ``extend_stack`` sets a new expiry of a session on all vouchers of a stack, or on none."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Backend

from behaviour.cart_session import MS, assert_nothing_differs, facts, locked_with, on_fakeredis, only_or_beside
from behaviour.test_blocked_stacks import CODES, write_foreign_value
from behaviour.test_semantics import figures, lock, plant_expired_locks
from voucher_sessions import (
    CorruptState,
    InvalidRequest,
    Redeemable,
    SessionNotFound,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)


@pytest.fixture
def cart_engine(engine: VoucherSessions) -> VoucherSessions:
    """A has the only lock, B and C have others beside; D has no lock of the session."""
    for code, locks in (("A", ()), ("B", ("x",)), ("C", ("x", "y")), ("D", ("x",))):
        engine.put_voucher(Voucher(code=code, credits=100))
        for key in locks:
            engine.validate(code, credits=9, session=lock(key))
    stack = [Redeemable(code="A", credits=1), Redeemable(code="B", credits=2), Redeemable(code="C", credits=3)]
    assert engine.validate_stack(stack, session=lock("cart", 60_000)).valid
    return engine


def test_a_stack_gets_one_expiry(cart_engine: VoucherSessions) -> None:
    totals = [figures(cart_engine, code) for code in CODES]
    sessions = cart_engine.extend_stack(["C", "A", "B"], "cart", ttl=90, ttl_unit="SECONDS")
    assert [each.credits for each in sessions] == [3, 1, 2]
    assert {each.expires_at for each in sessions} == {sessions[0].expires_at}
    assert {(each.key, each.quantity, each.ttl, each.ttl_unit) for each in sessions} == {("cart", 1, 90, "SECONDS")}
    assert 89_000 < sessions[0].remaining_ms <= 90_000
    for code, session in zip(["C", "A", "B"], sessions, strict=True):
        assert facts(cart_engine.get_session(code, "cart")) == facts(session)
        assert_nothing_differs(cart_engine, code)
    assert [figures(cart_engine, code) for code in CODES] == totals


@pytest.mark.parametrize(
    ("codes", "error", "named"),
    [
        (["A", "D", "B"], SessionNotFound, ("D",)),
        (["A", "N", "B", "D", "M"], VoucherNotFound, ("N", "M")),
        (["N", "A"], VoucherNotFound, ("N",)),
    ],
)
def test_of_a_stack_all_or_none(
    cart_engine: VoucherSessions, backend: Backend, codes: list[str], error: Any, named: tuple[str, ...]
) -> None:
    before = backend.contents()
    with pytest.raises(error) as refused:
        cart_engine.extend_stack(codes, "cart")
    assert refused.value.codes == named
    assert backend.contents() == before


@pytest.mark.parametrize("codes", [[], "A", None, ["A", "A"], [f"c{at}" for at in range(31)]], ids=str)
@on_fakeredis
def test_the_codes_of_a_stack_are_1_to_30(cart_engine: VoucherSessions, codes: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        cart_engine.extend_stack(codes, "cart")
    assert refused.value.field == "codes"


@pytest.mark.parametrize("key", ["vs:{%s}", "vs:{%s}:session:cart", "vs:{%s}:locks"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", ["list", "text"])
@only_or_beside
def test_a_key_of_something_else_leaves_nothing_half_done(
    backend: Backend, key: str, code: str, kind: str, beside: tuple[str, ...]
) -> None:
    engine = VoucherSessions(backend.client())
    for each in CODES:
        engine.put_voucher(Voucher(code=each, credits=100, points=100))
        locked_with(engine, beside, each)
    write_foreign_value(backend.admin, key % code, kind)
    before = backend.contents()
    with pytest.raises(CorruptState):
        engine.extend_stack(CODES, "cart", ttl=90_000, ttl_unit=MS)
    assert backend.contents() == before
    if key.endswith("locks") and not beside:
        assert engine.extend(code, "cart", ttl=90_000, ttl_unit=MS).credits == 30, "the only lock needs no index"
        return
    with pytest.raises(CorruptState):
        engine.extend(code, "cart", ttl=90_000, ttl_unit=MS)
    assert backend.contents() == before


def test_expired_locks_that_were_not_reclaimed_are_no_obstacle(backend: Backend) -> None:
    """extend does not reclaim them; the calls that compute what is available do."""
    engine = VoucherSessions(backend.client())
    engine.put_voucher(Voucher(code="GIFT", credits=1000))
    engine.validate("GIFT", credits=30, session=lock("cart", 60_000))
    plant_expired_locks(backend, "GIFT", 600)
    assert engine.extend("GIFT", "cart", ttl=90, ttl_unit="SECONDS").credits == 30
    assert figures(engine, "GIFT")["credits"] == (1000, 0, 30, 970)
    assert_nothing_differs(engine)

"""Keys and ids are any text: with NUL, spaces, braces or newlines they are stored and compared as they are."""

from __future__ import annotations

import pytest
from bulk.odd_texts import ODD_TEXTS

from behaviour.test_semantics import lock
from voucher_sessions import Redeemable, RedemptionRolledBack, RollbackExceeded, Voucher, VoucherSessions

# Lua's formats cut a text at NUL if it is shorter than 100 bytes.
NULS = ["\0", "\0a", "a\0", "a\0b\0c", "a \0 b", "x" * 97 + "\0yz", "x" * 98 + "\0y", "x" * 99 + "\0y", "%s\0%d"]
TEXTS = [*ODD_TEXTS, *NULS]

# Every server has the same Lua, and on fakeredis so many calls take a minute.
pytestmark = [pytest.mark.unmeasured, pytest.mark.parametrize("backend", ["valkey"], indirect=True)]


@pytest.fixture
def order(engine: VoucherSessions) -> VoucherSessions:
    """An engine with the vouchers GIFT and CARD."""
    for code in ("GIFT", "CARD"):
        engine.put_voucher(Voucher(code=code, credits=100_000, points=10_000))
    return engine


def used(engine: VoucherSessions, code: str = "GIFT") -> tuple[int, int]:
    state = engine.get_voucher(code)
    return state.credits.used, state.points.used


def redeem_and_roll_back(engine: VoucherSessions, session_key: str, redemption_id: str, rollback_id: str) -> None:
    """Redeem with a session, roll back in parts and then the rest, and repeat each call."""
    before = used(engine)
    engine.validate("GIFT", credits=60, points=6, session=lock(session_key))
    assert engine.get_session("GIFT", session_key).key == session_key
    assert engine.extend("GIFT", session_key).key == session_key
    for replayed in (False, True):
        redemption = engine.redeem("GIFT", session=session_key, redemption_id=redemption_id)
        assert (redemption.id, redemption.session_key, redemption.replayed) == (redemption_id, session_key, replayed)
    for replayed in (False, True):
        part = engine.rollback("GIFT", redemption_id, credits=20, points=1, rollback_id=rollback_id)
        assert (part.redemption_id, part.id, part.replayed) == (redemption_id, rollback_id, replayed)
        assert used(engine) == (before[0] + 40, before[1] + 5)
    with pytest.raises(RollbackExceeded):
        engine.rollback("GIFT", redemption_id, credits=41)
    receipt = engine.get_redemption("GIFT", redemption_id)
    assert (receipt.session_key, receipt.credits_rolled_back, receipt.points_rolled_back) == (session_key, 20, 1)
    again = engine.redeem("GIFT", session=session_key, redemption_id=redemption_id)
    assert (again.session_key, again.replayed) == (session_key, True)
    for replayed in (False, True):
        rest = engine.rollback("GIFT", redemption_id)
        assert (rest.redemption_id, rest.credits, rest.points, rest.replayed) == (redemption_id, 40, 5, replayed)
        assert used(engine) == before
    receipt = engine.get_redemption("GIFT", redemption_id)
    assert (receipt.session_key, receipt.rolled_back) == (session_key, True)
    with pytest.raises(RedemptionRolledBack) as refused:
        engine.redeem("GIFT", session=session_key, redemption_id=redemption_id)
    assert refused.value.redemption.session_key == session_key


@pytest.mark.parametrize("place", ["session_key", "redemption_id", "rollback_id"])
def test_a_redemption_and_its_rollbacks(order: VoucherSessions, place: str) -> None:
    for at, text in enumerate(TEXTS):
        texts = {"session_key": f"cart-{at}", "redemption_id": f"order-{at}", "rollback_id": f"refund-{at}"}
        redeem_and_roll_back(order, **(texts | {place: text}))


def test_the_same_text_at_all_places(order: VoucherSessions) -> None:
    for text in TEXTS:
        redeem_and_roll_back(order, text, text, text)


def test_ids_that_differ_only_behind_nul(order: VoucherSessions) -> None:
    for end in ("a", "b"):
        redeem_and_roll_back(order, f"cart\0{end}", f"order\0{end}", f"refund\0{end}")


def test_a_stack(order: VoucherSessions) -> None:
    codes = [Redeemable(code="GIFT", credits=60), Redeemable(code="CARD", credits=40)]
    for text in TEXTS:
        assert order.validate_stack(codes, session=lock(text)).valid
        for replayed in (False, True):
            redeemed = order.redeem_stack(codes, session=text, redemption_id=text)
            assert (redeemed.id, redeemed.replayed) == (text, replayed)
            assert [each.session_key for each in redeemed.redemptions] == [text, text]
        order.rollback("CARD", text, credits=10, rollback_id=text)
        for replayed in (False, True):
            given_back = order.rollback_stack(["GIFT", "CARD"], text)
            assert [(each.credits, each.replayed) for each in given_back] == [(60, replayed), (30, replayed)]
        assert [order.get_redemption(code, text).session_key for code in ("GIFT", "CARD")] == [text, text]
        with pytest.raises(RedemptionRolledBack):
            order.redeem_stack(codes, session=text, redemption_id=text)
    assert (used(order), used(order, "CARD")) == ((0, 0), (0, 0))


def test_an_adjustment(order: VoucherSessions) -> None:
    for at, text in enumerate(TEXTS, 1):
        for replayed in (False, True):
            adjusted = order.adjust("GIFT", credits=5, points=-1, adjustment_id=text)
            assert (adjusted.id, adjusted.replayed) == (text, replayed)
        assert order.get_voucher("GIFT").credits.limit == 100_000 + 5 * at


def test_sessions_that_end(order: VoucherSessions) -> None:
    for text in TEXTS:
        assert order.validate("GIFT", credits=5, session=lock(text)).valid
    assert {session.key for session in order.list_sessions("GIFT", limit=1000)} == set(TEXTS)
    assert {session.key for session in order.iter_sessions("GIFT", batch=7)} == set(TEXTS)
    for text in TEXTS:
        released = order.release("GIFT", text)
        assert (released.session_key, released.released) == (text, True)
    assert order.get_voucher("GIFT").credits.locked == 0

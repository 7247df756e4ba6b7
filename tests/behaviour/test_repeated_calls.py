"""A call that a client sends again, after other calls have run in between: no second effect, the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Backend, Clock

from voucher_sessions import Redeemable, Used, Voucher, VoucherNotFound, VoucherSessions
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs

CALLS = Verbs(Keys("vs"), None)


@pytest.fixture
def send(backend: Backend) -> Callable[[Call[Any]], Any]:
    def send(call: Call[Any]) -> Any:
        return call.result(backend.admin.execute_command(*call.eval_command()))

    return send


@pytest.fixture
def gift(backend: Backend) -> Iterator[VoucherSessions]:
    with backend.client() as client:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="GIFT", quantity=5, credits=100))
        yield engine


def locking(key: str = "cart", ttl_ms: int = 60_000, credits: int = 30) -> Call[Any]:
    return CALLS.validate("GIFT", credits, 0, {"type": "LOCK", "key": key, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"})


def figures(engine: VoucherSessions) -> tuple[int, int]:
    state = engine.get_voucher("GIFT")
    return state.credits.used, state.credits.locked


def test_a_lock_keeps_its_expiry(gift: VoucherSessions, send: Callable[..., Any], clock: Clock) -> None:
    call = locking()
    first = send(call).session
    clock.advance(3)
    again = send(call).session
    assert (again.expires_at, again.credits) == (first.expires_at, 30)
    assert figures(gift) == (0, 30)


@pytest.mark.parametrize("ending", ["release", "redeem"])
def test_a_session_that_has_ended_is_not_locked_again(
    gift: VoucherSessions, send: Callable[..., Any], ending: str
) -> None:
    call = locking()
    first = send(call)
    if ending == "release":
        gift.release("GIFT", "cart")
    else:
        gift.redeem("GIFT", session="cart")
    before = figures(gift)
    again = send(call)
    assert again.valid
    assert (again.session.key, again.session.credits, again.session.expires_at) == (
        "cart",
        30,
        first.session.expires_at,
    )
    assert figures(gift) == before
    assert gift.list_sessions("GIFT") == []
    assert gift.validate("GIFT", credits=10, session={"type": "LOCK", "key": "cart"}).valid, "a new call locks anew"


def test_a_session_of_points_that_has_ended_is_reported_as_it_was(
    gift: VoucherSessions, send: Callable[..., Any]
) -> None:
    gift.put_voucher(Voucher(code="LOYAL", points=50))
    call = CALLS.validate("LOYAL", 0, 20, {"type": "LOCK", "key": "cart"})
    send(call)
    gift.release("LOYAL", "cart")
    again = send(call)
    assert (again.valid, again.session.credits, again.session.points) == (True, 0, 20)


@pytest.mark.parametrize("backend", ["fakeredis"], indirect=True)
def test_a_session_is_not_locked_again_in_the_millisecond_of_its_expiry(
    gift: VoucherSessions, send: Callable[..., Any], clock: Clock
) -> None:
    """A real server's clock does not stand still for it."""
    call = locking(ttl_ms=30)
    expires_at = send(call).session.expires_at
    clock.reach(round(expires_at.timestamp() * 1000))
    again = send(call)
    assert (again.valid, again.session.expires_at, again.session.remaining_ms) == (True, expires_at, 0)
    assert figures(gift) == (0, 0)


def test_a_repeated_lock_stays_valid_when_limits_were_lowered(gift: VoucherSessions, send: Callable[..., Any]) -> None:
    call = locking()
    send(call)
    gift.put_voucher(Voucher(code="GIFT", quantity=0))
    again = send(call)
    assert (again.valid, again.reason, again.locked_by_others, again.session.credits) == (True, None, False, 30)


def test_a_repeated_call_has_no_effect_on_a_voucher_that_was_created_again(
    gift: VoucherSessions, send: Callable[..., Any]
) -> None:
    call, releasing = locking(), CALLS.release("GIFT", "cart")
    send(call)
    send(releasing)
    gift.delete_voucher("GIFT")
    gift.put_voucher(Voucher(code="GIFT", credits=100))
    assert send(releasing).released
    assert send(call).valid
    assert figures(gift) == (0, 0)


def test_a_repeated_call_after_other_calls_has_no_second_effect(
    gift: VoucherSessions, send: Callable[..., Any]
) -> None:
    first, releasing = locking(), CALLS.release("GIFT", "cart")
    send(first)
    send(releasing)
    gift.validate("GIFT", credits=40, session={"type": "LOCK", "key": "cart"})
    assert send(releasing).released
    assert send(first).valid
    assert figures(gift) == (0, 40), "the later lock stays as it is"


@pytest.mark.parametrize("is_new", [False, True])
def test_a_repeated_put_does_not_restore_a_deleted_voucher(
    gift: VoucherSessions, send: Callable[..., Any], is_new: bool
) -> None:
    if is_new:
        gift.delete_voucher("GIFT")
    put, deletion = CALLS.put_voucher(Voucher(code="GIFT", credits=70), None), CALLS.delete_voucher("GIFT")
    assert send(put).credits.limit == 70
    assert send(deletion) is True
    assert send(put).credits.limit == 70
    assert gift.validate("GIFT").reason == "not_found"
    gift.put_voucher(Voucher(code="GIFT", credits=80))
    assert send(deletion) is True
    assert gift.get_voucher("GIFT").credits.limit == 80
    assert send(put).credits.limit == 80


def test_a_repeated_release_has_the_same_result(gift: VoucherSessions, send: Callable[..., Any]) -> None:
    send(locking())
    send(locking("other"))
    call = CALLS.release("GIFT", "cart")
    assert [send(call).released, send(call).released] == [True, True]
    gift.delete_voucher("GIFT")
    assert send(call).released, "whatever became of the voucher"
    gift.put_voucher(Voucher(code="GIFT", quantity=5, credits=100))
    send(locking("other"))
    assert gift.release("GIFT", "cart").released is False
    assert figures(gift) == (0, 30)


def test_a_repeated_deletion_has_the_same_result(gift: VoucherSessions, send: Callable[..., Any]) -> None:
    call = CALLS.delete_voucher("GIFT")
    assert [send(call), send(call), gift.delete_voucher("GIFT")] == [True, True, False]


@pytest.mark.parametrize("used", [None, Used(quantity=1, credits=20)])
def test_a_repeated_put_with_used_has_one_effect(
    gift: VoucherSessions, send: Callable[..., Any], used: Used | None
) -> None:
    call = CALLS.put_voucher(Voucher(code="GIFT", quantity=9, credits=90), used)
    brought = send(call).credits.used
    gift.redeem("GIFT", credits=7)
    state = send(call)
    assert (state.credits.limit, state.credits.used, state.quantity.limit) == (90, brought + 7, 9)
    assert figures(gift) == (brought + 7, 0)


def test_a_session_that_is_locked_and_released_many_times_keeps_its_amounts(
    gift: VoucherSessions, backend: Backend
) -> None:
    for at in range(1, 20):
        for credits in range(at, at + 1 + at % 3):
            assert gift.validate("GIFT", credits=credits, session={"type": "LOCK", "key": "cart"}).valid
            assert [session.credits for session in gift.list_sessions("GIFT")] == [credits]
        if at % 4:
            assert gift.release("GIFT", "cart").released
            assert figures(gift) == (0, 0)
        assert len(backend.admin.get("vs:{GIFT}:session:cart") or b"") < 100


def test_a_repeated_lock_of_a_stack_has_the_same_result(
    gift: VoucherSessions, send: Callable[..., Any], clock: Clock
) -> None:
    """Voucher by voucher, with what is available to the caller."""
    for code in ("LOYAL", "SALE"):
        gift.put_voucher(Voucher(code=code, quantity=2, credits=40, points=50))
    stack = [Redeemable(code="LOYAL", points=20), Redeemable(code="SALE"), Redeemable(code="GIFT", credits=30)]
    call = CALLS.validate_stack(stack, {"type": "LOCK", "key": "cart"}, ())
    first = send(call)
    assert [each.available.points for each in first.validations] == [50, 50, 0]
    clock.advance(3)
    but_for_the_moment = {"session": {"remaining_ms"}}
    for before, again in zip(first.validations, send(call).validations, strict=True):
        assert again.model_dump(exclude=but_for_the_moment) == before.model_dump(exclude=but_for_the_moment)


# --- adjust, extend and partial rollbacks --------------------------------------------------------------------------


def extending(*codes: str, ttl_ms: int = 90_000) -> Call[Any]:
    return CALLS.extend_stack(codes, "cart", ttl_ms, "MILLISECONDS")


def test_an_adjustment_is_made_once(gift: VoucherSessions, send: Callable[..., Any]) -> None:
    call = CALLS.adjust("GIFT", 0, 25, 0, "top-up")
    assert not send(call).replayed
    gift.adjust("GIFT", credits=-5)
    again = send(call)
    assert (again.replayed, again.credits, again.voucher.credits.limit) == (False, 25, 120)


@pytest.mark.parametrize("put_again", [False, True])
def test_an_adjustment_of_a_voucher_that_was_deleted_since(
    gift: VoucherSessions, send: Callable[..., Any], put_again: bool
) -> None:
    call = CALLS.adjust("GIFT", 0, 25, 0, "top-up")
    send(call)
    gift.delete_voucher("GIFT")
    if put_again:
        gift.put_voucher(Voucher(code="GIFT", credits=7))
    again = send(call)
    assert (again.replayed, again.voucher) == (False, None)
    assert not put_again or gift.get_voucher("GIFT").credits.limit == 7


def test_a_part_is_given_back_once(gift: VoucherSessions, send: Callable[..., Any]) -> None:
    gift.redeem("GIFT", credits=30, redemption_id="order")
    call = CALLS.rollback("GIFT", "order", 10, None, "return")
    assert not send(call).replayed
    gift.rollback("GIFT", "order", credits=5)
    again = send(call)
    assert (again.replayed, again.id, again.credits) == (False, "return", 10)
    assert figures(gift) == (15, 0)
    gift.rollback("GIFT", "order")
    assert not send(call).replayed
    assert figures(gift) == (0, 0)


def test_an_extended_lock_keeps_its_expiry(gift: VoucherSessions, send: Callable[..., Any], clock: Clock) -> None:
    send(locking())
    call = extending("GIFT")
    (first,) = send(call)
    clock.advance(3)
    (again,) = send(call)
    assert (again.expires_at, again.credits) == (first.expires_at, 30)
    assert gift.get_session("GIFT", "cart").expires_at == first.expires_at


@pytest.mark.parametrize("ending", ["release", "redeem", "delete"])
def test_a_session_that_has_ended_is_not_extended_again(
    gift: VoucherSessions, send: Callable[..., Any], ending: str
) -> None:
    send(locking())
    call = extending("GIFT")
    (first,) = send(call)
    if ending == "release":
        gift.release("GIFT", "cart")
    elif ending == "redeem":
        gift.redeem("GIFT", session="cart")
    else:
        gift.delete_voucher("GIFT")
        gift.put_voucher(Voucher(code="GIFT", quantity=5, credits=100))
    before = figures(gift)
    (again,) = send(call)
    assert (again.expires_at, again.credits) == (first.expires_at, 30)
    assert figures(gift) == before
    assert gift.list_sessions("GIFT") == []


def test_the_lock_of_a_later_call_keeps_its_expiry(gift: VoucherSessions, send: Callable[..., Any]) -> None:
    send(locking())
    call = extending("GIFT")
    send(call)
    later = send(locking(ttl_ms=30_000, credits=40)).session
    (again,) = send(call)
    assert (again.expires_at, again.credits) == (later.expires_at, 40)
    assert gift.get_session("GIFT", "cart").expires_at == later.expires_at


@pytest.mark.parametrize("code", ["GIFT", "CARD"])
def test_a_stack_that_was_extended_before_one_of_its_vouchers_went_away(
    gift: VoucherSessions, send: Callable[..., Any], backend: Backend, code: str
) -> None:
    """The first result is not stored any more, as when the session's key has expired as well."""
    gift.put_voucher(Voucher(code="CARD", credits=100))
    stack = [Redeemable(code=each, credits=30) for each in ("GIFT", "CARD")]
    gift.validate_stack(stack, session={"type": "LOCK", "key": "cart"})
    call = extending("GIFT", "CARD")
    send(call)
    gift.delete_voucher(code)
    assert [each.credits for each in send(call)] == [30, 30]
    backend.admin.delete(f"vs:{{{code}}}:session:cart")
    with pytest.raises(VoucherNotFound) as missing:
        send(call)
    assert missing.value.codes == (code,)

"""A client that got no reply repeats ``extend`` or ``extend_stack``: it gets the first result, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Backend, Clock

from behaviour.cart_session import MS, expiry_ms, facts, locked_with, only_or_beside
from behaviour.test_semantics import lock
from voucher_sessions import SessionNotFound, Voucher, VoucherNotFound, VoucherSessions
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs

CALLS = Verbs(Keys("vs"))


@pytest.fixture
def alone(backend: Backend) -> VoucherSessions:
    """A sync engine, for what does not depend on the kind of engine."""
    engine = VoucherSessions(backend.client())
    engine.put_voucher(Voucher(code="GIFT", quantity=3, credits=1000, points=100))
    return engine


@pytest.fixture
def send(backend: Backend) -> Callable[[Call[Any]], Any]:
    """Sends a call. Sending the same call again is an automatic retry of the client after a lost reply."""

    def send(call: Call[Any]) -> Any:
        return call.result(backend.admin.execute_command(*call.eval_command()))

    return send


def deleted_and_put(engine: VoucherSessions) -> None:
    engine.delete_voucher("GIFT")
    engine.put_voucher(Voucher(code="GIFT", credits=9))


MEANWHILE: dict[str, Callable[[VoucherSessions], object]] = {
    "nothing": lambda engine: None,
    "released": lambda engine: engine.release("GIFT", "cart"),
    "redeemed": lambda engine: engine.redeem("GIFT", session="cart"),
    "deleted": lambda engine: engine.delete_voucher("GIFT"),
    "put anew": deleted_and_put,
    "a lock beside": lambda engine: engine.validate("GIFT", session=lock("new", 70_000)),
    "limits lowered": lambda engine: engine.put_voucher(Voucher(code="GIFT", quantity=0)),
}


@pytest.mark.parametrize("stacked", [False, True], ids=["extend", "extend_stack"])
@pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=list(MEANWHILE))
@only_or_beside
def test_a_retry_gets_the_first_result_and_changes_nothing(
    alone: VoucherSessions,
    backend: Backend,
    send: Callable[[Call[Any]], Any],
    clock: Clock,
    meanwhile: Callable[[VoucherSessions], object],
    beside: tuple[str, ...],
    stacked: bool,
) -> None:
    locked_with(alone, beside)
    alone.put_voucher(Voucher(code="B", points=7))
    alone.validate("B", points=7, session=lock("cart", 60_000))
    call: Call[Any] = (
        CALLS.extend_stack(["GIFT", "B"], "cart", 90, "SECONDS")
        if stacked
        else CALLS.extend("GIFT", "cart", 90, "SECONDS")
    )
    first = send(call)
    clock.advance(2)
    meanwhile(alone)
    before = backend.contents()
    again = send(call)
    assert list(map(facts, again if stacked else [again])) == list(map(facts, first if stacked else [first]))
    assert backend.contents() == before


@pytest.mark.parametrize("overtaken", ["GIFT", "B"])
def test_a_retry_of_a_stack_that_one_voucher_has_forgotten_changes_nothing(
    alone: VoucherSessions, backend: Backend, send: Callable[[Call[Any]], Any], overtaken: str
) -> None:
    alone.put_voucher(Voucher(code="B", points=7))
    alone.validate_stack(["GIFT", "B"], session=lock("cart", 60_000))
    call = CALLS.extend_stack(["GIFT", "B"], "cart", 90, "SECONDS")
    send(call)
    for _ in range(4):  # more than a key remembers
        alone.extend(overtaken, "cart", ttl=70, ttl_unit="SECONDS")
    before = backend.contents()
    assert len(send(call)) == 2
    assert backend.contents() == before


def test_a_retry_does_not_undo_a_later_change(
    alone: VoucherSessions, backend: Backend, send: Callable[[Call[Any]], Any]
) -> None:
    """Up to three calls later, its call id is still known."""
    locked_with(alone, ())
    call = CALLS.extend("GIFT", "cart", 90, "SECONDS")
    send(call)
    alone.extend("GIFT", "cart", ttl=40, ttl_unit="SECONDS")
    alone.validate("GIFT", credits=70, session=lock("cart", 30_000))
    later = alone.extend("GIFT", "cart", ttl=20, ttl_unit="SECONDS")
    before = backend.contents()
    assert facts(send(call)) == facts(later)
    assert backend.contents() == before


def test_a_retry_of_a_stack_of_which_one_session_is_forgotten(
    alone: VoucherSessions, backend: Backend, send: Callable[[Call[Any]], Any], clock: Clock
) -> None:
    """Other calls have ended B's session, and its key has expired with the call id; or B was deleted, too."""
    alone.put_voucher(Voucher(code="B", points=7))
    alone.validate_stack(["GIFT", "B"], session=lock("cart", 60_000))
    call = CALLS.extend_stack(["GIFT", "B"], "cart", 90, "SECONDS")
    first = send(call)
    alone.validate("B", points=7, session=lock("x"))
    for ttl in (50, 40, 30, 20):
        live = alone.extend("B", "cart", ttl=ttl, ttl_unit="SECONDS")
    before = backend.contents()
    assert list(map(facts, send(call))) == [facts(first[0]), facts(live)], "the session as it is"
    assert backend.contents() == before
    clock.reach(expiry_ms(alone.extend("B", "cart", ttl=1, ttl_unit=MS)) + 1)
    backend.admin.exists("vs:{B}:session:cart")
    before = backend.contents()
    with pytest.raises(SessionNotFound) as not_live:
        send(call)
    assert not_live.value.codes == ("B",)
    assert backend.contents() == before
    alone.delete_voucher("B")
    with pytest.raises(VoucherNotFound) as missing:
        send(call)
    assert missing.value.codes == ("B",)
    assert facts(alone.get_session("GIFT", "cart")) == facts(first[0])

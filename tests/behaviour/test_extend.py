"""DESIGN.md 3.20: ``extend`` sets a new expiry of a live session, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import fakeredis
import pytest
import time_machine
from conftest import Backend, Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model import LINGER_MS

from behaviour.cart_session import (
    MS,
    assert_nothing_differs,
    expiry_ms,
    facts,
    locked_with,
    on_fakeredis,
    only_or_beside,
)
from behaviour.test_semantics import KEYS, figures, lock
from voucher_sessions import CorruptState, InvalidRequest, SessionNotFound, Voucher, VoucherNotFound, VoucherSessions

WEEK_MS = 7 * 86_400_000


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    engine.put_voucher(Voucher(code="GIFT", quantity=3, credits=1000, points=100))
    return engine


@pytest.fixture
def alone(backend: Backend) -> VoucherSessions:
    """A sync engine, for what does not depend on the kind of engine."""
    engine = VoucherSessions(backend.client())
    engine.put_voucher(Voucher(code="GIFT", quantity=3, credits=1000, points=100))
    return engine


def test_a_session_that_is_not_live_beside_others(gift: VoucherSessions, backend: Backend) -> None:
    locked_with(gift, ("x", "y"))
    with pytest.raises(SessionNotFound):
        gift.extend("GIFT", "unknown")
    backend.admin.rpush("vs:{GIFT}:session:foreign", "a list")
    with pytest.raises(CorruptState):
        gift.extend("GIFT", "foreign")
    backend.admin.delete("vs:{GIFT}:session:foreign")
    assert_nothing_differs(gift)


@only_or_beside
def test_only_the_expiry_changes(
    gift: VoucherSessions, backend: Backend, clock: Clock, beside: tuple[str, ...]
) -> None:
    before, totals = facts(locked_with(gift, beside)), figures(gift, "GIFT")
    for ttl_ms in (90_000, 20_000):
        begun = clock.now_ms()
        session = gift.extend("GIFT", "cart", ttl=ttl_ms, ttl_unit=MS)
        assert begun + ttl_ms <= expiry_ms(session) <= clock.now_ms() + ttl_ms
        assert expiry_ms(session) - clock.now_ms() <= session.remaining_ms <= ttl_ms
        assert (session.ttl, session.ttl_unit) == (ttl_ms, MS)
        assert facts(session) == before | {"expires_at": session.expires_at}
        assert facts(gift.get_session("GIFT", "cart")) == facts(session)
        assert {each.key: facts(each) for each in gift.list_sessions("GIFT")}["cart"] == facts(session)
        assert figures(gift, "GIFT") == totals
        assert_nothing_differs(gift)
        assert backend.admin.pexpiretime("vs:{GIFT}:session:cart") == expiry_ms(session)
        if beside:
            assert backend.admin.pexpiretime("vs:{GIFT}:locks") - LINGER_MS >= expiry_ms(session)


@on_fakeredis
@only_or_beside
def test_a_session_is_extended_up_to_the_millisecond_of_its_expiry(
    alone: VoucherSessions, backend: Backend, clock: Clock, beside: tuple[str, ...]
) -> None:
    clock.reach(expiry_ms(locked_with(alone, beside)) - 1)
    session = alone.extend("GIFT", "cart", ttl=0.0201, ttl_unit="SECONDS")
    assert session.remaining_ms == 21, "rounded up"
    clock.advance(20)
    assert alone.get_session("GIFT", "cart").remaining_ms == 1
    clock.advance(1)
    before = backend.contents()
    calls: list[Callable[[], object]] = [
        lambda: alone.extend("GIFT", "cart"),
        lambda: alone.get_session("GIFT", "cart"),
    ]
    for call in calls:
        with pytest.raises(SessionNotFound):
            call()
    assert backend.contents() == before
    assert figures(alone, "GIFT")["credits"] == (1000, 0, 0, 1000)


@only_or_beside
def test_a_lock_that_was_shortened_is_free_for_others_at_its_new_expiry(
    alone: VoucherSessions, clock: Clock, beside: tuple[str, ...]
) -> None:
    locked_with(alone, beside)
    session = alone.extend("GIFT", "cart", ttl=40, ttl_unit=MS)
    rest = 1000 - 5 * len(beside)
    clock.reach(expiry_ms(session))
    assert alone.validate("GIFT", credits=rest, session=lock("other")).valid
    assert_nothing_differs(alone)


@on_fakeredis
@only_or_beside
def test_a_refusal_says_when_the_extended_lock_expires(alone: VoucherSessions, beside: tuple[str, ...]) -> None:
    locked_with(alone, beside)
    for ttl_ms, retry_after_ms in ((90_000, 50_000 if beside else 90_000), (7_000, 7_000)):
        alone.extend("GIFT", "cart", ttl=ttl_ms, ttl_unit=MS)
        refused = alone.validate("GIFT", credits=1000)
        assert (refused.locked_by_others, refused.retry_after_ms) == (True, retry_after_ms)


@only_or_beside
def test_limits_are_not_looked_at(alone: VoucherSessions, beside: tuple[str, ...]) -> None:
    locked_with(alone, beside)
    alone.put_voucher(Voucher(code="GIFT", quantity=0))
    assert alone.extend("GIFT", "cart", ttl=90_000, ttl_unit=MS).credits == 30
    assert figures(alone, "GIFT")["credits"] == (0, 0, 30 + 5 * len(beside), 0)
    assert [each.credits for each in alone.extend_stack(["GIFT"], "cart")] == [30]


@pytest.mark.parametrize("how", ["never made", "released", "redeemed", "expired", "of another voucher", "put anew"])
@only_or_beside
def test_a_session_that_is_not_live_is_not_found(
    alone: VoucherSessions, backend: Backend, clock: Clock, how: str, beside: tuple[str, ...]
) -> None:
    alone.put_voucher(Voucher(code="OTHER"))
    if how != "never made":
        locked_with(alone, beside)
    if how == "released":
        alone.release("GIFT", "cart")
    elif how == "redeemed":
        alone.redeem("GIFT", session="cart")
    elif how == "expired":
        clock.reach(expiry_ms(alone.extend("GIFT", "cart", ttl=1, ttl_unit=MS)) + 1)
    elif how == "put anew":
        alone.delete_voucher("GIFT")
        alone.put_voucher(Voucher(code="GIFT", credits=500))
    code = "OTHER" if how == "of another voucher" else "GIFT"
    before = backend.contents()
    for call in (
        lambda: alone.extend(code, "cart", ttl=1, ttl_unit="DAYS"),
        lambda: alone.extend_stack([code], "cart"),
        lambda: alone.get_session(code, "cart"),
    ):
        with pytest.raises(SessionNotFound) as missing:
            call()
        assert (missing.value.session_key, missing.value.codes) == ("cart", (code,))
    assert backend.contents() == before


@pytest.mark.parametrize("was_deleted", [False, True])
def test_no_such_voucher(alone: VoucherSessions, backend: Backend, was_deleted: bool) -> None:
    """Also if the key of one of its sessions still exists."""
    code = "GIFT" if was_deleted else "NOBODY"
    if was_deleted:
        locked_with(alone, ())
        alone.delete_voucher("GIFT")
    before = backend.contents()
    for call in (
        lambda: alone.extend(code, "cart"),
        lambda: alone.extend_stack([code], "cart"),
        lambda: alone.get_session(code, "cart"),
    ):
        with pytest.raises(VoucherNotFound) as missing:
            call()
        assert missing.value.codes == (code,)
    assert backend.contents() == before


def test_any_session_key(alone: VoucherSessions) -> None:
    for at, key in enumerate(KEYS):
        code = f"V{at}"
        alone.put_voucher(Voucher(code=code, credits=100))
        alone.validate(code, credits=7, session=lock(key, 60_000))
        assert (alone.extend(code, key).key, alone.get_session(code, key).credits) == (key, 7)
        alone.validate(code, session=lock("beside"))
        assert alone.extend(code, key).credits == 7
        assert alone.redeem(code, session=key).credits == 7


def test_in_a_pipeline(gift: VoucherSessions, execute: Callable[..., list[Any]]) -> None:
    pipe = gift.pipeline()
    pipe.validate("GIFT", credits=30, session=lock("cart", 60_000))
    pipe.extend("GIFT", "cart", ttl=90, ttl_unit="SECONDS").get_session("GIFT", "cart")
    pipe.extend("GIFT", "other").extend_stack(["GIFT", "NOBODY"], "cart").get_session("NOBODY", "cart")
    pipe.extend_stack(["GIFT"], "cart", ttl=80, ttl_unit="SECONDS").get_session("GIFT", "cart")
    _, longer, read, no_session, no_voucher, not_read, (shorter,), last = execute(pipe, raise_on_error=False)
    assert facts(read) == facts(longer)
    assert facts(last) == facts(shorter)
    assert 5_000 < (longer.expires_at - shorter.expires_at).total_seconds() * 1000 <= 10_000
    assert list(map(type, (no_session, no_voucher, not_read))) == [SessionNotFound, VoucherNotFound, VoucherNotFound]


# --- The time to live -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "ttl", "ms"),
    [
        ({}, (7, "DAYS"), WEEK_MS),
        ({"default_ttl": 900}, (15, "MINUTES"), 900_000),
        ({"max_ttl": timedelta(minutes=5)}, (5, "MINUTES"), 300_000),
    ],
)
def test_without_ttl_it_is_the_engines_default(
    make_engine: Callable[..., VoucherSessions], options: dict[str, Any], ttl: tuple[int, str], ms: int
) -> None:
    engine = make_engine(**options)
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.validate("GIFT", session=lock("cart", 10_000))
    for session in (engine.extend("GIFT", "cart"), *engine.extend_stack(["GIFT"], "cart")):
        assert (session.ttl, session.ttl_unit) == ttl
        assert ms - 1000 < session.remaining_ms <= ms


def test_max_ttl_applies(make_engine: Callable[..., VoucherSessions], backend: Backend) -> None:
    engine = make_engine(max_ttl=timedelta(minutes=15))
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.validate("GIFT", session=lock("cart", 10_000))
    before = backend.contents()
    too_long: list[tuple[float, Any]] = [(900_001, "MILLISECONDS"), (15.0000001, "MINUTES"), (1, "DAYS")]
    for ttl, unit in too_long:
        arguments = {"session_key": "cart", "ttl": ttl, "ttl_unit": unit}
        assert refused_field(engine.extend, {"code": "GIFT", **arguments}) == "ttl"
        assert refused_field(engine.extend_stack, {"codes": ["GIFT"], **arguments}) == "ttl"
    with pytest.raises(InvalidRequest, match="max_ttl of the engine"):
        engine.extend("GIFT", "cart", ttl=1, ttl_unit="DAYS")
    assert backend.contents() == before
    assert engine.extend("GIFT", "cart", ttl=15, ttl_unit="MINUTES").ttl == 15


UNITS: list[Any] = ["", "days", "WEEKS", 5, True, []]
BAD: list[tuple[str, dict[str, Any]]] = [
    *(("ttl", {"ttl": ttl, "ttl_unit": "DAYS"}) for ttl in (0, -1, float("nan"), float("inf"), "5", True, 3651, b"5")),
    ("ttl", {"ttl": None, "ttl_unit": "DAYS"}),
    ("ttl", {"ttl": 5, "ttl_unit": None}),
    *(("ttl_unit", {"ttl": 5, "ttl_unit": unit}) for unit in UNITS),
    *(("session_key", {"session_key": key}) for key in ("", " ", None, 5, b"cart", "x" * 257, "\ud800", ["cart"])),
    *(("code", {"code": code}) for code in ("", None, 5, "x" * 257)),
]


@on_fakeredis
def test_bad_input_is_named(gift: VoucherSessions, backend: Backend) -> None:
    locked_with(gift, ())
    before = backend.contents()
    pipe = gift.pipeline()
    for field, values in BAD:
        named = {"code": "GIFT", "session_key": "cart"} | values
        for target in (gift, pipe):
            assert refused_field(target.extend, named) == field, values
            of_stack = {("codes" if name == "code" else name): value for name, value in named.items()}
            of_stack["codes"] = [named["code"]]
            assert refused_field(target.extend_stack, of_stack) == field.replace("code", "codes.0"), values
            if field in ("code", "session_key"):
                assert refused_field(target.get_session, named) == field, values
    assert len(pipe) == 0
    assert backend.contents() == before


def refused_field(call: Callable[..., object], arguments: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        call(**arguments)
    field: str = refused.value.field
    return field


# --- A clock that goes back -----------------------------------------------------------------------------------------


@on_fakeredis
@only_or_beside
@pytest.mark.parametrize("back_ms", [1, 5000])
def test_a_reclaimed_lock_stays_dead(
    alone: VoucherSessions, backend: Backend, clock: Clock, beside: tuple[str, ...], back_ms: int
) -> None:
    locked_with(alone, beside)
    clock.reach(expiry_ms(alone.extend("GIFT", "cart", ttl=30_000, ttl_unit=MS)))
    alone.validate("GIFT", credits=900, session=lock("other", 90_000))
    clock.advance(-back_ms)
    assert backend.admin.exists("vs:{GIFT}:session:cart")
    before = backend.contents()
    for call in (
        lambda: alone.extend("GIFT", "cart"),
        lambda: alone.extend_stack(["GIFT"], "cart"),
        lambda: alone.get_session("GIFT", "cart"),
    ):
        with pytest.raises(SessionNotFound):
            call()
    assert backend.contents() == before
    assert "cart" not in {each.key for each in alone.iter_sessions("GIFT")}
    assert alone.extend("GIFT", "other").credits == 900, "a lock that is in the book, or in the index, is live"
    assert_nothing_differs(alone)


@on_fakeredis
@only_or_beside
def test_an_expired_lock_that_was_not_reclaimed_is_live_again_if_the_clock_goes_back(
    alone: VoucherSessions, clock: Clock, beside: tuple[str, ...]
) -> None:
    locked_with(alone, beside)
    clock.reach(expiry_ms(alone.extend("GIFT", "cart", ttl=30_000, ttl_unit=MS)))
    with pytest.raises(SessionNotFound):
        alone.extend("GIFT", "cart")
    clock.advance(-1)
    assert alone.get_session("GIFT", "cart").remaining_ms == 1
    assert alone.extend("GIFT", "cart", ttl=10_000, ttl_unit=MS).credits == 30
    clock.advance(9_999)
    assert alone.redeem("GIFT", session="cart").credits == 30
    assert_nothing_differs(alone)


def test_the_only_lock_without_its_session_key_is_extended(alone: VoucherSessions, backend: Backend) -> None:
    """The server's clock was ahead for a while and dropped the key: the voucher's own key still has the lock."""
    before = locked_with(alone, ())
    assert backend.admin.delete("vs:{GIFT}:session:cart")
    assert facts(alone.get_session("GIFT", "cart")) == facts(before)
    session = alone.extend("GIFT", "cart", ttl=90_000, ttl_unit=MS)
    assert facts(session) == facts(before) | {"expires_at": session.expires_at}
    assert 60_000 < backend.admin.pttl("vs:{GIFT}:session:cart") <= 90_000, "the key is there again"
    with pytest.raises(SessionNotFound):
        alone.extend("GIFT", "other")
    assert_nothing_differs(alone)


# --- extend is validate of the same amounts, without limits ---------------------------------------------------------


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["validate", "extend", "extend", "release", "wait", "read"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([1, 5, 10, 10, 50]),
        st.sampled_from([0, 3]),
    ),
    min_size=4,
    max_size=15,
)


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_it_leaves_what_validating_the_same_amounts_again_leaves(steps: list[tuple[str, str, int, int]]) -> None:
    def seen(extend: Callable[[VoucherSessions, str, int], object]) -> list[Any]:
        engine = VoucherSessions(fakeredis.FakeRedis(server=fakeredis.FakeServer()))
        engine.put_voucher(Voucher(code="GIFT", quantity=None, credits=1000))
        results: list[Any] = []
        with time_machine.travel(datetime(2026, 11, 21, tzinfo=UTC), tick=False) as traveller:
            for verb, key, ms, credits in steps:
                if verb == "validate":
                    engine.validate("GIFT", credits=credits, session=lock(key, ms))
                elif verb == "release":
                    results.append(engine.release("GIFT", key).released)
                elif verb == "wait":
                    traveller.shift(ms / 1000)
                elif verb == "read":
                    results.append((engine.get_voucher("GIFT"), engine.audit("GIFT")))
                else:
                    try:
                        results.append(extend(engine, key, ms))
                    except SessionNotFound:
                        results.append(None)
                results.append(engine.list_sessions("GIFT"))
            results.append((engine.get_voucher("GIFT"), engine.audit("GIFT")))
        return results

    def by_validate(engine: VoucherSessions, key: str, ms: int) -> object:
        session = engine.get_session("GIFT", key)
        return engine.validate("GIFT", credits=session.credits, session=lock(key, ms)).session

    assert seen(lambda engine, key, ms: engine.extend("GIFT", key, ttl=ms, ttl_unit=MS)) == seen(by_validate)

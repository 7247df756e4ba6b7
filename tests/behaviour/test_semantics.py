"""DESIGN.md section 3 line by line: ``test_07_…`` is about line 7. Every engine, every server."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Backend, Clock
from support.model import LINGER_MS, TOMBSTONE_MS, read_book, written_book

from voucher_sessions import (
    GiftAmountExceeded,
    InvalidRequest,
    LimitExceeded,
    LoyaltyPointsExceeded,
    QuantityExceeded,
    RedemptionConflict,
    RedemptionNotFound,
    RedemptionRolledBack,
    Session,
    SessionNotFound,
    SessionType,
    TtlUnit,
    Used,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)

BIGGEST = 2**53 - 1


def lock(key: str | None = None, ttl_ms: int | None = None) -> dict[str, Any]:
    """A session object as it stands in a request's body."""
    session: dict[str, Any] = {"type": "LOCK"}
    if key is not None:
        session["key"] = key
    if ttl_ms is not None:
        session |= {"ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
    return session


def figures(engine: VoucherSessions, code: str) -> dict[str, tuple[int | None, int, int, int | None]]:
    """Each balance as (limit, used, locked, available)."""
    state = engine.get_voucher(code)
    return {
        name: (balance.limit, balance.used, balance.locked, balance.available)
        for name, balance in (("quantity", state.quantity), ("credits", state.credits), ("points", state.points))
    }


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    """An engine with a gift card of 5,000 credits and 300 points, redeemable without limit."""
    engine.put_voucher(Voucher(code="GIFT", quantity=None, credits=5000, points=300))
    return engine


@pytest.fixture
def single(engine: VoucherSessions) -> VoucherSessions:
    """An engine with a voucher that can be redeemed once."""
    engine.put_voucher(Voucher(code="ONCE", quantity=1))
    return engine


# 1. Own lock


def test_01_a_sessions_own_lock_does_not_reduce_what_is_available_to_it(single: VoucherSessions) -> None:
    for _ in range(3):
        assert single.validate("ONCE", session=lock("mine")).valid
    assert single.redeem("ONCE", session="mine").quantity == 1


def test_01_available_is_reduced_only_by_locks_of_other_sessions(gift: VoucherSessions) -> None:
    gift.validate("GIFT", credits=1000, points=100, session=lock("mine"))
    gift.validate("GIFT", credits=500, points=50, session=lock("other"))
    mine = gift.validate("GIFT", credits=1, session=lock("mine")).available
    assert (mine.quantity, mine.credits, mine.points) == (None, 4500, 250)
    nobody = gift.validate("GIFT").available
    assert (nobody.credits, nobody.points) == (4499, 250)


def test_01_available_quantity_is_reduced_only_by_other_sessions(single: VoucherSessions) -> None:
    assert single.validate("ONCE", session=lock("mine")).available.quantity == 1
    assert single.validate("ONCE", session=lock("other")).available.quantity == 0


# 2. validate without a session


def test_02_validate_without_a_session_changes_nothing(gift: VoucherSessions, backend: Backend) -> None:
    before = backend.contents()
    assert gift.validate("GIFT", credits=5000, points=300).valid
    refused = gift.validate("GIFT", credits=5001)
    assert (refused.valid, refused.reason, refused.locked_by_others, refused.session) == (
        False,
        "gift_amount_exceeded",
        False,
        None,
    )
    assert backend.contents() == before


@pytest.mark.parametrize("session", [None, lock("k")])
def test_02_an_unknown_code_is_a_result_and_no_error(engine: VoucherSessions, backend: Backend, session: Any) -> None:
    answer = engine.validate("NOBODY", session=session)
    assert (answer.code, answer.valid, answer.reason, answer.session) == ("NOBODY", False, "not_found", None)
    assert (answer.locked_by_others, answer.retry_after_ms) == (False, None)
    assert (answer.available.quantity, answer.available.credits, answer.available.points) == (0, 0, 0)
    assert not backend.keys()


# 3. validate with a session


def test_03_a_session_locks_quantity_one_and_the_amounts(gift: VoucherSessions) -> None:
    answer = gift.validate("GIFT", credits=1200, points=30, session=lock("cart"))
    assert answer.valid
    assert answer.reason is None
    session = answer.session
    assert session is not None
    assert (session.key, session.type, session.quantity, session.credits, session.points) == (
        "cart",
        SessionType.LOCK,
        1,
        1200,
        30,
    )
    assert figures(gift, "GIFT") == {
        "quantity": (None, 0, 1, None),
        "credits": (5000, 0, 1200, 3800),
        "points": (300, 0, 30, 270),
    }


def test_03_the_same_key_overrides_amounts_and_expiry(gift: VoucherSessions, clock: Clock) -> None:
    first = gift.validate("GIFT", credits=1200, points=30, session=lock("cart", 60_000)).session
    second = gift.validate("GIFT", credits=200, session=lock("cart", 9_000_000)).session
    assert first is not None
    assert second is not None
    assert (second.credits, second.points) == (200, 0)
    assert second.expires_at - first.expires_at >= timedelta(milliseconds=8_940_000)
    assert figures(gift, "GIFT")["quantity"] == (None, 0, 1, None)
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 200, 4800)
    assert [session.key for session in gift.list_sessions("GIFT")] == ["cart"]


def test_03_an_override_can_end_sooner(gift: VoucherSessions, backend: Backend, clock: Clock) -> None:
    gift.validate("GIFT", credits=1200, session=lock("cart", 60_000))
    gift.validate("GIFT", credits=1300, session=lock("cart", 40))
    clock.advance(41)
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 0, 5000)
    assert gift.list_sessions("GIFT") == []
    assert len(backend.keys()) == 1


def test_03_a_refused_override_leaves_the_session_as_it_was(gift: VoucherSessions) -> None:
    before = gift.validate("GIFT", credits=1200, points=30, session=lock("cart", 600_000)).session
    gift.validate("GIFT", credits=3000, session=lock("other"))
    refused = gift.validate("GIFT", credits=2500, session=lock("cart", 900_000))
    assert (refused.valid, refused.reason, refused.locked_by_others) == (False, "gift_amount_exceeded", True)
    assert before is not None
    assert refused.session is not None
    assert (refused.session.credits, refused.session.points) == (1200, 30)
    assert refused.session.expires_at == before.expires_at
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 4200, 800)


def test_03_a_refused_new_session_leaves_nothing(single: VoucherSessions, backend: Backend) -> None:
    single.validate("ONCE", session=lock("first"))
    before = set(backend.keys())
    refused = single.validate("ONCE", session=lock("second"))
    assert (refused.valid, refused.reason, refused.session) == (False, "quantity_exceeded", None)
    assert set(backend.keys()) == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_03_refusals_distinguish_locked_from_used_up(engine: VoucherSessions, order: tuple[int, int]) -> None:
    engine.put_voucher(Voucher(code="CARD", credits=100))
    locks = [("soon", 30, 60_000), ("late", 30, 90_000)]
    for at in order:
        key, credits, ttl_ms = locks[at]
        engine.validate("CARD", credits=credits, session=lock(key, ttl_ms))
    held = engine.validate("CARD", credits=90, session=lock("third"))
    assert (held.reason, held.locked_by_others) == ("gift_amount_exceeded", True)
    assert held.retry_after_ms is not None
    assert 50_000 < held.retry_after_ms <= 60_000
    own = engine.validate("CARD", credits=90, session=lock("soon"))
    assert own.retry_after_ms is not None
    assert 80_000 < own.retry_after_ms <= 90_000, "the caller's own lock is not the one to wait for"
    used_up = engine.validate("CARD", credits=101, session=lock("third"))
    assert (used_up.reason, used_up.locked_by_others, used_up.retry_after_ms) == ("gift_amount_exceeded", False, None)


@pytest.mark.parametrize("asked", [{"credits": 1}, {"points": 1}])
def test_03_used_up_is_not_reported_as_locked_by_others(engine: VoucherSessions, asked: dict[str, int]) -> None:
    engine.put_voucher(Voucher(code="CARD", quantity=2))
    assert engine.validate("CARD", session=lock("a")).valid
    assert engine.validate("CARD", session=lock("b")).valid
    refused = engine.validate("CARD", session=lock("c"), **asked)
    assert (refused.reason, refused.locked_by_others, refused.retry_after_ms) == ("quantity_exceeded", False, None)


@pytest.mark.parametrize("lowered", ["credits", "points"])
def test_03_an_amount_that_was_not_requested_is_never_the_reason(engine: VoucherSessions, lowered: str) -> None:
    """Limits may fall below what is used; who asks for none of it is held by the other sessions all the same."""
    engine.put_voucher(Voucher(code="CARD", quantity=2, credits=10, points=10))
    engine.redeem("CARD", credits=10, points=10)
    engine.put_voucher(Voucher(code="CARD", quantity=2, **{"credits": 10, "points": 10} | {lowered: 5}))
    assert engine.validate("CARD", session=lock("a")).valid
    refused = engine.validate("CARD", session=lock("b"))
    assert (refused.reason, refused.locked_by_others) == ("quantity_exceeded", True)


def test_03_points_have_a_reason_of_their_own(gift: VoucherSessions) -> None:
    assert gift.validate("GIFT", points=301).reason == "loyalty_card_points_exceeded"
    assert gift.validate("GIFT", credits=5001, points=301).reason == "gift_amount_exceeded"


# 4. Keys


def test_04_a_generated_key_is_ssn_and_32_letters_and_digits(gift: VoucherSessions) -> None:
    sessions = [gift.validate("GIFT", session=lock()).session for _ in range(20)]
    keys = {session.key for session in sessions if session}
    assert len(keys) == 20
    assert all(re.fullmatch(r"ssn_[A-Za-z0-9]{32}", key) for key in keys)


KEYS = [
    "x",
    "y" * 256,
    "a:locks",
    "} {",
    "%7D",
    "späße 🎁",
    "nul\0byte",
    "line\nbreak",
    " 1 2 ",
    "]",
    '",1]',
    "%d",
    "7",
]


@pytest.mark.parametrize("key", KEYS)
def test_04_a_key_is_any_text(gift: VoucherSessions, key: str) -> None:
    session = gift.validate("GIFT", credits=70, session=lock(key)).session
    assert session is not None
    assert session.key == key
    assert [live.key for live in gift.list_sessions("GIFT")] == [key]
    assert gift.redeem("GIFT", session=key, redemption_id="order").session_key == key
    assert gift.get_redemption("GIFT", "order").credits == 70
    assert gift.get_redemption("GIFT", "order").session_key == key


def test_04_a_key_is_scoped_to_its_voucher(gift: VoucherSessions) -> None:
    gift.put_voucher(Voucher(code="ONCE", quantity=1))
    gift.validate("GIFT", credits=100, session=lock("cart"))
    gift.validate("ONCE", session=lock("cart"))
    assert gift.release("GIFT", "cart").released
    assert [session.key for session in gift.list_sessions("ONCE")] == ["cart"]


# 5. TTL


@pytest.mark.parametrize(
    ("ttl", "unit", "ms"),
    [
        (7, "DAYS", 604_800_000),
        (3650, "DAYS", 315_360_000_000),
        (0.5, "DAYS", 43_200_000),
        (2, "HOURS", 7_200_000),
        (3, "MINUTES", 180_000),
        (90, "SECONDS", 90_000),
        (60.0005, "SECONDS", 60_001),
        (30_000, "MILLISECONDS", 30_000),
        (30_000.1, "MILLISECONDS", 30_001),
        (30_000_000, "MICROSECONDS", 30_000),
        (30_000_001, "MICROSECONDS", 30_001),
        (30_000_000_000, "NANOSECONDS", 30_000),
        (30_000_000_001, "NANOSECONDS", 30_001),
    ],
)
def test_05_every_unit_rounded_up_to_ms(gift: VoucherSessions, clock: Clock, ttl: float, unit: Any, ms: int) -> None:
    earliest = clock.now_ms()
    session = gift.validate("GIFT", session={"type": "LOCK", "ttl": ttl, "ttl_unit": unit}).session
    latest = clock.now_ms()
    assert session is not None
    assert ms - (latest - earliest) <= session.remaining_ms <= ms
    assert earliest <= round(session.expires_at.timestamp() * 1000) - ms <= latest
    assert (session.ttl, session.ttl_unit) == (ttl, TtlUnit(unit))


def test_05_the_default_is_seven_days(gift: VoucherSessions) -> None:
    session = gift.validate("GIFT", session={"type": "LOCK"}).session
    assert session is not None
    assert (session.ttl, session.ttl_unit) == (7, TtlUnit.DAYS)
    assert 0 <= 604_800_000 - session.remaining_ms < 1000  # a call that was repeated is answered some ms later


def test_05_one_nanosecond_is_one_ms(gift: VoucherSessions, clock: Clock) -> None:
    session = gift.validate("GIFT", credits=1, session={"type": "LOCK", "ttl": 1, "ttl_unit": "NANOSECONDS"}).session
    assert session is not None
    assert session.remaining_ms <= 1  # 0 when the call was repeated
    clock.reach(round(session.expires_at.timestamp() * 1000))
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 0, 5000)


# 6. Expiry


def test_06_a_lock_lives_as_long_as_now_is_before_its_expiry(single: VoucherSessions, clock: Clock) -> None:
    session = single.validate("ONCE", session=lock("first", 60)).session
    assert session is not None
    expires_at_ms = round(session.expires_at.timestamp() * 1000)
    answer = single.validate("ONCE")
    if clock.now_ms() < expires_at_ms:  # else it was overtaken by the lock's end
        assert not answer.valid
    clock.reach(expires_at_ms - 1)
    refused = single.validate("ONCE")
    if clock.now_ms() < expires_at_ms:
        assert (refused.valid, refused.retry_after_ms) == (False, 1)
    clock.reach(expires_at_ms)
    assert single.list_sessions("ONCE") == []
    assert single.release("ONCE", "first").released is False
    with pytest.raises(SessionNotFound):
        single.redeem("ONCE", session="first")
    assert single.validate("ONCE", session=lock("second")).valid


def test_06_expired_locks_leave_the_totals_while_others_stay(gift: VoucherSessions, clock: Clock) -> None:
    gift.validate("GIFT", credits=100, points=1, session=lock("stays", 600_000))
    for at in range(5):
        gift.validate("GIFT", credits=1000 - at, points=10, session=lock(f"goes{at}", 30 + at))
    clock.advance(40)
    assert figures(gift, "GIFT") == {
        "quantity": (None, 0, 1, None),
        "credits": (5000, 0, 100, 4900),
        "points": (300, 0, 1, 299),
    }
    assert gift.validate("GIFT", credits=4900, points=299).valid


def test_06_after_the_last_expiry_no_lock_key_is_left(gift: VoucherSessions, backend: Backend, clock: Clock) -> None:
    """The index stays a day longer than its locks, or until the next call: a clock may jump forward and back."""
    for at in range(4):
        gift.validate("GIFT", credits=10, session=lock(f"cart{at}", 20 + 10 * at))
    clock.advance(51)
    assert set(backend.keys()) == {b"vs:{GIFT}", b"vs:{GIFT}:locks"}
    assert LINGER_MS - 60 <= backend.keys()[b"vs:{GIFT}:locks"] < LINGER_MS
    gift.get_voucher("GIFT")
    assert set(backend.keys()) == {b"vs:{GIFT}"}


def test_06_without_a_call_the_index_expires_a_day_after_its_last_lock(
    gift: VoucherSessions, backend: Backend, clock: Clock
) -> None:
    for at in range(4):
        gift.validate("GIFT", credits=10, session=lock(f"cart{at}", 20 + 10 * at))
    clock.advance(51)
    at_ms = backend.admin.pexpiretime("vs:{GIFT}:locks")
    assert at_ms == read_book(backend.admin.get("vs:{GIFT}"))[0][12] + LINGER_MS
    if backend.is_fake:
        clock.reach(at_ms + 1)
    else:
        backend.admin.pexpire("vs:{GIFT}:locks", 1)
        clock.advance(2)
    assert set(backend.keys()) == {b"vs:{GIFT}"}
    assert figures(gift, "GIFT")["quantity"] == (None, 0, 0, None), "the voucher does not need the index for that"


def test_06_the_index_forgets_a_long_lock_when_it_next_takes_out_expired_ones(
    gift: VoucherSessions, backend: Backend, clock: Clock
) -> None:
    gift.validate("GIFT", credits=10, session=lock("long"))
    gift.validate("GIFT", credits=10, session=lock("short", 20))
    gift.validate("GIFT", credits=10, session=lock("medium", 60_000))
    gift.release("GIFT", "long")
    assert backend.keys()[b"vs:{GIFT}:locks"] > LINGER_MS + 60_000
    clock.advance(21)
    gift.get_voucher("GIFT")
    assert 0 < backend.keys()[b"vs:{GIFT}:locks"] - LINGER_MS <= 60_000


def test_06_a_lock_has_expired_in_the_millisecond_of_its_expiry(gift: VoucherSessions, clock: Clock) -> None:
    """Redis still shows the index then; its expired locks must not be taken out of the new totals."""
    session = gift.validate("GIFT", credits=100, session=lock("gone", 15)).session
    assert session is not None
    clock.reach(round(session.expires_at.timestamp() * 1000))
    gift.redeem("GIFT", credits=1)
    gift.validate("GIFT", credits=100, session=lock("stays"))
    gift.validate("GIFT", credits=5, session=lock("soon", 1))
    clock.advance(2)
    assert figures(gift, "GIFT")["credits"] == (5000, 1, 100, 4899)
    assert figures(gift, "GIFT")["quantity"] == (None, 1, 1, None)


def test_06_totals_after_removing_expired_locks_are_those_of_the_live_locks(
    gift: VoucherSessions, backend: Backend, clock: Clock
) -> None:
    assert gift.validate("GIFT", credits=100, points=7, session=lock("longest", 90_000)).valid
    assert gift.validate("GIFT", credits=40, points=5, session=lock("expires", 20)).valid
    left = gift.validate("GIFT", session=lock("stays", 60_000)).session
    assert left is not None
    gift.release("GIFT", "longest")
    clock.advance(21)
    gift.get_voucher("GIFT")
    values, _ = read_book(backend.admin.get("vs:{GIFT}"))
    assert values[8:11] == [1, 0, 0]
    assert values[11:13] == [round(left.expires_at.timestamp() * 1000)] * 2, "when the next and the last lock expires"


@pytest.mark.parametrize("locks", [2, 10_000])
def test_06_an_expired_index_is_removed_by_a_later_call(backend: Backend, clock: Clock, locks: int) -> None:
    """Redis by default frees what expires while all clients wait, and a clock that jumps must not lose the index."""
    gift = VoucherSessions(backend.admin)
    gift.put_voucher(Voucher(code="GIFT", credits=5000))
    book, at = "vs:{GIFT}", clock.now_ms() + 1000
    backend.admin.zadd(f"{book}:locks", {f"0 0 cart{number}": at for number in range(locks)})
    values, _ = read_book(backend.admin.get(book))
    values[8], values[11:13] = locks, [at, at]
    backend.admin.set(book, written_book(values))
    session = gift.validate("GIFT", credits=1, session=lock("last", 1100)).session
    assert session is not None
    expires_at_ms = round(session.expires_at.timestamp() * 1000)
    assert backend.admin.pexpiretime(f"{book}:locks") == expires_at_ms + LINGER_MS
    clock.reach(expires_at_ms)
    assert gift.validate("GIFT", credits=5000).valid
    assert not backend.admin.exists("vs:{GIFT}:locks")


@pytest.mark.parametrize("verb", ["validate", "redeem", "get_voucher", "put_voucher"])
@pytest.mark.parametrize("left", [0, 3])
def test_06_nobody_is_refused_wrongly_after_a_mass_expiry(
    engine: VoucherSessions, backend: Backend, left: int, verb: str
) -> None:
    expiring = 1201  # more than two batches
    hot = Voucher(code="HOT", quantity=expiring + left, credits=10 * (expiring + left))
    engine.put_voucher(hot)
    for at in range(left):
        engine.validate("HOT", credits=10, session=lock(f"stays{at}"))
    plant_expired_locks(backend, "HOT", expiring)
    if verb == "validate":
        answer = engine.validate("HOT", credits=10 * expiring, session=lock("next"))
        assert answer.valid
        assert answer.available.credits == 10 * expiring
        assert figures(engine, "HOT")["quantity"] == (expiring + left, 0, left + 1, expiring - 1)
    elif verb == "redeem":
        assert engine.redeem("HOT", credits=10 * expiring).credits == 10 * expiring
        assert figures(engine, "HOT")["quantity"] == (expiring + left, 1, left, expiring - 1)
    else:
        state = engine.put_voucher(hot) if verb == "put_voucher" else engine.get_voucher("HOT")
        assert (state.quantity.locked, state.credits.locked) == (left, 10 * left)
    assert len(engine.list_sessions("HOT")) == left + (verb == "validate")


@pytest.mark.parametrize("backend", ["fakeredis"], indirect=True)
def test_06_all_locks_that_expire_in_this_millisecond_are_reclaimed(engine: VoucherSessions, backend: Backend) -> None:
    """A real server's clock does not stand still for it."""
    expiring = 1201  # more than two batches
    engine.put_voucher(Voucher(code="HOT", credits=10 * expiring + 10))
    engine.validate("HOT", credits=10, session=lock("stays"))
    plant_expired_locks(backend, "HOT", expiring, apart_ms=0)
    assert engine.validate("HOT", credits=10 * expiring, session=lock("next")).valid


def test_06_a_mass_expiry_grants_nothing_beyond_the_limit(engine: VoucherSessions, backend: Backend) -> None:
    """While expired locks are taken out, and after it."""
    expiring = 1201
    engine.put_voucher(Voucher(code="HOT", quantity=expiring + 1, credits=10 * expiring))
    engine.validate("HOT", session=lock("stays"))
    refused: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"credits": 10 * expiring + 1}, GiftAmountExceeded),
        ({"session": "nobody's"}, SessionNotFound),
    ]
    for asked, error in refused:
        plant_expired_locks(backend, "HOT", expiring)
        with pytest.raises(error):
            engine.redeem("HOT", **asked)
        assert figures(engine, "HOT")["credits"] == (10 * expiring, 0, 0, 10 * expiring)
    plant_expired_locks(backend, "HOT", expiring)
    assert not engine.validate("HOT", credits=10 * expiring + 1, session=lock("cart")).valid
    assert figures(engine, "HOT")["quantity"] == (expiring + 1, 0, 1, expiring)


def plant_expired_locks(backend: Backend, code: str, number: int, apart_ms: int = 1) -> None:
    """As if so many sessions of 10 credits had locked and expired, their keys gone: one after the other, or all now."""
    book = f"vs:{{{code}}}"
    admin, now_ms = backend.admin, backend.clock.now_ms()
    values, only_key = read_book(admin.get(book))
    if only_key:  # the lock that was alone goes to the index
        admin.zadd(f"{book}:locks", {f"{values[9]} {values[10]} {only_key}": values[12]})
    values[8] += number
    values[9] += 10 * number
    values[11] = now_ms - number * apart_ms
    values[12] = values[12] or now_ms - 1
    admin.set(book, written_book(values))
    admin.zadd(f"{book}:locks", {f"10 0 gone{at}": now_ms - (1 + at) * apart_ms for at in range(number)})
    admin.pexpireat(f"{book}:locks", max(values[12], now_ms + 60_000))


# 7. redeem without a session


def test_07_redeem_without_a_session_takes_only_unlocked_amounts(gift: VoucherSessions) -> None:
    gift.validate("GIFT", credits=4000, session=lock("cart"))
    with pytest.raises(GiftAmountExceeded) as refused:
        gift.redeem("GIFT", credits=1001)
    error = refused.value
    assert (error.code, error.reason, error.requested, error.available) == ("GIFT", "gift_amount_exceeded", 1001, 1000)
    assert error.locked_by_others
    assert error.retry_after_ms is not None
    done = gift.redeem("GIFT", credits=1000)
    assert (done.quantity, done.credits, done.points, done.session_key) == (1, 1000, 0, None)
    assert figures(gift, "GIFT")["credits"] == (5000, 1000, 4000, 0)


def test_07_a_locked_voucher_is_not_redeemed_without_its_session(single: VoucherSessions) -> None:
    single.validate("ONCE", session=lock("cart"))
    with pytest.raises(QuantityExceeded) as refused:
        single.redeem("ONCE")
    assert (refused.value.requested, refused.value.available, refused.value.locked_by_others) == (1, 0, True)
    single.release("ONCE", "cart")
    single.redeem("ONCE")
    with pytest.raises(QuantityExceeded) as refused:
        single.redeem("ONCE")
    assert not refused.value.locked_by_others


def test_07_more_points_than_available_are_refused(gift: VoucherSessions) -> None:
    with pytest.raises(LoyaltyPointsExceeded) as refused:
        gift.redeem("GIFT", credits=5000, points=301)
    assert (refused.value.requested, refused.value.available) == (301, 300)
    assert isinstance(refused.value, LimitExceeded)
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 0, 5000)


def test_07_an_unknown_voucher_raises(engine: VoucherSessions) -> None:
    with pytest.raises(VoucherNotFound) as missing:
        engine.redeem("NOBODY", session="cart")
    assert missing.value.code == "NOBODY"
    for ask in (engine.get_voucher, engine.list_sessions):
        with pytest.raises(VoucherNotFound):
            ask("NOBODY")


# 8. redeem with a live session


@pytest.mark.parametrize(
    "session", ["cart", {"key": "cart"}, lock("cart"), lock("cart", 5), Session(key="cart"), Session(**lock("cart"))]
)
def test_08_redeem_spends_what_the_session_locked_and_removes_it(
    gift: VoucherSessions, backend: Backend, clock: Clock, session: Any
) -> None:
    gift.validate("GIFT", credits=1200, points=30, session=lock("cart"))
    earliest = clock.now() - timedelta(milliseconds=1)
    done = gift.redeem("GIFT", session=session, redemption_id="order-1")
    assert done.model_dump(exclude={"redeemed_at"}) == {
        "id": "order-1",
        "code": "GIFT",
        "session_key": "cart",
        "quantity": 1,
        "credits": 1200,
        "points": 30,
        "rolled_back": False,
        "credits_rolled_back": 0,
        "points_rolled_back": 0,
        "replayed": False,
    }
    assert earliest <= done.redeemed_at <= clock.now() + timedelta(milliseconds=1)
    assert done.redeemed_at.tzinfo is UTC
    assert figures(gift, "GIFT") == {
        "quantity": (None, 1, 0, None),
        "credits": (5000, 1200, 0, 3800),
        "points": (300, 30, 0, 270),
    }
    assert gift.list_sessions("GIFT") == []
    session = b"vs:{GIFT}:session:cart"  # its last values, for a call that is sent again
    assert set(backend.keys()) == {b"vs:{GIFT}", session, b"vs:{GIFT}:redemption:order-1"}
    assert 0 < backend.keys()[session] <= TOMBSTONE_MS


def test_08_redeeming_less_than_locked_frees_the_rest(gift: VoucherSessions) -> None:
    gift.validate("GIFT", credits=1200, points=30, session=lock("cart"))
    done = gift.redeem("GIFT", credits=0, points=10, session="cart")
    assert (done.credits, done.points) == (0, 10)
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 0, 5000)
    assert figures(gift, "GIFT")["points"] == (300, 10, 0, 290)


def test_08_more_than_locked_only_if_the_rest_is_available(gift: VoucherSessions) -> None:
    gift.validate("GIFT", credits=1000, session=lock("cart"))
    gift.validate("GIFT", credits=3000, session=lock("other"))
    with pytest.raises(GiftAmountExceeded) as refused:
        gift.redeem("GIFT", credits=2001, session="cart")
    assert (refused.value.requested, refused.value.available, refused.value.locked_by_others) == (2001, 2000, True)
    assert {session.key: session.credits for session in gift.list_sessions("GIFT")} == {"cart": 1000, "other": 3000}
    assert gift.redeem("GIFT", credits=2000, session="cart").credits == 2000
    assert figures(gift, "GIFT")["credits"] == (5000, 2000, 3000, 0)


# 9. redeem with a session that is not live


@pytest.mark.parametrize("how", ["never made", "released", "expired", "of another voucher"])
def test_09_a_session_that_is_not_live_changes_nothing(gift: VoucherSessions, clock: Clock, how: str) -> None:
    gift.put_voucher(Voucher(code="OTHER", quantity=5))
    if how == "released":
        gift.validate("GIFT", credits=5, session=lock("cart"))
        gift.release("GIFT", "cart")
    elif how == "expired":
        gift.validate("GIFT", credits=5, session=lock("cart", 10))
        clock.advance(11)
    elif how == "of another voucher":
        gift.validate("OTHER", session=lock("cart"))
    with pytest.raises(SessionNotFound) as missing:
        gift.redeem("GIFT", credits=10, session="cart", redemption_id="order")
    assert (missing.value.code, missing.value.session_key) == ("GIFT", "cart")
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 0, 5000)
    with pytest.raises(RedemptionNotFound):
        gift.get_redemption("GIFT", "order")


def test_09_if_session_missing_redeem_redeems_without_the_session(gift: VoucherSessions) -> None:
    done = gift.redeem("GIFT", credits=10, session="gone", redemption_id="order", if_session_missing="redeem")
    assert (done.credits, done.session_key, done.replayed) == (10, "gone", False)
    again = gift.redeem("GIFT", credits=10, session="gone", redemption_id="order")
    assert again.replayed
    gift.validate("GIFT", credits=4990, session=lock("other"))
    with pytest.raises(GiftAmountExceeded):
        gift.redeem("GIFT", credits=1, session="gone", if_session_missing="redeem")


# 10. Exactly once


def test_10_the_same_request_again_is_answered_with_the_first_result(gift: VoucherSessions) -> None:
    gift.validate("GIFT", credits=1200, session=lock("cart"))
    first = gift.redeem("GIFT", session="cart", redemption_id="order")
    gift.validate("GIFT", credits=700, session=lock("cart"))
    for credits, points in ((None, None), (1200, None), (1200, 0)):
        again = gift.redeem("GIFT", credits=credits, points=points, session="cart", redemption_id="order")
        assert again == first.model_copy(update={"replayed": True})
    assert figures(gift, "GIFT")["credits"] == (5000, 1200, 700, 3100)
    assert gift.get_redemption("GIFT", "order") == first


@pytest.mark.parametrize(
    "other",
    [
        {"session": None},
        {"session": "other"},
        {"session": "cart", "credits": 1201},
        {"session": "cart", "credits": 0},
        {"session": "cart", "points": 1},
    ],
)
def test_10_another_request_under_the_same_id_is_a_conflict(gift: VoucherSessions, other: dict[str, Any]) -> None:
    gift.validate("GIFT", credits=1200, session=lock("cart"))
    gift.redeem("GIFT", session="cart", redemption_id="order")
    with pytest.raises(RedemptionConflict) as conflict:
        gift.redeem("GIFT", redemption_id="order", **other)
    assert (conflict.value.code, conflict.value.redemption_id) == ("GIFT", "order")
    assert figures(gift, "GIFT")["credits"] == (5000, 1200, 0, 3800)


def test_10_an_id_is_scoped_to_its_voucher(gift: VoucherSessions) -> None:
    gift.put_voucher(Voucher(code="OTHER", credits=10))
    gift.redeem("GIFT", credits=10, redemption_id="order")
    assert gift.redeem("OTHER", credits=5, redemption_id="order").replayed is False


def test_10_a_replay_works_after_the_voucher_was_deleted(gift: VoucherSessions) -> None:
    gift.redeem("GIFT", credits=10, redemption_id="order")
    again = gift.redeem("GIFT", credits=10, redemption_id="order")
    assert (again.replayed, again.rolled_back) == (True, False)
    gift.delete_voucher("GIFT")
    assert gift.redeem("GIFT", credits=10, redemption_id="order") == again


def test_10_an_id_that_was_rolled_back_is_refused_also_after_the_voucher_was_deleted(gift: VoucherSessions) -> None:
    gift.redeem("GIFT", credits=10, redemption_id="order")
    gift.rollback("GIFT", "order")
    for _ in range(2):
        with pytest.raises(RedemptionRolledBack) as refused:
            gift.redeem("GIFT", credits=10, redemption_id="order")
        assert (refused.value.redemption.credits, refused.value.redemption.rolled_back) == (10, True)
        gift.delete_voucher("GIFT")
    assert gift.get_redemption("GIFT", "order").rolled_back


def test_10_a_refused_redemption_leaves_no_receipt(single: VoucherSessions) -> None:
    single.validate("ONCE", session=lock("other"))
    with pytest.raises(QuantityExceeded):
        single.redeem("ONCE", redemption_id="order")
    single.release("ONCE", "other")
    assert single.redeem("ONCE", redemption_id="order").replayed is False


def test_10_a_generated_id_is_random(gift: VoucherSessions) -> None:
    ids = {gift.redeem("GIFT", credits=1).id for _ in range(10)}
    assert len(ids) == 10
    assert all(re.fullmatch(r"rdm_[A-Za-z0-9]{32}", each) for each in ids)


@pytest.mark.parametrize("receipt_ttl", [600, timedelta(minutes=10)])
def test_10_receipts_expire_only_after_receipt_ttl(
    make_engine: Callable[..., VoucherSessions], backend: Backend, clock: Clock, receipt_ttl: Any
) -> None:
    engine = make_engine(receipt_ttl=receipt_ttl)
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    engine.redeem("GIFT", credits=1, redemption_id="order")
    engine.rollback("GIFT", "order")
    receipt = "vs:{GIFT}:redemption:order"
    assert 590_000 < backend.admin.pttl(receipt) <= 600_000, "a rollback keeps the receipt's TTL"
    assert engine.get_redemption("GIFT", "order").rolled_back
    if not backend.is_fake:
        backend.admin.pexpire(receipt, 100)  # nobody waits ten minutes for it
    clock.advance(599_999 if backend.is_fake else 102)
    assert not backend.is_fake or engine.get_redemption("GIFT", "order").rolled_back, "until the last millisecond"
    clock.advance(2)
    with pytest.raises(RedemptionNotFound):
        engine.get_redemption("GIFT", "order")


# 11. rollback


def test_11_rollback_gives_back_exactly_what_was_taken_once(gift: VoucherSessions) -> None:
    gift.redeem("GIFT", credits=700, points=7, redemption_id="first")
    gift.redeem("GIFT", credits=300, points=3, redemption_id="second")
    back = gift.rollback("GIFT", "first")
    assert (back.code, back.redemption_id, back.quantity, back.credits, back.points, back.replayed) == (
        "GIFT",
        "first",
        1,
        700,
        7,
        False,
    )
    assert gift.rollback("GIFT", "first") == back.model_copy(update={"replayed": True})
    assert figures(gift, "GIFT") == {
        "quantity": (None, 1, 0, None),
        "credits": (5000, 300, 0, 4700),
        "points": (300, 3, 0, 297),
    }
    with pytest.raises(RedemptionNotFound) as missing:
        gift.rollback("GIFT", "third")
    assert (missing.value.code, missing.value.redemption_id) == ("GIFT", "third")


def test_11_rollback_never_revives_a_lock(single: VoucherSessions) -> None:
    single.validate("ONCE", session=lock("cart"))
    single.redeem("ONCE", session="cart", redemption_id="order")
    single.rollback("ONCE", "order")
    assert single.list_sessions("ONCE") == []
    with pytest.raises(SessionNotFound):
        single.redeem("ONCE", session="cart")


def test_11_used_never_goes_below_zero(gift: VoucherSessions) -> None:
    gift.redeem("GIFT", credits=700, redemption_id="order")
    gift.put_voucher(Voucher(code="GIFT", credits=5000), used=Used(credits=500))
    gift.rollback("GIFT", "order")
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 0, 5000)
    assert figures(gift, "GIFT")["quantity"] == (None, 0, 0, None)


def test_11_a_rollback_does_not_credit_a_voucher_that_was_created_again(gift: VoucherSessions) -> None:
    gift.redeem("GIFT", credits=700, redemption_id="before")
    gift.delete_voucher("GIFT")
    gift.put_voucher(Voucher(code="GIFT", credits=5000))
    gift.redeem("GIFT", credits=4800, redemption_id="after")
    assert gift.rollback("GIFT", "before").replayed is False
    assert gift.get_redemption("GIFT", "before").rolled_back
    assert figures(gift, "GIFT")["credits"] == (5000, 4800, 0, 200)


def test_11_a_rollback_after_delete_marks_the_receipt(gift: VoucherSessions, backend: Backend) -> None:
    gift.redeem("GIFT", credits=700, redemption_id="order")
    gift.delete_voucher("GIFT")
    assert gift.rollback("GIFT", "order").credits == 700
    assert set(backend.keys()) == {b"vs:{GIFT}", b"vs:{GIFT}:redemption:order"}
    assert 0 < backend.keys()[b"vs:{GIFT}"] <= TOMBSTONE_MS


def test_11_a_rollback_long_after_delete(gift: VoucherSessions, backend: Backend) -> None:
    """When nothing of the voucher is left but its receipts."""
    gift.redeem("GIFT", credits=7, redemption_id="order")
    gift.delete_voucher("GIFT")
    backend.admin.delete("vs:{GIFT}")  # as its time does
    done = gift.rollback("GIFT", "order")
    assert (done.credits, done.replayed) == (7, False)
    assert gift.rollback("GIFT", "order").replayed
    assert gift.get_redemption("GIFT", "order").rolled_back
    assert set(backend.keys()) == {b"vs:{GIFT}:redemption:order"}


# 12. release


def test_12_release_frees_the_lock_and_nothing_else(gift: VoucherSessions, backend: Backend) -> None:
    gift.redeem("GIFT", credits=700, redemption_id="order")
    gift.validate("GIFT", credits=1200, session=lock("cart"))
    release = gift.release("GIFT", "cart")
    assert (release.code, release.session_key, release.released) == ("GIFT", "cart", True)
    assert figures(gift, "GIFT")["credits"] == (5000, 700, 0, 4300)
    assert gift.release("GIFT", "cart").released is False
    assert gift.release("GIFT", "never").released is False
    assert gift.release("NOBODY", "cart").released is False
    session = b"vs:{GIFT}:session:cart"
    assert set(backend.keys()) == {b"vs:{GIFT}", session, b"vs:{GIFT}:redemption:order"}
    assert 0 < backend.keys()[session] <= TOMBSTONE_MS


@pytest.mark.parametrize("verb", ["release", "redeem"])
def test_12_the_totals_fall_by_what_the_session_held(gift: VoucherSessions, verb: str) -> None:
    for key, credits, points in (("cart", 100, 7), ("other", 40, 3), ("empty", 0, 0)):
        assert gift.validate("GIFT", credits=credits, points=points, session=lock(key)).valid

    def end(key: str) -> object:
        return gift.release("GIFT", key) if verb == "release" else gift.redeem("GIFT", session=key)

    end("cart")
    state = gift.get_voucher("GIFT")
    assert (state.quantity.locked, state.credits.locked, state.points.locked) == (2, 40, 3)
    end("other")
    state = gift.get_voucher("GIFT")
    assert (state.quantity.locked, state.credits.locked, state.points.locked) == (1, 0, 0)


# 13. Limits lowered


def test_13_limits_lowered_below_what_is_used_and_locked(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="CARD", quantity=10, credits=1000, points=100))
    engine.redeem("CARD", credits=300, points=30)
    engine.validate("CARD", credits=400, points=40, session=lock("cart"))
    lowered = engine.put_voucher(Voucher(code="CARD", quantity=1, credits=500, points=10))
    assert (lowered.quantity.used, lowered.quantity.locked, lowered.quantity.available) == (1, 1, 0)
    assert (lowered.credits.used, lowered.credits.locked, lowered.credits.available) == (300, 400, 0)
    assert lowered.points.available == 0
    answer = engine.validate("CARD", session=lock("new"))
    assert (answer.valid, answer.reason, answer.locked_by_others) == (False, "quantity_exceeded", False)
    assert (answer.available.quantity, answer.available.credits, answer.available.points) == (0, 0, 0)
    with pytest.raises(QuantityExceeded):
        engine.redeem("CARD", session="cart")
    engine.put_voucher(Voucher(code="CARD", quantity=2, credits=500, points=10))
    with pytest.raises(GiftAmountExceeded) as refused:
        engine.redeem("CARD", session="cart")
    assert (refused.value.requested, refused.value.available) == (400, 200)
    assert engine.redeem("CARD", credits=200, points=0, session="cart").credits == 200


def test_13_an_amount_of_zero_is_never_the_reason(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="CARD", credits=1000, points=1000))
    engine.redeem("CARD", credits=1000, points=1000)
    engine.put_voucher(Voucher(code="CARD", credits=10, points=10))
    assert engine.validate("CARD", credits=0, points=0, session=lock("cart")).valid
    assert engine.redeem("CARD", session="cart").quantity == 1


def test_13_quantity_none_is_without_limit_and_zero_is_never(engine: VoucherSessions) -> None:
    state = engine.put_voucher(Voucher(code="CARD", quantity=None))
    assert (state.quantity.limit, state.quantity.available) == (None, None)
    engine.redeem("CARD")
    engine.put_voucher(Voucher(code="CARD", quantity=0))
    assert engine.validate("CARD").reason == "quantity_exceeded"
    with pytest.raises(QuantityExceeded):
        engine.redeem("CARD")


def test_13_put_keeps_locks_and_used_amounts_unless_used_is_given(gift: VoucherSessions) -> None:
    gift.redeem("GIFT", credits=700, points=7)
    gift.validate("GIFT", credits=1200, session=lock("cart"))
    gift.put_voucher(Voucher(code="GIFT", quantity=100, credits=6000, points=300))
    assert figures(gift, "GIFT")["quantity"] == (100, 1, 1, 98)
    assert figures(gift, "GIFT")["credits"] == (6000, 700, 1200, 4100)
    gift.put_voucher(Voucher(code="GIFT", quantity=100, credits=6000), used=Used(quantity=40, credits=900, points=3))
    assert figures(gift, "GIFT") == {
        "quantity": (100, 40, 1, 59),
        "credits": (6000, 900, 1200, 3900),
        "points": (0, 3, 0, 0),
    }
    assert gift.redeem("GIFT", session="cart").credits == 1200


# 15. Numbers and codes


def test_15_numbers_are_exact_to_two_to_the_53(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="CARD", quantity=BIGGEST, credits=BIGGEST, points=BIGGEST))
    session = engine.validate("CARD", credits=BIGGEST - 1, points=BIGGEST, session=lock("cart")).session
    assert session is not None
    assert (session.credits, session.points) == (BIGGEST - 1, BIGGEST)
    assert engine.list_sessions("CARD")[0].credits == BIGGEST - 1
    assert engine.validate("CARD", credits=1).valid
    assert not engine.validate("CARD", credits=2).valid
    done = engine.redeem("CARD", session="cart", redemption_id="order")
    assert (done.credits, done.points) == (BIGGEST - 1, BIGGEST)
    assert figures(engine, "CARD") == {
        "quantity": (BIGGEST, 1, 0, BIGGEST - 1),
        "credits": (BIGGEST, BIGGEST - 1, 0, 1),
        "points": (BIGGEST, BIGGEST, 0, 0),
    }
    assert engine.rollback("CARD", "order").credits == BIGGEST - 1


def test_15_a_voucher_without_limit_ends_at_2_to_the_53(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="CARD"), used=Used(quantity=BIGGEST - 1))
    engine.redeem("CARD")
    assert engine.validate("CARD").reason == "quantity_exceeded"
    with pytest.raises(QuantityExceeded) as refused:
        engine.redeem("CARD")
    assert refused.value.available == 0


HOSTILE_CODES = [
    "A",
    "a",
    "A:locks",
    "A:session:k",
    "A:redemption:order",
    "A}:session:k",
    "{A}",
    "A}",
    "{A",
    "%7BA%7D",
    "A%",
    "*",
    "?",
    "A B",
    "A\nB",
    "A\0B",
    "🎁",
    "ä" * 256,
]


def test_15_no_code_reaches_another_vouchers_keys(engine: VoucherSessions, backend: Backend) -> None:
    for code in HOSTILE_CODES:
        engine.put_voucher(Voucher(code=code, credits=1000))
    for at, code in enumerate(HOSTILE_CODES):
        for key in ("k", "k}", "x:locks", "}:redemption:order"):
            assert engine.validate(code, credits=at, session=lock(key)).valid
            assert engine.redeem(code, session=key, redemption_id=key).credits == at
        assert engine.validate(code, credits=at + 1, session=lock("k")).valid
    for at, code in enumerate(HOSTILE_CODES):
        assert figures(engine, code)["credits"] == (1000, 4 * at, at + 1, 1000 - 4 * at - at - 1)
        assert [(session.key, session.credits) for session in engine.list_sessions(code)] == [("k", at + 1)]
    # The book, a live session and three that have ended; four receipts.
    assert len(backend.keys()) == len(HOSTILE_CODES) * (5 + 4)


# 16. Deleted is deleted


def test_16_a_voucher_put_again_starts_with_nothing(gift: VoucherSessions, backend: Backend) -> None:
    gift.redeem("GIFT", credits=700, redemption_id="order")
    for at in range(3):
        gift.validate("GIFT", credits=100, session=lock(f"cart{at}"))
    assert gift.delete_voucher("GIFT") is True
    assert gift.delete_voucher("GIFT") is False
    assert gift.validate("GIFT").reason == "not_found"
    assert gift.release("GIFT", "cart0").released is False
    gift.put_voucher(Voucher(code="GIFT", credits=5000))
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 0, 5000)
    assert gift.list_sessions("GIFT") == []
    assert gift.release("GIFT", "cart0").released is False
    with pytest.raises(SessionNotFound):
        gift.redeem("GIFT", session="cart1")
    assert gift.validate("GIFT", credits=5000, session=lock("cart2")).valid
    assert figures(gift, "GIFT")["credits"] == (5000, 0, 5000, 0)
    assert gift.get_redemption("GIFT", "order").credits == 700


def test_16_a_foreign_index_is_not_taken_over(engine: VoucherSessions, backend: Backend) -> None:
    backend.admin.zadd("vs:{CARD}:locks", {"1 0 ghost": backend.clock.now_ms() + 60_000})
    engine.put_voucher(Voucher(code="CARD", quantity=1, credits=10))
    assert engine.list_sessions("CARD") == []
    assert set(backend.keys()) == {b"vs:{CARD}"}


# list_sessions


def test_list_sessions_soonest_to_expire_first(gift: VoucherSessions, clock: Clock) -> None:
    for key, ttl_ms in (("c", 30_000), ("a", 10_000), ("b", 20_000), ("gone", 5)):
        gift.validate("GIFT", credits=len(key), session=lock(key, ttl_ms))
    clock.advance(6)
    sessions = gift.list_sessions("GIFT")
    assert [session.key for session in sessions] == ["a", "b", "c"]
    assert [session.key for session in gift.list_sessions("GIFT", limit=2)] == ["a", "b"]
    assert 9_000 < sessions[0].remaining_ms <= 10_000
    assert abs(sessions[0].expires_at - datetime.fromtimestamp(clock.now_ms() / 1000, UTC)) < timedelta(seconds=11)
    assert sessions[0].model_dump(mode="json")["ttl"] is None


def test_prefixes_are_isolated_from_each_other(make_engine: Callable[..., VoucherSessions], backend: Backend) -> None:
    one, other = make_engine(prefix="one"), make_engine(prefix="two")
    one.put_voucher(Voucher(code="A", quantity=1))
    with pytest.raises(VoucherNotFound):
        other.get_voucher("A")
    assert set(backend.keys()) == {b"one:{A}"}


def test_calls_work_after_script_flush(gift: VoucherSessions, backend: Backend) -> None:
    backend.admin.script_flush()
    assert gift.validate("GIFT", credits=5, session=lock("cart")).valid
    backend.admin.script_flush()
    assert gift.redeem("GIFT", session="cart").credits == 5


@pytest.mark.parametrize("bad", ["", " ", "{x}", "a}", 5, None, "x" * 257])
def test_a_prefix_must_be_a_plain_text(make_engine: Callable[..., VoucherSessions], bad: Any) -> None:
    with pytest.raises(InvalidRequest, match="prefix"):
        make_engine(prefix=bad)

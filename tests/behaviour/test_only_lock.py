"""A voucher's only lock is stored in the voucher's own key, without an index: no result depends on that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import fakeredis
import pytest
import time_machine
from conftest import Backend, Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model import LINGER_MS, edit_book, read_book, stored_locks, written_book

from behaviour.test_same_results_on_every_server import CALLS
from behaviour.test_semantics import KEYS, figures, lock
from voucher_sessions import CorruptState, SessionNotFound, Voucher, VoucherSessions, VoucherSessionsError
from voucher_sessions._core.keys import Keys

BOOK = "vs:{GIFT}"
INDEX = f"{BOOK}:locks"


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    engine.put_voucher(Voucher(code="GIFT", quantity=3, credits=1000, points=100))
    return engine


def lock_in_book(backend: Backend) -> str:
    return read_book(backend.admin.get(BOOK))[1]


def move_lock_to_index(admin: Any) -> None:
    """Put each where it would be, had there been another beside it."""
    for code in ("A", "B", "ü }{ %"):
        (book, *_) = Keys("vs").voucher(code)
        stored = admin.get(book)
        fields, key = read_book(stored) if stored else ([], "")
        if key:
            admin.zadd(book + b":locks", {f"{fields[9]} {fields[10]} {key}": fields[12]})
            admin.pexpireat(book + b":locks", fields[12] + LINGER_MS)
            admin.set(book, written_book(fields))


STEPS = st.lists(st.tuples(CALLS, st.sampled_from([0, 1, 3, 1_800_000])), min_size=5, max_size=40)
# Vouchers that are there and locks that meet: of calls at random, few get as far.
BEGIN: list[Any] = [
    (("put_voucher", (Voucher(code=code, quantity=2, credits=9, points=9),), {}), 0) for code in ("A", "B")
]


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_results_do_not_depend_on_where_the_only_lock_is_stored(steps: list[Any]) -> None:
    """Nor to the millisecond: both ways live through the same time."""

    def results(after: Callable[[Any], object]) -> list[Any]:
        admin = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        engine = VoucherSessions(admin)
        results: list[Any] = []
        with time_machine.travel(datetime(2026, 11, 21, tzinfo=UTC), tick=False) as clock:
            for (verb, positional, named), ms in BEGIN + steps:
                try:
                    results.append(getattr(engine, verb)(*positional, **named))
                except VoucherSessionsError as error:
                    results.append((type(error), error.__dict__))
                after(admin)
                clock.shift(ms / 1000)
        return results

    alone = results(lambda admin: None)
    indexed = results(move_lock_to_index)
    assert alone == indexed


def test_the_only_lock_has_no_index_until_a_second_lock(gift: VoucherSessions, backend: Backend) -> None:
    gift.validate("GIFT", credits=10, points=1, session=lock("a", 60_000))
    assert (lock_in_book(backend), backend.admin.exists(INDEX)) == ("a", 0)
    gift.validate("GIFT", credits=20, points=2, session=lock("a", 70_000))
    assert (lock_in_book(backend), backend.admin.exists(INDEX)) == ("a", 0)
    gift.validate("GIFT", credits=30, points=3, session=lock("b", 50_000))
    assert (lock_in_book(backend), backend.admin.zcard(INDEX)) == ("", 2)
    assert {(key, *amounts) for key, *amounts, _ in stored_locks(backend.admin, "GIFT")} == {
        ("a", 20, 2),
        ("b", 30, 3),
    }
    assert 60_000 < backend.admin.pttl(INDEX) - LINGER_MS <= 70_000, "as long as the lock that was there first"
    gift.release("GIFT", "b")
    assert (lock_in_book(backend), backend.admin.zcard(INDEX)) == ("", 1), "it stays where it is"
    gift.release("GIFT", "a")
    gift.validate("GIFT", session=lock("c"))
    assert (lock_in_book(backend), backend.admin.exists(INDEX)) == ("c", 0)


@pytest.mark.parametrize("key", KEYS)
def test_the_vouchers_key_can_store_any_session_key(gift: VoucherSessions, backend: Backend, key: str) -> None:
    assert gift.validate("GIFT", credits=10, session=lock(key)).valid
    assert lock_in_book(backend) == key
    gift.put_voucher(Voucher(code="GIFT", quantity=3, credits=900))
    assert [(each.key, each.credits) for each in gift.list_sessions("GIFT")] == [(key, 10)]
    assert gift.validate("GIFT", credits=20, session=lock("beside")).valid
    assert {each.key for each in gift.list_sessions("GIFT")} == {key, "beside"}
    assert gift.redeem("GIFT", session=key).credits == 10


def test_the_only_lock_expires(gift: VoucherSessions, backend: Backend, clock: Clock) -> None:
    gift.validate("GIFT", credits=1000, session=lock("a", 20))
    clock.advance(21)
    assert gift.list_sessions("GIFT") == []
    assert gift.validate("GIFT", credits=1000, session=lock("b")).valid
    assert (lock_in_book(backend), figures(gift, "GIFT")["credits"]) == ("b", (1000, 0, 1000, 0))


@pytest.mark.parametrize("beside", [(), ("a",), ("a", "b")])
def test_a_foreign_value_at_the_session_key_leaves_other_locks_unchanged(
    gift: VoucherSessions, backend: Backend, beside: tuple[str, ...]
) -> None:
    for key in beside:
        gift.validate("GIFT", credits=10, session=lock(key))
    backend.admin.rpush(f"{BOOK}:session:new", "someone else's")
    backend.admin.pexpire(f"{BOOK}:session:new", 60_000)
    before = backend.contents()
    with pytest.raises(CorruptState):
        gift.validate("GIFT", credits=5, session=lock("new"))
    assert backend.contents() == before


# --- Keys changed by others ----------------------------------------------------------------------------------------


def test_an_audit_of_the_only_lock_finds_no_difference(gift: VoucherSessions, backend: Backend) -> None:
    gift.validate("GIFT", credits=10, points=1, session=lock("a"))
    before = backend.contents()
    for audit in (gift.audit("GIFT"), gift.repair("GIFT")):
        assert (audit.differs, audit.exact, audit.expiries_agree) == (False, True, True)
        assert (audit.counted.quantity, audit.counted.credits, audit.counted.points) == (1, 10, 1)
    assert backend.contents() == before


@pytest.mark.parametrize("quantity", [0, 2, 90])
def test_repair_corrects_the_quantity_locked_by_the_only_lock(
    gift: VoucherSessions, backend: Backend, quantity: int
) -> None:
    gift.validate("GIFT", credits=10, points=1, session=lock("a"))
    edit_book(backend.admin, "GIFT", 8, quantity)
    audit = gift.repair("GIFT")
    assert (audit.differs, audit.recorded.quantity, audit.counted.quantity) == (True, quantity, 1)
    assert gift.audit("GIFT").differs is False
    assert figures(gift, "GIFT")["credits"] == (1000, 0, 10, 990)
    assert gift.release("GIFT", "a").released
    assert figures(gift, "GIFT")["credits"] == (1000, 0, 0, 1000)


def test_repair_corrects_the_expiry_time_of_the_only_lock(
    gift: VoucherSessions, backend: Backend, clock: Clock
) -> None:
    gift.validate("GIFT", credits=10, session=lock("a", 60_000))
    edit_book(backend.admin, "GIFT", 11, clock.now_ms() + 90_000)
    assert gift.audit("GIFT").expiries_agree is False
    assert gift.repair("GIFT").differs
    assert gift.audit("GIFT").differs is False
    fields, _ = read_book(backend.admin.get(BOOK))
    assert fields[11] == fields[12] < clock.now_ms() + 60_001


def test_an_unexpected_index_beside_the_only_lock_is_counted_and_repaired(
    gift: VoucherSessions, backend: Backend, clock: Clock
) -> None:
    gift.validate("GIFT", credits=10, session=lock("a", 300))
    backend.admin.zadd(INDEX, {"5 0 ghost": clock.now_ms() + 60_000})
    assert (gift.audit("GIFT").recorded.quantity, gift.audit("GIFT").counted.credits) == (1, 15)
    assert gift.validate("GIFT", credits=1000).locked_by_others
    clock.advance(301)
    assert gift.validate("GIFT", credits=1000).valid, "it expires in its time, whatever stands in an index"


def test_an_audit_in_many_parts_counts_the_only_lock_once(
    gift: VoucherSessions, backend: Backend, clock: Clock
) -> None:
    gift.validate("GIFT", credits=10, session=lock("a", 60_000))
    backend.admin.zadd(INDEX, {f"1 0 ghost{at}": clock.now_ms() + 50_000 for at in range(600)})
    for ask in (gift.audit, gift.repair):
        counted = ask("GIFT").counted
        assert (counted.quantity, counted.credits) == (601, 610)
    assert gift.audit("GIFT").differs is False


def test_a_repair_moves_the_only_lock_into_the_index(gift: VoucherSessions, backend: Backend, clock: Clock) -> None:
    gift.validate("GIFT", credits=10, session=lock("a", 60_000))
    backend.admin.zadd(INDEX, {"5 0 ghost": clock.now_ms() + 50_000})
    assert gift.repair("GIFT").differs
    assert (lock_in_book(backend), gift.audit("GIFT").differs) == ("", False)
    assert {each.key for each in gift.list_sessions("GIFT")} == {"a", "ghost"}
    assert 50_000 < backend.admin.pttl(INDEX) - LINGER_MS <= 60_000


def test_the_only_lock_without_its_session_key_is_still_its_sessions(gift: VoucherSessions, backend: Backend) -> None:
    """The server's clock was ahead for a while and dropped the key: the voucher's own key still has the lock."""

    def lose_the_key() -> None:
        assert backend.admin.delete(f"{BOOK}:session:a")

    gift.validate("GIFT", credits=10, points=1, session=lock("a"))
    lose_the_key()
    assert figures(gift, "GIFT")["credits"] == (1000, 0, 10, 990)
    with pytest.raises(SessionNotFound):
        gift.redeem("GIFT", session="b")
    assert gift.validate("GIFT", credits=1000, session=lock("b")).locked_by_others
    refused = gift.validate("GIFT", credits=1001, session=lock("a")).session
    assert refused is not None
    assert (refused.credits, refused.points) == (10, 1)
    assert gift.validate("GIFT", credits=7, session=lock("a")).valid
    assert (lock_in_book(backend), figures(gift, "GIFT")["credits"]) == ("a", (1000, 0, 7, 993))
    lose_the_key()
    assert gift.release("GIFT", "a").released
    assert figures(gift, "GIFT")["credits"] == (1000, 0, 0, 1000)
    assert gift.validate("GIFT", credits=1000, session=lock("a")).valid
    lose_the_key()
    assert gift.redeem("GIFT", session="a").credits == 1000
    assert figures(gift, "GIFT")["credits"] == (1000, 1000, 0, 0)

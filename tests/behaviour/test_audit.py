"""``audit`` and ``repair``: what they report and correct when stored totals are wrong, and what works before."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Backend, Clock
from support.model import LINGER_MS, edit_book, read_book
from support.sessions import lock

from behaviour.test_semantics import plant_expired_locks
from voucher_sessions import (
    Audit,
    CorruptState,
    InvalidRequest,
    SessionNotFound,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)
from voucher_sessions._core import audit as audit_calls
from voucher_sessions._core import scripts
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys

BOOK = "vs:{GIFT}"


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    engine.put_voucher(Voucher(code="GIFT", quantity=4, credits=1000, points=100))
    for key, credits in (("a", 100), ("b", 200), ("c", 300)):
        assert engine.validate("GIFT", credits=credits, points=1, session=lock(key)).valid
    return engine


def figures(audit: Audit) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    recorded, counted = audit.recorded, audit.counted
    return (
        (recorded.quantity, recorded.credits, recorded.points),
        (counted.quantity, counted.credits, counted.points),
    )


RIGHT = (3, 600, 3)


def test_an_audit_without_differences(gift: VoucherSessions, backend: Backend) -> None:
    before = backend.contents()
    for audit in (gift.audit("GIFT"), gift.repair("GIFT")):
        assert figures(audit) == (RIGHT, RIGHT)
        assert (audit.code, audit.differs, audit.exact, audit.expiries_agree) == ("GIFT", False, True, True)
        assert audit.model_dump(mode="json")["differs"] is False
    assert backend.contents() == before


def test_an_audit_ignores_expired_locks(gift: VoucherSessions, clock: Clock) -> None:
    gift.validate("GIFT", credits=5, session=lock("short", 20))
    clock.advance(21)
    assert figures(gift.audit("GIFT")) == (RIGHT, RIGHT)


def test_repair_corrects_totals_that_were_edited(gift: VoucherSessions, backend: Backend) -> None:
    edit_book(backend.admin, "GIFT", 9, 750)  # credits locked
    audit = gift.audit("GIFT")
    assert (audit.differs, figures(audit)) == (True, ((3, 750, 3), RIGHT))
    assert gift.repair("GIFT") == audit
    assert gift.audit("GIFT").differs is False
    assert gift.get_voucher("GIFT").credits.available == 400


@pytest.mark.parametrize(("at", "value"), [(11, 9_999_999_999_999), (12, 9_999_999)])
def test_repair_corrects_expiry_times_that_were_edited(
    gift: VoucherSessions, backend: Backend, at: int, value: int
) -> None:
    if at == 12:
        edit_book(backend.admin, "GIFT", 11, backend.clock.now_ms() + 50_000)
        value = backend.clock.now_ms() + 50_000
    edit_book(backend.admin, "GIFT", at, value)
    audit = gift.repair("GIFT")
    assert (audit.differs, audit.expiries_agree) == (True, False)
    assert gift.audit("GIFT").differs is False
    assert 50_000 < backend.keys()[b"vs:{GIFT}:locks"] - LINGER_MS <= 60_000


@pytest.mark.parametrize(("at", "off"), [(11, 1), (12, -1)])
def test_an_audit_finds_expiry_times_that_are_wrong_by_a_millisecond(
    gift: VoucherSessions, backend: Backend, at: int, off: int
) -> None:
    """Of several locks it is the very first and the very last that count."""
    gift.put_voucher(Voucher(code="GIFT", quantity=5, credits=1000, points=100))
    for key, ttl_ms in (("sooner", 50_000), ("later", 70_000)):
        assert gift.validate("GIFT", credits=5, session=lock(key, ttl_ms)).valid
    end = 0 if at == 11 else -1
    found: Any = backend.admin.zrange(f"{BOOK}:locks", end, end, withscores=True)
    ((_, expires_at_ms),) = found
    edit_book(backend.admin, "GIFT", at, int(expires_at_ms) + off)
    assert gift.audit("GIFT").expiries_agree is False
    edit_book(
        backend.admin, "GIFT", at, int(expires_at_ms) - off
    )  # sooner than the first and later than the last is allowed
    assert gift.audit("GIFT").expiries_agree


def test_repair_gives_an_index_without_ttl_its_ttl(gift: VoucherSessions, backend: Backend) -> None:
    backend.admin.persist(f"{BOOK}:locks")
    edit_book(backend.admin, "GIFT", 11, 9_999_999_999_999)
    assert gift.repair("GIFT").differs
    assert 50_000 < backend.keys()[b"vs:{GIFT}:locks"] - LINGER_MS <= 60_000


def test_a_repair_with_outdated_counts_changes_nothing(gift: VoucherSessions, backend: Backend) -> None:
    """Else a repair would undo what happened between the two."""
    counted: Any = backend.admin.get(BOOK)
    gift.redeem("GIFT", session="a")
    before = backend.contents()
    stale = [counted, 3, 600, 3]
    assert backend.admin.eval(scripts.REPAIR.text, 2, BOOK, f"{BOOK}:locks", "id", *stale) == [b"id", b"repaired", 0]
    assert backend.contents() == before


def test_a_repair_writes_what_was_counted_and_the_times_of_the_index(gift: VoucherSessions, backend: Backend) -> None:
    gift.validate("GIFT", credits=1, session=lock("later", 70_000))
    index: Any = backend.admin.zrange(f"{BOOK}:locks", 0, -1, withscores=True)
    edit_book(backend.admin, "GIFT", 11, 5)
    edit_book(backend.admin, "GIFT", 12, 9_999_999_999_999)
    counted: Any = backend.admin.get(BOOK)
    found: Any = backend.admin.eval(scripts.REPAIR.text, 2, BOOK, f"{BOOK}:locks", "id", *[counted, 7, 8, 9])
    assert found == [b"id", b"repaired", 1]
    book, _ = read_book(backend.admin.get(BOOK))
    assert book[8:13] == [7, 8, 9, index[0][1], index[-1][1]]


def test_locks_of_a_deleted_index_count_until_the_repair(gift: VoucherSessions, backend: Backend) -> None:
    """What was held stays held; afterwards its sessions can still redeem what the limits allow, and never more."""
    backend.admin.delete(f"{BOOK}:locks")
    refused = gift.validate("GIFT", credits=500)
    assert (refused.valid, refused.locked_by_others) == (False, True)
    assert gift.redeem("GIFT", session="a").credits == 100
    assert gift.validate("GIFT", credits=300, session=lock("b")).valid
    found = gift.repair("GIFT")
    assert found.differs
    assert figures(found)[1] == (1, 300, 0), "b alone has come back"
    assert gift.audit("GIFT").differs is False
    assert gift.redeem("GIFT", session="c").credits == 300
    assert gift.redeem("GIFT", session="b").credits == 300
    state = gift.get_voucher("GIFT")
    assert (state.quantity.used, state.quantity.locked) == (3, 0)
    assert (state.credits.used, state.credits.locked) == (700, 0)


def test_totals_that_are_too_low_never_lead_to_more_than_the_limit(gift: VoucherSessions, backend: Backend) -> None:
    for at in (8, 9, 10):
        edit_book(backend.admin, "GIFT", at, 0)
    answer = gift.validate("GIFT", credits=1000, session=lock("a"))
    assert (answer.available.quantity, answer.available.credits, answer.available.points) == (4, 1000, 100)
    assert gift.redeem("GIFT", session="a").credits == 1000
    state = gift.get_voucher("GIFT")
    assert (state.credits.used, state.credits.available) == (1000, 0)
    for balance in (state.quantity, state.credits, state.points):
        assert min(balance.used, balance.locked) >= 0
    gift.repair("GIFT")
    assert figures(gift.audit("GIFT")) == ((2, 500, 2), (2, 500, 2))


def test_the_amounts_of_a_deleted_session_key_stay_locked_until_expiry_or_a_new_call(
    gift: VoucherSessions, backend: Backend
) -> None:
    backend.admin.delete(f"{BOOK}:session:a")
    with pytest.raises(SessionNotFound):
        gift.redeem("GIFT", session="a")
    assert gift.get_voucher("GIFT").credits.locked == 600
    assert gift.validate("GIFT", credits=100, points=1, session=lock("a")).valid, "the same lock, set again"
    assert gift.get_voucher("GIFT").credits.locked == 600
    assert gift.audit("GIFT").differs is False


def test_a_foreign_value_at_the_session_key_is_not_overwritten(gift: VoucherSessions, backend: Backend) -> None:
    backend.admin.rpush(f"{BOOK}:session:new", "someone else's")
    backend.admin.pexpire(f"{BOOK}:session:new", 60_000)
    before = backend.contents()
    with pytest.raises(CorruptState):
        gift.validate("GIFT", credits=5, session=lock("new", 50_000))
    assert backend.contents() == before


def test_a_foreign_index_member_is_corrupt_state(gift: VoucherSessions, backend: Backend) -> None:
    backend.admin.zadd(f"{BOOK}:locks", {"nonsense": backend.clock.now_ms() + 50_000})
    for ask in (gift.audit, gift.repair):
        with pytest.raises(CorruptState):
            ask("GIFT")


def test_auditing_an_unknown_voucher_raises(engine: VoucherSessions) -> None:
    for ask in (engine.audit, engine.repair):
        with pytest.raises(VoucherNotFound):
            ask("NOBODY")
        with pytest.raises(InvalidRequest):
            ask("")


def test_many_locks_are_counted_in_parts(gift: VoucherSessions, backend: Backend, clock: Clock) -> None:
    many = {f"1 2 many{at}": clock.now_ms() + 50_000 for at in range(1100)}
    backend.admin.zadd(f"{BOOK}:locks", many)
    audit = gift.repair("GIFT")
    assert figures(audit) == (RIGHT, (1103, 1700, 2203))
    assert gift.audit("GIFT").differs is False


def test_an_audit_first_removes_expired_locks(gift: VoucherSessions, backend: Backend) -> None:
    plant_expired_locks(backend, "GIFT", 1201)
    assert figures(gift.audit("GIFT")) == (RIGHT, RIGHT)


def steps(*replies: list[Any]) -> tuple[Audit, list[str]]:
    """What repair makes of these replies, and what it called."""
    called: list[str] = []
    answers = iter(replies)
    following = audit_calls.repair(Keys("vs"), "GIFT")
    call: Call[Any] = next(following)
    try:
        while True:
            called.append(call.script.name)
            call = following.send(call.result([call.id.encode(), *next(answers)]))
    except StopIteration as end:
        return end.value, called


def counted(book: bytes, recorded: int, found: int, following: int = -1) -> list[Any]:
    return [b"counted", book, recorded, 0, 0, found, 0, 0, 1, following]


def test_counting_starts_again_when_the_voucher_changes() -> None:
    audit, called = steps(
        counted(b"1", 7, 500, 500), counted(b"2", 7, 3), counted(b"3", 503, 500, 500), counted(b"3", 503, 3)
    )
    assert (audit.differs, called) == (False, ["audit"] * 4)


def test_a_voucher_that_always_changes_is_not_repaired() -> None:
    busy = [counted(b"%d" % at, 7, 500, 500 if at % 2 else -1) for at in range(1, 41)]
    audit, called = steps(*busy)
    assert (audit.exact, set(called)) == (False, {"audit"})


def test_a_repair_starts_again_when_the_voucher_changed_after_the_count() -> None:
    audit, called = steps(counted(b"1", 7, 6), [b"repaired", 0], counted(b"2", 8, 7), [b"repaired", 1])
    assert (audit.recorded.quantity, audit.counted.quantity, called) == (8, 7, ["audit", "repair"] * 2)
    audit, _ = steps(counted(b"1", 7, 6), [b"repaired", 0], counted(b"2", 6, 6))
    assert (audit.recorded.quantity, audit.counted.quantity) == (7, 6), "its own repair, whose reply was lost"


def test_a_repair_gives_up_when_the_voucher_always_changes() -> None:
    audit, called = steps(*[counted(b"1", 7, 6), [b"repaired", 0]] * 20)
    assert (audit.exact, len(called)) == (False, 40)


def test_an_audit_reply_without_a_voucher_is_corrupt_state() -> None:
    with pytest.raises(CorruptState):
        steps([b"counted", 5, 0, 0, 0, 0, 0, 0, 1, -1])

"""DESIGN.md 3.22: ``import_redemptions`` writes receipts of redemptions that were made elsewhere or were lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from behaviour.test_semantics import figures, lock
from conftest import Backend, Clock

from bulk.odd_texts import ODD_TEXTS
from voucher_sessions import (
    CorruptState,
    InvalidRequest,
    RedemptionConflict,
    RedemptionNotFound,
    RedemptionRolledBack,
    RollbackExceeded,
    UnknownFormat,
    Used,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)
from voucher_sessions.bulk import BulkReport, import_redemptions, reconcile

import_any: Any = import_redemptions  # takes what type checkers refuse

AT = datetime(2025, 3, 1, 12, 30, 15, 678000, tzinfo=UTC)


def row(id: Any = "order", code: str = "GIFT", credits: Any = 30, **fields: Any) -> dict[str, Any]:
    return {"code": code, "id": id, "credits": credits, "points": 0, **fields}


def report(new: int = 0, known: int = 0) -> BulkReport:
    return BulkReport(new=new, known=known, conflicting=[], bad=[])


@pytest.fixture
def gift(engine: VoucherSessions) -> VoucherSessions:
    """An engine with a gift card of 1,000 credits and 50 points, of which nothing is used."""
    engine.put_voucher(Voucher(code="GIFT", quantity=90, credits=1000, points=50))
    return engine


# Time


@pytest.mark.parametrize(
    "time",
    [
        AT,
        AT.astimezone(timezone(timedelta(hours=5, minutes=30))),
        "2025-03-01T12:30:15.678Z",
        "2025-03-01 13:30:15.678+01:00",
    ],
)
def test_a_receipt_has_its_own_time(gift: VoucherSessions, time: object) -> None:
    assert import_redemptions(gift, [row(redeemed_at=time)], count=True) == report(new=1)
    assert gift.get_redemption("GIFT", "order").redeemed_at == AT


def test_without_a_time_it_is_the_servers(gift: VoucherSessions, clock: Clock) -> None:
    before = clock.now()
    import_redemptions(gift, [row(), row("other", redeemed_at=None)], count=True)
    for id_ in ("order", "other"):
        assert before <= gift.get_redemption("GIFT", id_).redeemed_at <= clock.now()


@pytest.mark.parametrize("time", [datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
def test_the_first_and_the_last_time(gift: VoucherSessions, time: datetime) -> None:
    import_redemptions(gift, [row(redeemed_at=time)], count=True)
    assert gift.get_redemption("GIFT", "order").redeemed_at == time


# What is used


@pytest.mark.parametrize(("count", "expected"), [(True, (1000, 30, 0, 970)), (False, (1000, 0, 0, 1000))])
def test_count_adds_to_what_is_used(gift: VoucherSessions, count: bool, expected: tuple[int, ...]) -> None:
    assert import_redemptions(gift, [row(points=5)], count=count) == report(new=1)
    assert figures(gift, "GIFT")["credits"] == expected
    assert figures(gift, "GIFT")["points"] == ((50, 5, 0, 45) if count else (50, 0, 0, 50))
    assert figures(gift, "GIFT")["quantity"] == ((90, 1, 0, 89) if count else (90, 0, 0, 90))
    receipt = gift.get_redemption("GIFT", "order")
    assert (receipt.quantity, receipt.credits, receipt.points) == (1, 30, 5)


@pytest.mark.parametrize("again", [True, False])
def test_run_again_it_counts_nothing_twice(gift: VoucherSessions, backend: Backend, again: bool) -> None:
    rows = [row(str(at), credits=1) for at in range(15)]
    assert import_redemptions(gift, rows[:10], count=True) == report(new=10)
    assert import_redemptions(gift, rows, count=True) == report(new=5, known=10)
    before = backend.contents()
    assert import_redemptions(gift, rows, count=again) == report(known=15)
    assert backend.contents() == before
    assert figures(gift, "GIFT")["credits"] == (1000, 15, 0, 985)


def test_the_same_row_twice(gift: VoucherSessions) -> None:
    assert import_redemptions(gift, [row()] * 9, count=True) == report(new=1, known=8)
    assert figures(gift, "GIFT")["credits"] == (1000, 30, 0, 970)


def test_a_redemption_that_is_there_is_known(gift: VoucherSessions, backend: Backend) -> None:
    redeemed = gift.redeem("GIFT", credits=30, redemption_id="order")
    before = backend.contents()
    assert import_redemptions(gift, [redeemed, row()], count=True) == report(known=2)
    assert backend.contents() == before


def test_used_may_go_beyond_the_limit(gift: VoucherSessions) -> None:
    import_redemptions(gift, [row(credits=900), row("other", credits=900)], count=True)
    assert figures(gift, "GIFT")["credits"] == (1000, 1800, 0, 0)


def test_used_stays_a_number_that_is_exact(engine: VoucherSessions, backend: Backend) -> None:
    most = 2**53 - 1
    engine.put_voucher(Voucher(code="GIFT", credits=most), used=Used(credits=most - 10, quantity=most - 1))
    engine.put_voucher(Voucher(code="SPENT"), used=Used(quantity=most))
    before = backend.contents()
    for bad in (row(credits=11), row(credits=most), row(code="SPENT", credits=0)):
        with pytest.raises(InvalidRequest) as refused:
            import_redemptions(engine, [bad], count=True)
        assert refused.value.field.startswith("rows.0.")
    assert backend.contents() == before
    assert import_redemptions(engine, [row(credits=10)], count=True) == report(new=1)
    assert figures(engine, "GIFT")["credits"] == (most, most, 0, 0)


# What was rolled back


def test_a_row_that_was_rolled_back_counts_nothing(gift: VoucherSessions, backend: Backend) -> None:
    before = figures(gift, "GIFT")
    import_redemptions(gift, [row(rolled_back=True), row("b", rolled_back=True, credits_rolled_back=10)], count=True)
    assert figures(gift, "GIFT") == before
    for id_ in ("order", "b"):
        receipt = gift.get_redemption("GIFT", id_)
        assert (receipt.rolled_back, receipt.credits_rolled_back) == (True, 30)
        assert gift.rollback("GIFT", id_).replayed
        with pytest.raises(RedemptionRolledBack):
            gift.redeem("GIFT", credits=30, redemption_id=id_)
    assert figures(gift, "GIFT") == before


def test_a_row_that_was_partly_rolled_back_counts_the_rest(gift: VoucherSessions) -> None:
    rows = [row(points=5, credits_rolled_back=10, points_rolled_back=5)]
    assert import_redemptions(gift, rows, count=True) == report(new=1)
    assert figures(gift, "GIFT")["credits"] == (1000, 20, 0, 980)
    assert figures(gift, "GIFT")["points"] == (50, 0, 0, 50)
    receipt = gift.get_redemption("GIFT", "order")
    assert (receipt.rolled_back, receipt.credits_rolled_back, receipt.points_rolled_back) == (False, 10, 5)
    with pytest.raises(RollbackExceeded):
        gift.rollback("GIFT", "order", credits=21)
    assert gift.rollback("GIFT", "order", credits=5, rollback_id="r").credits == 5
    assert gift.rollback("GIFT", "order").credits == 15
    assert figures(gift, "GIFT")["credits"] == (1000, 0, 0, 1000)
    assert figures(gift, "GIFT")["quantity"] == (90, 0, 0, 90)


@pytest.mark.parametrize("count", [True, False])
def test_it_can_be_rolled_back_once(gift: VoucherSessions, count: bool) -> None:
    gift.redeem("GIFT", credits=30, redemption_id="first")
    if not count:
        gift.put_voucher(Voucher(code="GIFT", quantity=90, credits=1000, points=50), used=Used(quantity=2, credits=60))
    import_redemptions(gift, [row()], count=count)
    assert figures(gift, "GIFT")["credits"] == (1000, 60, 0, 940)
    assert not gift.rollback("GIFT", "order").replayed
    assert gift.rollback("GIFT", "order").replayed
    assert figures(gift, "GIFT")["credits"] == (1000, 30, 0, 970)
    assert figures(gift, "GIFT")["quantity"] == (90, 1, 0, 89)


# Sessions


@pytest.mark.parametrize("others", [0, 1, 3], ids=["the only lock", "of two", "of four"])
def test_a_row_with_its_session_key_ends_that_lock(gift: VoucherSessions, others: int) -> None:
    gift.validate("GIFT", credits=30, session=lock("cart"))
    for at in range(others):
        gift.validate("GIFT", credits=100, session=lock(f"other-{at}"))
    assert import_redemptions(gift, [row(session_key="cart")], count=True) == report(new=1)
    assert figures(gift, "GIFT")["credits"] == (1000, 30, 100 * others, 970 - 100 * others)
    assert figures(gift, "GIFT")["quantity"] == (90, 1, others, 89 - others)
    assert {each.key for each in gift.list_sessions("GIFT")} == {f"other-{at}" for at in range(others)}
    assert not gift.audit("GIFT").differs
    assert not gift.release("GIFT", "cart").released
    assert gift.get_redemption("GIFT", "order").session_key == "cart"


@pytest.mark.parametrize("ended", [{"rolled_back": True}, {}])
def test_the_lock_ends_whatever_is_counted(gift: VoucherSessions, ended: dict[str, Any]) -> None:
    gift.validate("GIFT", credits=30, session=lock("cart"))
    import_redemptions(gift, [row(session_key="cart", **ended)], count=False)
    assert figures(gift, "GIFT")["credits"] == (1000, 0, 0, 1000)


def test_the_locks_of_other_sessions_and_vouchers_stay(gift: VoucherSessions) -> None:
    gift.put_voucher(Voucher(code="OTHER", credits=100))
    gift.validate_stack([{"code": "GIFT", "credits": 30}, {"code": "OTHER", "credits": 5}], session=lock("cart"))
    import_redemptions(gift, [row(), row("b", session_key="Cart"), row("c", code="OTHER", credits=1)], count=True)
    assert gift.get_session("GIFT", "cart").credits == 30
    assert gift.get_session("OTHER", "cart").credits == 5


def test_a_known_row_ends_no_lock_of_a_later_cart(gift: VoucherSessions) -> None:
    rows = [row(session_key="cart")]
    import_redemptions(gift, rows, count=True)
    gift.validate("GIFT", credits=10, session=lock("cart"))
    assert import_redemptions(gift, rows, count=True) == report(known=1)
    assert gift.get_session("GIFT", "cart").credits == 10


def test_a_new_row_ends_the_lock_even_if_the_cart_has_locked_anew(gift: VoucherSessions) -> None:
    """After the redemption was lost, nothing shows that this lock is a later one."""
    gift.validate("GIFT", credits=10, session=lock("cart"))
    gift.validate("GIFT", credits=40, session=lock("cart"))
    assert import_redemptions(gift, [row(session_key="cart", redeemed_at=AT)], count=True) == report(new=1)
    assert figures(gift, "GIFT")["credits"] == (1000, 30, 0, 970)
    assert not gift.list_sessions("GIFT")


def test_a_lock_that_has_expired_is_no_obstacle(gift: VoucherSessions, clock: Clock) -> None:
    gift.validate("GIFT", credits=30, session=lock("cart", 20))
    gift.validate("GIFT", credits=30, session=lock("other", 20))
    clock.advance(21)
    import_redemptions(gift, [row(session_key="cart")], count=True)
    assert figures(gift, "GIFT")["credits"] == (1000, 30, 0, 970)
    assert not gift.audit("GIFT").differs


# Repetitions


def test_a_repeated_redemption_is_recognised(gift: VoucherSessions) -> None:
    import_redemptions(gift, [row(session_key="cart", redeemed_at=AT)], count=True)
    amounts: Any
    for amounts in ({"credits": 30}, {"credits": 30, "points": 0}, {}):
        again = gift.redeem("GIFT", session="cart", redemption_id="order", **amounts)
        assert (again.replayed, again.credits, again.redeemed_at) == (True, 30, AT)
    for amounts in ({"credits": 31}, {"points": 1}):
        with pytest.raises(RedemptionConflict):
            gift.redeem("GIFT", session="cart", redemption_id="order", **amounts)
    assert figures(gift, "GIFT")["credits"] == (1000, 30, 0, 970)


def test_a_session_that_is_known_is_compared(gift: VoucherSessions) -> None:
    import_redemptions(gift, [row(session_key="cart")], count=True)
    for other in ("another", None):
        with pytest.raises(RedemptionConflict):
            gift.redeem("GIFT", session=other, credits=30, redemption_id="order")


def test_a_session_that_is_not_known_is_not_compared(gift: VoucherSessions) -> None:
    import_redemptions(gift, [row()], count=True)
    for session in (None, "cart", "another"):
        assert gift.redeem("GIFT", session=session, credits=30, redemption_id="order").replayed


@pytest.mark.parametrize("session", [None, "cart"])
def test_a_stack_is_not_compared(gift: VoucherSessions, session: str | None) -> None:
    gift.put_voucher(Voucher(code="OTHER", quantity=9))
    rows = [row(session_key=session), row(code="OTHER", credits=0, session_key=session)]
    import_redemptions(gift, rows, count=True)
    before = figures(gift, "GIFT"), figures(gift, "OTHER")
    stack = gift.redeem_stack([{"code": "GIFT", "credits": 30}, "OTHER"], session=session, redemption_id="order")
    assert stack.replayed
    assert gift.redeem("OTHER", session=session, redemption_id="order").replayed
    with pytest.raises(RedemptionConflict):
        gift.redeem_stack([{"code": "GIFT", "credits": 29}, "OTHER"], session=session, redemption_id="order")
    assert (figures(gift, "GIFT"), figures(gift, "OTHER")) == before
    assert [each.replayed for each in gift.rollback_stack(["GIFT", "OTHER"], "order")] == [False, False]
    assert figures(gift, "OTHER")["quantity"] == (9, 0, 0, 9)


# Rows that differ, and vouchers that are unknown


CONFLICTS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"credits": 31}, "credits"),
    ({"points": 1}, "points"),
    ({"session_key": "another"}, "session_key"),
    ({"session_key": "cart"}, None),
    ({"redeemed_at": AT}, None),
    ({"rolled_back": True}, "rolled_back"),
    ({"rolled_back": False, "credits_rolled_back": 10}, None),
    ({"credits_rolled_back": 9}, "credits_rolled_back"),
    ({"credits": 31, "points": 2}, "credits and points"),
]


def test_a_receipt_that_says_something_else_stays(gift: VoucherSessions, backend: Backend) -> None:
    gift.validate("GIFT", credits=30, session=lock("cart"))
    gift.redeem("GIFT", session="cart", redemption_id="order")
    gift.rollback("GIFT", "order", credits=10)
    before = backend.contents()
    for fields, named in CONFLICTS:
        outcome = import_redemptions(gift, [{**row(), **fields}], count=True)
        assert (outcome.new, outcome.known, outcome.bad) == (0, 0 if named else 1, []), fields
        assert [each.position for each in outcome.conflicting] == ([0] if named else [])
        assert all(each.problem.endswith(f" has another {named}") for each in outcome.conflicting), fields
    assert backend.contents() == before


def test_an_unknown_voucher(gift: VoucherSessions) -> None:
    gift.put_voucher(Voucher(code="DELETED"))
    gift.delete_voucher("DELETED")
    rows = [row("a"), row("b", code="NONE"), row("c"), row("d", code="DELETED")]
    with pytest.raises(VoucherNotFound) as refused:
        import_redemptions(gift, rows, count=True)
    assert refused.value.codes == ("NONE",)
    assert "row 1" in refused.value.__notes__[0]
    outcome = import_redemptions(gift, rows, count=True, on_bad_row="collect")
    assert outcome.new + outcome.known == 2
    assert [
        (each.position, name in each.problem) for each, name in zip(outcome.bad, ("NONE", "DELETED"), strict=True)
    ] == [
        (1, True),
        (3, True),
    ]
    with pytest.raises(RedemptionNotFound):
        gift.get_redemption("NONE", "b")


# Bad rows


BAD_ROWS: list[tuple[object, str]] = [
    *((nonsense, "row") for nonsense in (None, 5, "order", b"order", ("GIFT", "order"), [row()], object(), {1: 2})),
    ({}, "code"),
    ({"code": "GIFT"}, "id"),
    (row(id="x" * 257), "id"),
    (row(id=" "), "id"),
    (row(id=5), "id"),
    (row(code=""), "code"),
    (row(code="x" * 257), "code"),
    (row(credits=-1), "credits"),
    (row(credits=2**53), "credits"),
    (row(credits="30"), "credits"),
    (row(credits=30.0), "credits"),
    (row(credits=True), "credits"),
    (row(points=None), "points"),
    (row(quantity=2), "quantity"),
    (row(session_key=""), "session_key"),
    (row(session_key="x" * 257), "session_key"),
    (row(rolled_back=1), "rolled_back"),
    (row(rolled_back="true"), "rolled_back"),
    (row(credits_rolled_back=31), "credits_rolled_back"),
    (row(points_rolled_back=1), "points_rolled_back"),
    (row(credits_rolled_back=-1), "credits_rolled_back"),
    (row(price=30), "price"),
    *(
        (row(redeemed_at=time), "redeemed_at")
        for time in (
            *(AT.replace(tzinfo=None), "2025-03-01T12:30:15", "2025-03-01", AT.date(), "yesterday", "", b"2025"),
            *(1_700_000_000, 1_700_000_000.5, 1_700_000_000_000, "1700000000", "1.7e9", "1700000000000", True),
            *("1969-12-31T23:59:59Z", datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))),
            "9999-12-31T23:59:59-12:00",
        )
    ),
]


def test_bad_rows_are_named_and_nothing_is_done_of_them(gift: VoucherSessions, backend: Backend) -> None:
    before = backend.contents()
    for bad, field in BAD_ROWS:
        with pytest.raises(InvalidRequest) as refused:
            import_any(gift, [row(), bad], count=True)
        assert refused.value.field == f"rows.1.{field}", bad
    assert backend.contents() == before
    rows = [row(), *(bad for bad, _ in BAD_ROWS), row("last")]
    outcome = import_any(gift, rows, count=True, on_bad_row="collect")
    assert (outcome.new, outcome.known) == (2, 0)
    assert [each.position for each in outcome.bad] == list(range(1, len(BAD_ROWS) + 1))
    assert all(field in each.problem for (_, field), each in zip(BAD_ROWS, outcome.bad, strict=True))
    assert len(backend.keys()) == 3


@pytest.mark.parametrize("count", [None, 0, 1, "yes"])
def test_count_must_be_true_or_false(gift: VoucherSessions, count: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        import_any(gift, [row()], count=count)
    assert refused.value.field == "count"
    with pytest.raises(TypeError):
        import_any(gift, [row()])


def test_an_error_shows_no_session_key(gift: VoucherSessions) -> None:
    secret = "a-session-key-that-nobody-else-must-know"
    for bad in (
        row(session_key=secret, credits=-1),
        row(session_key=secret * 10),
        row(session_key=secret, code="NONE"),
    ):
        outcome = import_any(gift, [bad], count=True, on_bad_row="collect")
        assert len(outcome.bad) == 1
        assert secret not in str(outcome)
    import_redemptions(gift, [row(session_key="other")], count=True)
    outcome = import_redemptions(gift, [row(session_key=secret)], count=True)
    assert len(outcome.conflicting) == 1
    assert secret not in str(outcome)


# What is stored


def test_receipts_live_as_long_as_the_engine_says(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> None:
    engine = make_engine(receipt_ttl=timedelta(hours=1))
    engine.put_voucher(Voucher(code="GIFT", credits=100))
    import_redemptions(engine, [row(redeemed_at=AT)], count=True)
    import_redemptions(make_engine(), [row("stays", redeemed_at=AT)], count=True)
    assert 3_590_000 < backend.keys()[b"vs:{GIFT}:redemption:order"] <= 3_600_000
    assert backend.keys()[b"vs:{GIFT}:redemption:stays"] == -1


def test_odd_codes_and_ids(engine: VoucherSessions) -> None:
    for text in ODD_TEXTS:
        engine.put_voucher(Voucher(code=text, credits=100))
    rows = [row(id=id_, code=code, session_key=id_) for code in ODD_TEXTS[::5] for id_ in ODD_TEXTS[::3]]
    assert import_redemptions(engine, rows, count=True) == report(new=len(rows))
    assert import_redemptions(engine, rows, count=True) == report(known=len(rows))
    for each in rows:
        receipt = engine.get_redemption(each["code"], each["id"])
        assert (receipt.code, receipt.id, receipt.session_key) == (each["code"], each["id"], each["id"])


FOREIGN = ["vs:{GIFT}", "vs:{GIFT}:redemption:order", "vs:{GIFT}:locks"]


@pytest.mark.parametrize("key", FOREIGN)
@pytest.mark.parametrize("only", [True, False])
def test_a_key_of_another_type_is_refused_before_anything_is_written(
    gift: VoucherSessions, backend: Backend, key: str, only: bool
) -> None:
    gift.validate("GIFT", credits=5, session=lock("cart"))
    if not only:
        gift.validate("GIFT", credits=5, session=lock("other"))
    backend.admin.delete(key)
    backend.admin.hset(key, "field", "value")
    backend.admin.pexpire(key, 60_000)
    before = backend.contents()
    with pytest.raises(CorruptState):
        import_redemptions(gift, [row(session_key="cart")], count=True, on_bad_row="collect")
    assert backend.contents() == before


@pytest.mark.parametrize("key", ["vs:{GIFT}", "vs:{GIFT}:redemption:order", "vs:{GIFT}:session:cart"])
def test_a_newer_format_is_refused_before_anything_is_written(
    gift: VoucherSessions, backend: Backend, key: str
) -> None:
    gift.validate("GIFT", credits=5, session=lock("cart"))
    if key.endswith("order"):
        gift.redeem("GIFT", credits=30, redemption_id="order")
    value: Any = backend.admin.get(key)
    backend.admin.set(key, b"2" + value[1:], keepttl=True)
    before = backend.contents()
    with pytest.raises(UnknownFormat):
        import_redemptions(gift, [row(session_key="cart")], count=True, on_bad_row="collect")
    assert backend.contents() == before


@pytest.mark.parametrize("value", ["hello", b"1 a 1 30 0 5 call - - \xff"])
def test_a_foreign_receipt_is_reported_as_a_stored_value(
    gift: VoucherSessions, backend: Backend, value: str | bytes
) -> None:
    backend.admin.set("vs:{GIFT}:redemption:order", value)
    before = backend.contents()
    with pytest.raises(
        CorruptState, match="a key of 'GIFT' contains a value that this library did not write, so nothing"
    ):
        import_redemptions(gift, [row()], count=True, on_bad_row="collect")
    assert backend.contents() == before


# Runs that end early


def test_interrupted_and_run_again(gift: VoucherSessions) -> None:
    rows = [row(str(at), credits=1, rolled_back=at % 2 == 0) for at in range(50)]

    def broken() -> Iterator[dict[str, Any]]:
        yield from rows[:45]
        raise OSError("the connection to the shop's database is lost")

    with pytest.raises(OSError, match="lost"):
        import_redemptions(gift, broken(), count=True)
    assert import_redemptions(gift, iter(rows), count=True) == report(new=10, known=40)
    assert figures(gift, "GIFT")["credits"] == (1000, 25, 0, 975)
    assert not list(reconcile(gift, iter(rows)))


def test_stopped_by_its_own_progress(gift: VoucherSessions) -> None:
    rows = [row(str(at), credits=1) for at in range(50)]

    def stop(done: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_redemptions(gift, rows, count=True, on_progress=stop)
    assert import_redemptions(gift, rows, count=True) == report(new=10, known=40)
    assert figures(gift, "GIFT")["credits"] == (1000, 50, 0, 950)

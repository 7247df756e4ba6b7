"""DESIGN.md 3.22: ``put_vouchers`` takes any number of rows, in constant memory, and can be run again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from behaviour.test_semantics import figures
from conftest import Backend

from bulk.conftest import CHUNK
from bulk.odd_texts import ODD_TEXTS
from voucher_sessions import (
    InvalidRequest,
    ServerUnavailable,
    UnknownFormat,
    Used,
    Voucher,
    VoucherExists,
    VoucherSessions,
)
from voucher_sessions.bulk import BulkReport, VoucherRow, put_vouchers

put_any: Any = put_vouchers  # takes what type checkers refuse


def vouchers(number: int, credits: int = 100) -> list[Voucher]:
    return [Voucher(code=f"GIFT-{at}", credits=credits) for at in range(number)]


def report(new: int = 0, known: int = 0) -> BulkReport:
    return BulkReport(new=new, known=known, conflicting=[], bad=[])


def test_rows_are_put_with_what_is_used_of_them(engine: VoucherSessions) -> None:
    rows: list[VoucherRow] = [
        Voucher(code="A", quantity=3),
        (Voucher(code="B", credits=100, points=7), Used(quantity=2, credits=60)),
    ]
    assert put_vouchers(engine, rows) == report(new=2)
    assert figures(engine, "A")["quantity"] == (3, 0, 0, 3)
    assert figures(engine, "B")["credits"] == (100, 60, 0, 40)
    assert figures(engine, "B")["points"] == (7, 0, 0, 7)


def test_no_rows(engine: VoucherSessions, backend: Backend) -> None:
    assert put_vouchers(engine, []) == report()
    assert not backend.keys()


def test_odd_codes(engine: VoucherSessions) -> None:
    assert put_vouchers(engine, (Voucher(code=code, credits=1) for code in ODD_TEXTS)) == report(new=len(ODD_TEXTS))
    assert all(engine.get_voucher(code).code == code for code in ODD_TEXTS)


def test_run_again_after_sales(engine: VoucherSessions, backend: Backend) -> None:
    rows = [(voucher, Used(quantity=1, credits=30)) for voucher in vouchers(45)]
    assert put_vouchers(engine, iter(rows)) == report(new=45)
    engine.redeem("GIFT-7", credits=50)
    before = backend.contents()
    assert put_vouchers(engine, iter(rows)) == report(known=45)
    assert backend.contents() == before


def test_interrupted_in_the_middle_and_run_again(engine: VoucherSessions) -> None:
    def broken() -> Iterator[Voucher]:
        yield from vouchers(45)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="the file ends here"):
        put_vouchers(engine, broken())
    engine.redeem("GIFT-3", credits=10)
    again = put_vouchers(engine, vouchers(60))
    assert again.new + again.known == 60
    assert again.known == 40
    assert figures(engine, "GIFT-3")["credits"] == (100, 10, 0, 90)


def test_keep_reports_other_limits_and_less_used(engine: VoucherSessions, backend: Backend) -> None:
    rows: list[VoucherRow] = [
        Voucher(code="LIMIT", credits=100),
        (Voucher(code="LESS", credits=100), Used(credits=20)),
        (Voucher(code="MORE", credits=100), Used(credits=20)),
        Voucher(code="SAME", quantity=5),
        Voucher(code="ENDLESS"),
    ]
    put_vouchers(engine, rows)
    before = backend.contents()
    outcome = put_vouchers(
        engine,
        [
            Voucher(code="LIMIT", credits=200, quantity=7),
            (Voucher(code="LESS", credits=100), Used(credits=30)),
            (Voucher(code="MORE", credits=100), Used(credits=10)),
            Voucher(code="SAME", quantity=5),
            Voucher(code="ENDLESS", quantity=0),
        ],
    )
    assert (outcome.new, outcome.known) == (0, 2)
    assert [(each.position, each.problem) for each in outcome.conflicting] == [
        (0, "the voucher 'LIMIT' exists with another quantity and credits"),
        (1, "the voucher 'LESS' exists with another credits"),
        (4, "the voucher 'ENDLESS' exists with another quantity"),
    ]
    assert backend.contents() == before


def test_update_sets_limits_and_keeps_what_is_used_and_locked(engine: VoucherSessions) -> None:
    put_vouchers(engine, [Voucher(code="A", credits=100), Voucher(code="B", credits=100)])
    for code in ("A", "B"):
        engine.redeem(code, credits=10)
        engine.validate(code, credits=20, session={"type": "LOCK", "key": "cart"})
    rows: list[VoucherRow] = [
        Voucher(code="A", credits=500),
        (Voucher(code="B", credits=500), Used(credits=3)),
        Voucher(code="C"),
    ]
    assert put_vouchers(engine, rows, if_exists="update") == report(new=1, known=2)
    assert figures(engine, "A")["credits"] == (500, 10, 20, 470)
    assert figures(engine, "B")["credits"] == (500, 3, 20, 477)


def test_raise_names_the_voucher_and_the_row(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT-1", credits=7))
    with pytest.raises(VoucherExists) as refused:
        put_vouchers(engine, vouchers(3), if_exists="raise")
    assert refused.value.code == "GIFT-1"
    assert "row 1" in refused.value.__notes__[0]
    assert figures(engine, "GIFT-1")["credits"] == (7, 0, 0, 7)


def test_raise_and_collect_goes_on(engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="GIFT-1", credits=7))
    outcome = put_vouchers(engine, vouchers(3), if_exists="raise", on_bad_row="collect")
    assert (outcome.new, outcome.known) == (2, 0)
    assert [(each.position, "GIFT-1" in each.problem) for each in outcome.bad] == [(1, True)]
    assert figures(engine, "GIFT-1")["credits"] == (7, 0, 0, 7)


@pytest.mark.parametrize("if_exists", ["keep", "update", "raise"])
def test_the_same_code_twice(engine: VoucherSessions, if_exists: str) -> None:
    rows = [Voucher(code="A", credits=1), Voucher(code="A", credits=1), Voucher(code="A", credits=2)] * 4
    outcome = put_any(engine, rows, if_exists=if_exists, on_bad_row="collect")
    assert outcome.new == 1
    assert figures(engine, "A")["credits"] == ((2, 0, 0, 2) if if_exists == "update" else (1, 0, 0, 1))
    expected = {"keep": (7, 4, 0), "update": (11, 0, 0), "raise": (0, 0, 11)}[if_exists]
    assert (outcome.known, len(outcome.conflicting), len(outcome.bad)) == expected


BAD_ROWS: list[tuple[object, str]] = [
    (None, "voucher"),
    ("GIFT", "voucher"),
    ({"code": "GIFT"}, "voucher"),
    (7, "voucher"),
    ((), "voucher"),
    ((Voucher(code="A"),), "voucher"),
    ((Voucher(code="A"), Used(), Used()), "voucher"),
    ((Used(), Voucher(code="A")), "voucher"),
    ([Voucher(code="A"), Used()], "voucher"),
    ((Voucher(code="A"), {"credits": 1}), "used"),
    ((Voucher(code="A"), 5), "used"),
    (Voucher(code="A").model_copy(update={"credits": -1}), "voucher.credits"),
    (Voucher(code="A").model_copy(update={"code": "x" * 257}), "voucher.code"),
    (Voucher.model_construct(code=" "), "voucher.code"),
    ((Voucher(code="A"), Used().model_copy(update={"points": 0.5})), "used.points"),
]


def test_bad_rows_are_named(engine: VoucherSessions, backend: Backend) -> None:
    for row, field in BAD_ROWS:
        with pytest.raises(InvalidRequest) as refused:
            put_any(engine, [Voucher(code="FIRST"), row])
        assert refused.value.field == f"rows.1.{field}", row
    assert not backend.keys()
    rows = [Voucher(code="FIRST"), *(row for row, _ in BAD_ROWS), Voucher(code="LAST")]
    outcome = put_any(engine, rows, on_bad_row="collect")
    assert [each.position for each in outcome.bad] == list(range(1, len(BAD_ROWS) + 1))
    assert all(field in each.problem for (_, field), each in zip(BAD_ROWS, outcome.bad, strict=True))
    assert set(backend.keys()) == {b"vs:{FIRST}", b"vs:{LAST}"}


@pytest.mark.parametrize("rows", [None, 5, "GIFT", b"GIFT", {"code": "GIFT"}])
def test_rows_that_are_no_rows(engine: VoucherSessions, backend: Backend, rows: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        put_any(engine, rows)
    assert refused.value.field == "rows"
    assert not backend.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("if_exists", value) for value in (None, "", "KEEP", "replace", True)),
        *(("on_bad_row", value) for value in (None, "", "RAISE", "ignore", 1)),
        *(("on_progress", value) for value in ("print", 5)),
    ],
)
def test_bad_parameters(engine: VoucherSessions, backend: Backend, name: str, value: object) -> None:
    rows = iter(vouchers(3))
    with pytest.raises(InvalidRequest) as refused:
        put_any(engine, rows, **{name: value})
    assert refused.value.field == name
    assert len(list(rows)) == 3, "none was taken"
    assert not backend.keys()


@pytest.mark.parametrize("engine", [None, "redis://", object()])
def test_only_a_sync_engine(engine: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        put_any(engine, [])
    assert refused.value.field == "engine"


def test_progress_counts_rows_that_are_done_bad_ones_too(engine: VoucherSessions, backend: Backend) -> None:
    seen: list[int] = []

    def on_progress(done: int) -> None:
        assert len(backend.keys()) == sum(at < done for at in range(1, 101, 2))
        seen.append(done)

    put_any(
        engine,
        (voucher if at % 2 else None for at, voucher in enumerate(vouchers(100))),
        on_progress=on_progress,
        on_bad_row="collect",
    )
    assert seen == [20, 40, 60, 80, 100]


def test_the_rows_are_read_only_a_little_ahead(engine: VoucherSessions, backend: Backend) -> None:
    taken, ahead = 0, []

    def rows() -> Iterator[Voucher]:
        nonlocal taken
        for voucher in vouchers(150):
            ahead.append(taken - int(backend.admin.dbsize()))
            taken += 1
            yield voucher

    put_vouchers(engine, rows())
    assert max(ahead) == CHUNK - 1


def test_memory_does_not_grow_with_the_number_of_rows(backend: Backend) -> None:
    if backend.name == "fakeredis":
        pytest.skip("fakeredis keeps its keys in this process")

    def peak(number: int) -> int:
        tracemalloc.start()
        try:
            assert put_vouchers(engine, rows(number)).new == number
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            backend.admin.flushall()

    def rows(number: int) -> Iterable[Voucher]:
        return (Voucher(code=f"GIFT-{at}", credits=at) for at in range(number))

    with backend.client() as client, VoucherSessions(client) as engine:
        peak(50)  # what is built at first use
        assert peak(2000) < 1.5 * peak(200)


def test_a_newer_format_stops_the_import(engine: VoucherSessions, backend: Backend) -> None:
    put_vouchers(engine, vouchers(2))
    value: Any = backend.admin.get("vs:{GIFT-1}")
    backend.admin.set("vs:{GIFT-1}", b"2" + value[1:])
    with pytest.raises(UnknownFormat):
        put_vouchers(engine, vouchers(3), on_bad_row="collect")


def test_a_server_that_is_down_is_no_bad_row(engine: VoucherSessions) -> None:
    with VoucherSessions.from_url("redis://127.0.0.1:1", retry=None) as unreachable, pytest.raises(ServerUnavailable):
        put_vouchers(unreachable, vouchers(3), on_bad_row="collect")


def test_the_loader_is_not_asked(backend: Backend) -> None:
    asked: list[str] = []
    with backend.client() as client, VoucherSessions(client, loader=asked.append) as engine:
        assert put_vouchers(engine, vouchers(3)) == report(new=3)
    assert not asked

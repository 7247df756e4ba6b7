"""DESIGN.md 3.22: a row for which the engine's ``partition`` fails is a bad row, and the import names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Backend

from voucher_sessions import InvalidRequest, Voucher, VoucherSessions
from voucher_sessions.bulk import BulkReport, import_redemptions, put_vouchers, reconcile

PARTITIONS: dict[str, Any] = {"GOOD-1": "a", "GOOD-2": "b", "EMPTY": "", "BLANK": " ", "NUMBER": 5, "NONE": None}
RETURNS_NO_TEXT = ["EMPTY", "BLANK", "NUMBER", "NONE"]
RAISES = ["UNKNOWN"]


def partition(code: str) -> str:
    text: str = PARTITIONS[code]
    return text


def import_rows(engine: VoucherSessions, codes: list[str], **options: Any) -> BulkReport:
    return import_redemptions(engine, [{"code": code, "id": "order"} for code in codes], count=True, **options)


def put_rows(engine: VoucherSessions, codes: list[str], **options: Any) -> BulkReport:
    return put_vouchers(engine, [Voucher(code=code) for code in codes], **options)


def reconcile_rows(engine: VoucherSessions, codes: list[str]) -> object:
    return list(reconcile(engine, [{"code": code, "id": "order"} for code in codes]))


@pytest.fixture
def engine(make_engine: Callable[..., VoucherSessions]) -> VoucherSessions:
    engine = make_engine(partition=partition)
    engine.put_voucher(Voucher(code="GOOD-1"))
    engine.put_voucher(Voucher(code="GOOD-2"))
    return engine


@pytest.mark.parametrize("do", [put_rows, import_rows, reconcile_rows])
def test_a_row_without_a_partition_is_named(engine: VoucherSessions, do: Callable[..., object]) -> None:
    for code in RETURNS_NO_TEXT:
        with pytest.raises(InvalidRequest) as refused:
            do(engine, ["GOOD-1", code, "GOOD-2"])
        assert refused.value.field == "rows.1.partition(code)"
    for code in RAISES:  # as in any call: the function's own error
        with pytest.raises(KeyError) as raised:
            do(engine, ["GOOD-1", code, "GOOD-2"])
        assert raised.value.__notes__ == ["This error is about row 1, counted from 0."]


@pytest.mark.parametrize(("do", "new"), [(put_rows, 0), (import_rows, 2)])
def test_the_import_goes_on(engine: VoucherSessions, do: Callable[..., BulkReport], new: int) -> None:
    bad = [*RETURNS_NO_TEXT, *RAISES]
    done: list[int] = []
    report = do(engine, ["GOOD-1", *bad, "GOOD-2"], on_bad_row="collect", on_progress=done.append)
    assert (report.new, report.known, report.conflicting) == (new, 2 - new, [])
    assert [each.position for each in report.bad] == list(range(1, len(bad) + 1))
    assert all("partition" in each.problem for each in report.bad)
    assert "KeyError('UNKNOWN')" in report.bad[-1].problem
    assert done == [len(bad) + 2]


class Interrupted(Exception):
    """Raised by a signal handler, as the time limits of task queues do."""


@pytest.mark.parametrize("do", [put_rows, import_rows])
def test_the_error_of_a_signal_handler_is_no_bad_row(
    make_engine: Callable[..., VoucherSessions], backend: Backend, do: Callable[..., BulkReport]
) -> None:
    interrupted: list[str] = []

    def once_interrupted(code: str) -> str:
        if code == "B" and not interrupted:
            interrupted.append(code)
            raise Interrupted
        return "one"

    engine = make_engine(partition=once_interrupted)
    with pytest.raises(Interrupted):
        do(engine, ["A", "B", "C"], on_bad_row="collect")

"""The tables in docs/timelines.md: each call, at its time, does what the table says and leaves these figures."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from documents.examples import ROOT
from voucher_sessions import (
    ActiveSession,
    LimitExceeded,
    Redemption,
    Rollback,
    RollbackExceeded,
    StackRedemption,
    StackValidation,
    Validation,
    Voucher,
    VoucherSessions,
    VoucherSessionsError,
    VoucherState,
)

TABLE = re.compile(r"(?:^\| \d\d:\d\d:\d\d \| .+\n)+", re.MULTILINE)
ROW = re.compile(r"^\| (\d\d:\d\d:\d\d) \| `(.+?)` \| (.+?) \| (\d+) \| (\d+) \| (\d+) \|$")
# What the last columns are about: the balance that the first call gives the voucher.
SUBJECT = re.compile(r'Voucher\(code="(\w+)", (credits|quantity)=')
TABLES: list[list[str]] = [
    table.splitlines() for table in TABLE.findall((ROOT / "docs" / "timelines.md").read_text("utf-8"))
]
NAMES: dict[str, Any] = {"Voucher": Voucher} | {
    f"cart_{number}": {"type": "LOCK", "key": f"cart-{number}", "ttl": 15, "ttl_unit": "MINUTES"}
    for number in (1, 2, 3)
}


def words(result: object) -> list[str]:
    """What the table must say of a result or an error."""
    match result:
        case VoucherState():
            return [f"a limit of {result.credits.limit or result.quantity.limit}"]
        case ActiveSession(expires_at=expires_at):
            return [f"{expires_at:%H:%M:%S}"]
        case Validation() | StackValidation():
            return words_of_validation(result)
        case Redemption(replayed=True) | Rollback(replayed=True):
            return ["`replayed=True`"]
        case Redemption():
            return [f"{result.credits or result.quantity} redeemed"]
        case Rollback(credits=credits):
            return [f"{credits} returned"]
        case StackRedemption(redemptions=redemptions):
            return [f"{' and '.join(str(each.credits) for each in redemptions)} redeemed"]
        case VoucherSessionsError():
            return words_of_error(result)
        case _:
            assert isinstance(result, list)
            return [f"{' and '.join(str(each.credits) for each in result)} returned"]


def words_of_validation(result: Validation | StackValidation) -> list[str]:
    match result:
        case Validation(valid=True, session=None):
            return ["valid: "]
        case Validation(valid=True) | StackValidation(valid=True):
            return ["valid; ", *words(result.session)]
        case Validation(reason=reason, retry_after_ms=retry_after_ms):
            return [f"`{reason}`", "locked by others", f"try again in {duration(retry_after_ms)}"]
        case StackValidation(validations=validations):
            [refused] = [each for each in validations if not each.valid]
            return [f"`{refused.code}`: `{refused.reason}`, locked by others"]


def words_of_error(error: VoucherSessionsError) -> list[str]:
    name = f"`{type(error).__name__}`"
    match error:
        case LimitExceeded(locked_by_others=True):
            return [name, f"{error.requested} requested, {error.available} available", "locked by others"]
        case LimitExceeded() | RollbackExceeded():
            return [name, f"{error.requested} requested, {error.available} available"]
        case _:
            return [name]


def duration(ms: int | None) -> str:
    assert ms is not None
    wait = timedelta(milliseconds=ms)
    minutes = wait // timedelta(minutes=1)
    return f"{minutes} minutes" if minutes else f"{wait.seconds} second"


def outcome(engine: VoucherSessions, call: str) -> object:
    """The result of a call, or its error."""
    try:
        return eval(f"engine.{call}", {"engine": engine, **NAMES})
    except VoucherSessionsError as error:
        return error


def test_the_tables_are_read() -> None:
    assert [len(table) for table in TABLES] == [13, 8, 9, 8, 10]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table[0].split("`")[1])
def test_each_step_is_as_the_table_says(table: list[str]) -> None:
    [(code, balance)] = SUBJECT.findall(table[0])
    with VoucherSessions.from_url("memory://") as engine, time_machine.travel(0, tick=False) as clock:
        for row in table:
            found = ROW.match(row)
            assert found, row
            time, call, answer, *figures = found.groups()
            clock.move_to(datetime.fromisoformat(f"2026-11-21T{time}").replace(tzinfo=UTC))
            result = outcome(engine, call)
            assert [text for text in words(result) if text not in answer] == [], (row, result)
            state = getattr(engine.get_voucher(code), balance)
            assert [str(figure) for figure in (state.used, state.locked, state.available)] == figures, row

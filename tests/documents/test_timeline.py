"""The examples in docs/semantics.md: each call, at its time, does what the table says and leaves these figures."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from documents.examples import ROOT
from voucher_sessions import (
    LimitExceeded,
    Redemption,
    Rollback,
    Validation,
    Voucher,
    VoucherSessions,
    VoucherSessionsError,
    VoucherState,
)

TABLE = re.compile(r"(?:^\| \d\d:\d\d:\d\d \| .+\n)+", re.MULTILINE)
ROW = re.compile(r"^\| (\d\d:\d\d:\d\d) \| `(.+?)` \| (.+?) \| (\d+) \| (\d+) \| (\d+) \|$")
TABLES: list[list[str]] = [
    table.splitlines() for table in TABLE.findall((ROOT / "docs" / "semantics.md").read_text("utf-8"))
]
NAMES: dict[str, Any] = {"Voucher": Voucher} | {
    f"cart_{number}": {"type": "LOCK", "key": f"cart-{number}", "ttl": 15, "ttl_unit": "MINUTES"}
    for number in (1, 2, 3)
}


def words(result: object) -> list[str]:
    """What the table must say of a result or an error."""
    match result:
        case VoucherState(credits=balance):
            return [f"a limit of {balance.limit}"]
        case Validation(valid=True, session=None):
            return ["valid: "]
        case Validation(valid=True, session=session) if session is not None:
            return ["valid; ", f"{session.expires_at:%H:%M:%S}"]
        case Validation(reason=reason, retry_after_ms=retry_after_ms):
            assert result.locked_by_others
            assert retry_after_ms is not None
            wait = timedelta(milliseconds=retry_after_ms)
            minutes = wait // timedelta(minutes=1)
            again = f"{minutes} minutes" if minutes else f"{wait.seconds} second"
            return [f"`{reason}`", "locked by others", f"try again in {again}"]
        case Redemption(replayed=True):
            return ["`replayed=True`"]
        case Redemption(credits=credits):
            return [f"{credits} redeemed"]
        case Rollback(credits=credits):
            return [f"{credits} returned"]
        case LimitExceeded(requested=requested, available=available):
            assert not result.locked_by_others
            return [f"`{type(result).__name__}`", f"{requested} requested, {available} available"]
        case VoucherSessionsError():
            return [f"`{type(result).__name__}`"]
        case _:
            raise TypeError(f"{result!r} is no result of a call in the tables")


def outcome(engine: VoucherSessions, call: str) -> object:
    """The result of a call, or its error."""
    try:
        return eval(f"engine.{call}", {"engine": engine, **NAMES})
    except VoucherSessionsError as error:
        return error


def test_the_tables_are_read() -> None:
    assert [len(table) for table in TABLES] == [13, 8]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table[0].split("`")[1])
def test_each_step_is_as_the_table_says(table: list[str]) -> None:
    with VoucherSessions.from_url("memory://") as engine, time_machine.travel(0, tick=False) as clock:
        for row in table:
            found = ROW.match(row)
            assert found, row
            time, call, answer, *figures = found.groups()
            clock.move_to(datetime.fromisoformat(f"2026-11-21T{time}").replace(tzinfo=UTC))
            missing = [text for text in words(outcome(engine, call)) if text not in answer]
            assert missing == [], row
            credits = engine.get_voucher("GIFT" if '"GIFT"' in call else "CARD").credits
            assert [str(figure) for figure in (credits.used, credits.locked, credits.available)] == figures, row

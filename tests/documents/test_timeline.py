"""The example in docs/semantics.md: each call, at its time, returns what the table says and leaves these figures."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import time_machine

from documents.examples import ROOT
from voucher_sessions import Redemption, Rollback, Validation, Voucher, VoucherSessions

ROW = re.compile(r"^\| (\d\d:\d\d:\d\d) \| `(.+?)` \| (.+?) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "semantics.md").read_text("utf-8"))
SESSIONS = {
    f"cart_{number}": {"type": "LOCK", "key": f"cart-{number}", "ttl": 15, "ttl_unit": "MINUTES"} for number in (1, 2)
}


def words(result: Validation | Redemption | Rollback) -> list[str]:
    """What the table must say of a result."""
    match result:
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
            return [f"`{reason}`", f"try again in {again}"]
        case Redemption(replayed=True):
            return ["`replayed=True`"]
        case Redemption(credits=credits):
            return [f"{credits} redeemed"]
        case Rollback(credits=credits):
            return [f"{credits} returned"]


def test_the_table_is_read() -> None:
    assert len(ROWS) == 9


def test_each_step_is_as_the_table_says() -> None:
    with VoucherSessions.from_url("memory://") as engine, time_machine.travel(0, tick=False) as clock:
        for number, (time, call, answer, *figures) in enumerate(ROWS):
            clock.move_to(datetime.fromisoformat(f"2026-11-21T{time}").replace(tzinfo=UTC))
            if number == 0:
                engine.put_voucher(Voucher(code="GIFT", credits=5000))
            result = eval(f"engine.{call}", {"engine": engine, **SESSIONS})
            missing = [text for text in words(result) if text not in answer]
            assert missing == [], call
            credits = engine.get_voucher("GIFT").credits
            assert [str(figure) for figure in (credits.used, credits.locked, credits.available)] == figures, (
                time,
                call,
            )

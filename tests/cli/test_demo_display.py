"""What the demo draws in a terminal."""

from __future__ import annotations

import re

import pytest

from cli.running import ESCAPES
from voucher_sessions import Balance, VoucherState
from voucher_sessions.cli.demo import LiveDisplay
from voucher_sessions.demo.checks import Check
from voucher_sessions.demo.output import Row

EMPTY = Balance(limit=0, used=0, locked=0, available=0)
SALE = VoucherState(
    code="SALE", quantity=Balance(limit=50, used=20, locked=10, available=20), credits=EMPTY, points=EMPTY
)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "60", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)


def test_bars_events_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    display = LiveDisplay()
    display.begin("60 carts, 2 workers")
    display.show(7, 60, [SALE])
    display.show_event("SIGKILL for worker 1")
    display.show_event("worker 3 serves its other carts")
    display.end()
    display.show_table([Row("", ["SALE"]), Row("", ["redemptions"]), Row("limit", [50]), Row("used", [20])])
    display.show_check(Check("no balance was ever negative", []))
    display.show_check(Check("used equals the sum of the receipts", [f"problem {number}" for number in range(7)]))
    display.close()
    raw = capsys.readouterr().out
    text = " ".join(ESCAPES.sub("", raw).split())
    for expected in (
        "60 carts, 2 workers",
        "7 of 60 carts finished",
        "SALE quantity",
        "SIGKILL for worker 1",
        "worker 3 serves its other carts",
        "SALE redemptions limit 50 used 20",
        "ok no balance was ever negative",
        "FAILED used equals the sum of the receipts - problem 0",
        "- problem 4",
    ):
        assert expected in text
    assert "problem 5" not in text
    assert re.search(r"█+▓+░+", text)
    assert raw.count("\x1b[?25h") == 1  # the cursor is seen again, once


def test_an_error_leaves_the_terminal_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    display = LiveDisplay()
    display.close()  # before it has begun
    display = LiveDisplay()
    display.begin("60 carts")
    display.close()
    display.close()
    assert capsys.readouterr().out.endswith("\x1b[?25h")

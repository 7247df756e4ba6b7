"""Bars, and times that are left."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voucher_sessions import Balance
from voucher_sessions.cli.output import Console, Output
from voucher_sessions.cli.views import Bar, divided, duration

AMOUNTS = st.integers(0, 2**53 - 1)


def drawn(used: int, locked: int, limit: int, columns: int = 10) -> str:
    balance = Balance(limit=limit, used=used, locked=locked, available=max(0, limit - used - locked))
    console = Console()
    with console.capture() as captured:
        console.print(Bar(balance), width=columns)
    return captured.get().rstrip("\n")


@pytest.mark.parametrize(
    ("used", "locked", "limit", "bar"),
    [
        (0, 0, 100, "░░░░░░░░░░"),
        (50, 20, 100, "█████▓▓░░░"),
        (100, 0, 100, "██████████"),
        (1, 1, 1_000_000, "█▓░░░░░░░░"),  # what is not 0 is seen
        (999_999, 1, 1_000_000, "█████████▓"),
        (30, 90, 60, "███▓▓▓▓▓▓▓"),  # the limit was lowered since
        (0, 0, 0, "░░░░░░░░░░"),
    ],
)
def test_bars(used: int, locked: int, limit: int, bar: str) -> None:
    assert drawn(used, locked, limit) == bar


@given(st.lists(AMOUNTS, min_size=3, max_size=3), st.integers(3, 300))
def test_a_bar_is_full_and_shows_each_amount(amounts: list[int], cells: int) -> None:
    shares = divided(amounts, cells)
    assert sum(shares) == cells
    assert all((share > 0) == (amount > 0) for share, amount in zip(shares, amounts, strict=True)) or not any(amounts)
    ordered = sorted(zip(amounts, shares, strict=True))
    assert [share for _, share in ordered] == sorted(shares)  # more is never shorter


def test_a_bar_may_be_narrower_than_its_parts() -> None:
    assert sum(divided([1, 1, 1], 2)) == 2
    assert divided([5, 5, 5], 0) == [0, 0, 0]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0.0s"),
        (12_345, "12.3s"),
        (59_999, "59.9s"),
        (60_000, "1m 00s"),
        (3_599_999, "59m 59s"),
        (3_600_000, "1h 00m"),
        (86_399_999, "23h 59m"),
        (604_800_000, "7d 00h"),
        (315_360_000_000, "3650d 00h"),
    ],
)
def test_durations(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def test_an_output_that_is_no_text_file_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pytest and notebooks put one in the place of stdout."""
    output = io.StringIO()
    monkeypatch.setattr("sys.stdout", output)
    Output().print("Ä")
    assert output.getvalue() == "Ä\n"

"""docs/errors.md explains every error, and names its HTTP status."""

from __future__ import annotations

import re
from pathlib import Path

import voucher_sessions

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
EXPLANATIONS, STATUSES = PAGE.split("\n## HTTP status\n")
ERRORS = {
    name
    for name in voucher_sessions.__all__
    if isinstance(kind := getattr(voucher_sessions, name), type)
    and issubclass(kind, voucher_sessions.VoucherSessionsError)
}


def errors_of_table(text: str) -> list[str]:
    """The names in the first column of a table."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return re.findall(r"`(\w+)`", "".join(rows))


def test_every_error_is_explained() -> None:
    assert ERRORS - {"VoucherSessionsError"} <= set(errors_of_table(EXPLANATIONS))


def test_every_error_has_one_http_status() -> None:
    assert sorted(errors_of_table(STATUSES)) == sorted(ERRORS - {"VoucherSessionsError", "LimitExceeded"})

"""docs/errors.md explains every error."""

from __future__ import annotations

import re
from pathlib import Path

import voucher_sessions

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")


def test_every_error_is_explained() -> None:
    errors = {
        name
        for name in voucher_sessions.__all__
        if isinstance(kind := getattr(voucher_sessions, name), type)
        and issubclass(kind, voucher_sessions.VoucherSessionsError)
    }
    rows = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    assert errors - {"VoucherSessionsError"} <= set(re.findall(r"`(\w+)`", rows))

"""What works where optional packages are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("missing", "statement"),
    [
        # redis-py imports opentelemetry by itself where it is installed, so it cannot be looked for in sys.modules.
        ({"opentelemetry", "structlog"}, "from voucher_sessions import AsyncVoucherSessions, VoucherSessions"),
        ({"opentelemetry", "structlog"}, "from voucher_sessions.contrib.logging import log_calls"),
        ({"opentelemetry.sdk"}, "from voucher_sessions.contrib.opentelemetry import record_calls; record_calls()"),
    ],
)
def test_it_works_without(missing: set[str], statement: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); {statement}"
    subprocess.run([sys.executable, "-c", code], check=True)

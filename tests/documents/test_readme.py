"""The README's examples run as they stand there, and what it says of the code is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import voucher_sessions

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["sync", "asyncio", "stack", "pipeline"])
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    """In a process and a folder of its own: with the installed package alone."""
    script = tmp_path / "example.py"
    script.write_text(example, "utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_error_is_explained() -> None:
    errors = {
        name
        for name in voucher_sessions.__all__
        if isinstance(getattr(voucher_sessions, name), type)
        and issubclass(getattr(voucher_sessions, name), voucher_sessions.VoucherSessionsError)
    }
    table = README[README.index("### Errors") : README.index("## How it works")]
    assert errors <= {"VoucherSessionsError", *re.findall(r"`(\w+)`", table)}

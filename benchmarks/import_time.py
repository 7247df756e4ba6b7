"""Axis: importing the package, and an engine out of it, beside importing what they stand on."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.measure import MS, Subject, progress, turns

AXIS, CASE = "import", "a new Python process"
# `import pydantic` puts off what every model needs.
BELOW, IN_USE = "import redis, pydantic", "import redis; from pydantic import BaseModel, TypeAdapter"
PACKAGE, ENGINE = "import voucher_sessions", "from voucher_sessions import VoucherSessions"


def _ms(statement: str) -> float:
    """In a process of its own; starting Python is not counted."""
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) * 1000


def run(bench: BenchmarkRun) -> None:
    """They take turns."""
    for statement in (BELOW, IN_USE, PACKAGE, ENGINE):  # compiles what is not yet
        _ms(statement)
    for number in progress(AXIS, range(bench.rounds)):
        for statement in turns((BELOW, IN_USE, PACKAGE, ENGINE), number):
            bench.samples.add(Subject(AXIS, CASE, statement, MS), _ms(statement))

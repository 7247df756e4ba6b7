"""Axis: time to import the package and its engine, beside the time to import redis and pydantic, which they need."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.measure import MS, Subject, progress, turns

AXIS, CASE = "import", "a new Python process"
# `import pydantic` imports little; what a model needs is imported with BaseModel.
DEPENDENCIES, DEPENDENCIES_USED = "import redis, pydantic", "import redis; from pydantic import BaseModel, TypeAdapter"
PACKAGE, ENGINE = "import voucher_sessions", "from voucher_sessions import VoucherSessions"


def _ms(statement: str) -> float:
    """Milliseconds of a statement in a new process; the start of Python is not counted."""
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) * 1000


def run(bench: BenchmarkRun) -> None:
    """The statements take turns."""
    for statement in (DEPENDENCIES, DEPENDENCIES_USED, PACKAGE, ENGINE):  # writes the bytecode caches
        _ms(statement)
    for number in progress(AXIS, range(bench.rounds)):
        for statement in turns((DEPENDENCIES, DEPENDENCIES_USED, PACKAGE, ENGINE), number):
            bench.samples.add(Subject(AXIS, CASE, statement, MS), _ms(statement))

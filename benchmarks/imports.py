"""Axis: importing the package, beside importing what it stands on."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.bench import Bench
from benchmarks.measure import MS, Subject, progress, turns

AXIS, CASE = "import", "a new Python process"
# What pydantic's own import puts off, and every model needs, is in pydantic.main.
BELOW, IN_USE, PACKAGE = "redis, pydantic", "redis, pydantic.main", "voucher_sessions"


def _ms(modules: str) -> float:
    """In a process of its own; starting Python is not counted."""
    code = f"import time; began = time.perf_counter(); import {modules}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) * 1000


def run(bench: Bench) -> None:
    """They take turns."""
    for modules in (BELOW, IN_USE, PACKAGE):  # compiles what is not yet
        _ms(modules)
    for number in progress(AXIS, range(bench.rounds)):
        for modules in turns((BELOW, IN_USE, PACKAGE), number):
            bench.samples.add(Subject(AXIS, CASE, modules, MS), _ms(modules))

"""Waits for a condition, with a limit that no busy machine reaches; and repeats random tests for SOAK_SECONDS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def rounds() -> Iterator[int]:
    """One; with SOAK_SECONDS in the environment, as many as begin within that time."""
    ends, done = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "0")), 0
    while done == 0 or time.monotonic() < ends:
        yield done
        done += 1

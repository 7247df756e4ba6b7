"""What each axis gets: servers, samples, and the size of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.all_contenders import Addresses
from benchmarks.measure import Samples


@dataclass(frozen=True)
class BenchmarkRun:
    """One run. ``admin`` is a client for INFO and settings; ``quick`` makes as few calls as possible."""

    addresses: Addresses
    admin: Any
    samples: Samples
    rounds: int
    quick: bool

"""What every axis is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.all_contenders import Addresses
from benchmarks.measure import Samples


@dataclass(frozen=True)
class BenchmarkRun:
    """One run. ``admin`` is a client of the Redis server, for its accounts; ``quick``: only to see that all runs."""

    addresses: Addresses
    admin: Any
    samples: Samples
    rounds: int
    quick: bool

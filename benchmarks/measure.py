"""Samples, their medians and ratios, and the clock: contenders take turns in rounds, and each round gives one ratio."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from benchmarks.loops import timed

T = TypeVar("T")

# What is measured, with its unit.
SERVER_US, CLIENT_US, CPU_US = "server µs", "round trip µs", "client's CPU µs"
THROUGHPUT, BYTES, MS = "calls a second", "bytes", "ms"
SLOWEST_US, SCRIPT_CALLS = "server µs of the slowest script call", "script calls"


class Subject(NamedTuple):
    """What a figure is about."""

    axis: str
    case: str
    contender: str
    figure: str


class Spread(NamedTuple):
    """A median with its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of a list with one value per round."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass
class Samples:
    """One value per round for each subject."""

    values: dict[Subject, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, subject: Subject, value: float) -> None:
        self.values[subject].append(value)

    def spread(self, subject: Subject) -> Spread:
        return Spread.of(self.values[subject])

    def ratio(self, subject: Subject, to: Subject) -> Spread | None:
        """The spread of the ratios within each round. A disturbance of the machine affects both values of a round alike."""
        pairs = zip(self.values.get(subject, ()), self.values.get(to, ()), strict=False)
        ratios = [one / other for one, other in pairs if other]
        return Spread.of(ratios) if ratios else None


@dataclass(frozen=True)
class Case:
    """Work to measure, and its subject (axis, case, contender). ``before`` prepares it, outside the measured time."""

    subject: tuple[str, str, str]
    work: Callable[[], object]
    before: Callable[[], object] = lambda: None
    scripted: bool = False  # each call is one script call, so that INFO commandstats has its server time
    with_cpu: bool = False  # the CPU time of the process that calls is of interest


class Scripts(NamedTuple):
    """The number of script calls and their total time, from INFO commandstats."""

    calls: int
    us: float

    @classmethod
    def so_far(cls, admin: Any) -> Scripts:
        stats = admin.info("commandstats").get("cmdstat_evalsha")
        return cls(stats["calls"], stats["usec"]) if stats else cls(0, 0)

    def since(self, before: Scripts) -> Scripts:
        return Scripts(self.calls - before.calls, self.us - before.us)


def measure(samples: Samples, admin: Any, case: Case, calls: int) -> None:
    """Measure one round of a case that makes ``calls`` calls."""
    case.before()
    before = Scripts.so_far(admin)
    elapsed = timed(case.work)
    samples.add(Subject(*case.subject, CLIENT_US), elapsed.seconds * 1e6 / calls)
    if case.with_cpu:
        samples.add(Subject(*case.subject, CPU_US), elapsed.cpu_seconds * 1e6 / calls)
    if case.scripted:
        samples.add(Subject(*case.subject, SERVER_US), Scripts.so_far(admin).since(before).us / calls)


def turns(cases: Iterable[T], number: int) -> list[T]:
    """The cases in random order, so that none always follows the same other. Round 0 has the order of the tables."""
    ordered = list(cases)
    if number:
        random.Random(number).shuffle(ordered)
    return ordered


def progress(what: str, items: Collection[T]) -> Iterator[T]:
    """Iterate over the items, with a counter on a terminal, and with one line of output elsewhere."""
    on_terminal = sys.stderr.isatty()
    if not on_terminal:
        print(f"{what}: {len(items)}", file=sys.stderr, flush=True)
    began = time.monotonic()
    for at, item in enumerate(items):
        if on_terminal:
            left = f", {(time.monotonic() - began) / at * (len(items) - at):.0f} s left" if at else ""
            print(f"\r\033[K{what}: {at + 1} of {len(items)}{left}", end="", file=sys.stderr, flush=True)
        yield item
    if on_terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)

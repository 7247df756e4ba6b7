"""The loops that are timed, in the process that measures and in those that contenders have for themselves."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

SessionCall = tuple[str, str]  # the code of a card, and a session key
Do = Callable[[str, str], object]

_chance = random.Random()
_numbers = itertools.count()


class Elapsed(NamedTuple):
    """How long some work took, and how much CPU time its process used meanwhile."""

    seconds: float
    cpu_seconds: float


class Load(NamedTuple):
    """A time (of time.monotonic) in which to lock and release, on a random card of ``vouchers`` each time."""

    vouchers: int
    begins: float
    ends: float


def timed(work: Callable[[], object]) -> Elapsed:
    """How long some work takes. Work that was timed in another process returns that itself."""
    began, cpu_began = time.perf_counter(), time.process_time()
    done = work()
    elapsed = Elapsed(time.perf_counter() - began, time.process_time() - cpu_began)
    return done if isinstance(done, Elapsed) else elapsed


def repeated(do: Do, calls: Sequence[SessionCall]) -> Elapsed:
    """One call after the other."""

    def work() -> None:
        for code, key in calls:
            do(code, key)

    return timed(work)


def code(number: int) -> str:
    """A card of the axis ``load``."""
    return f"LOAD-{number:05}"


def under_load(lock: Do, release: Do, load: Load) -> float:
    """Calls a second of a caller that locks and releases one session after the other."""
    time.sleep(max(0.0, load.begins - time.monotonic()))
    done, began = 0, time.monotonic()
    while not done or time.monotonic() < load.ends:
        card, key = code(_chance.randrange(load.vouchers)), f"ssn_{os.getpid():016}{next(_numbers):016}"
        lock(card, key)
        release(card, key)
        done += 2
    return done / (time.monotonic() - began)


def in_threads(lock: Do, release: Do, shares: Sequence[Sequence[SessionCall]]) -> Elapsed:
    """All shares at once, each in a thread: lock and release one session after the other."""

    def work(share: Sequence[SessionCall]) -> None:
        for card, key in share:
            lock(card, key)
            release(card, key)

    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(time.sleep, [0.001] * len(shares)))  # starts the threads
        return timed(lambda: list(pool.map(work, shares)))

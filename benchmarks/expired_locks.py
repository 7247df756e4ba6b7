"""Axis: what the first call finds when many locks have expired since the last one, and the calls after it."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.bulk_locks import create_locks, now_ms
from benchmarks.contenders import LOCK, Contender, this_library
from benchmarks.measure import DEAREST_US, SCRIPT_CALLS, SERVER_US, Subject, progress, turns
from benchmarks.verbs import key
from voucher_sessions._core.keys import Keys

AXIS = "expired locks"
BATCH, DAY = 500, 86_400  # what one script call reclaims at most; a lock a second
ALONE, BESIDE = "new lock, all expired", "new lock, beside a live lock"
FIRST, NEXT = range(1, 2), range(2, 12)  # the numbers of the sessions that lock


def name(count: int) -> str:
    return f"{count:,} expired"


def _fill(bench: BenchmarkRun, contender: Contender, count: int, case: str, ends_ms: int) -> None:
    """A voucher with so many locks that expire, for every round a copy of its book and its index."""
    model = f"{case}-{count}"
    contender.put([model])
    if case == BESIDE:
        contender.verbs[LOCK](model, key(0))
    create_locks(bench.admin, model, count, max(ends_ms, now_ms(bench.admin) + 1))
    for number in range(bench.rounds):
        for one, other in zip(Keys("vs").voucher(model), Keys("vs").voucher(f"{model}-{number}"), strict=True):
            bench.admin.copy(one, other)


def _fill_all(bench: BenchmarkRun, contender: Contender, counts: tuple[int, ...], ms: int) -> None:
    """Back when all locks have expired, and not one before the last was made."""
    ends_ms = now_ms(bench.admin) + ms
    for case in (ALONE, BESIDE):
        for count in counts:
            _fill(bench, contender, count, case, ends_ms)
    left_ms = ends_ms - now_ms(bench.admin)
    if left_ms < 0:
        bench.admin.flushall()
        _fill_all(bench, contender, counts, 2 * ms)
    else:
        time.sleep(left_ms / 1000 + 1.1)


def _script_us(admin: Any, contender: Contender, code: str, sessions: range) -> list[int]:
    """What each script call took the server."""
    admin.slowlog_reset()
    for number in sessions:
        contender.verbs[LOCK](code, key(number))
    return [entry["duration"] for entry in admin.slowlog_get(10_000) if entry["command"].startswith(b"EVALSHA")]


def run(bench: BenchmarkRun) -> None:
    """A round looks at each voucher once. The server is kept from taking away what has expired before it is asked."""
    contender = this_library.contender(bench.addresses.client())
    counts = (0, BATCH, 2_000 if bench.quick else DAY)
    bench.admin.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    _fill_all(bench, contender, counts, 2_000 if bench.quick else 15_000)
    bench.admin.config_set("slowlog-max-len", 10_000)
    bench.admin.config_set("slowlog-log-slower-than", 0)
    for number in progress(AXIS, range(bench.rounds)):
        for case, count in turns([(case, count) for case in (ALONE, BESIDE) for count in counts], number):
            for which, sessions in (("", FIRST), (": the next", NEXT)):
                us = _script_us(bench.admin, contender, f"{case}-{count}-{number}", sessions)
                subject = AXIS, case + which, name(count)
                bench.samples.add(Subject(*subject, SERVER_US), statistics.median(us))
                bench.samples.add(Subject(*subject, DEAREST_US), max(us))
                bench.samples.add(Subject(*subject, SCRIPT_CALLS), len(us) / len(sessions))
    contender.close()

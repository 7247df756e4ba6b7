"""Axis: the first call after many locks have expired, which reclaims them, and the calls after it."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.bulk_locks import create_locks, now_ms
from benchmarks.contenders import Contender, Verb, this_library
from benchmarks.measure import SCRIPT_CALLS, SERVER_US, SLOWEST_US, Subject, progress, turns
from benchmarks.verbs import key
from voucher_sessions._core.keys import Keys

AXIS = "expired locks"
BATCH, DAY = 500, 86_400  # the most that one script call reclaims; a day with one lock a second
ALONE, BESIDE = "new lock, all expired", "new lock, beside a live lock"
FIRST, NEXT = range(1, 2), range(2, 12)  # the numbers of the sessions that lock


def name(count: int) -> str:
    return f"{count:,} expired"


def _create_voucher(bench: BenchmarkRun, contender: Contender, count: int, case: str, ends_ms: int) -> None:
    """Create a voucher with ``count`` locks that expire, and a copy of its book and index for each round."""
    model = f"{case}-{count}"
    contender.put([model])
    if case == BESIDE:
        contender.verbs[Verb.LOCK](model, key(0))
    create_locks(bench.admin, model, count, max(ends_ms, now_ms(bench.admin) + 1))
    for number in range(bench.rounds):
        for one, other in zip(Keys("vs").voucher(model), Keys("vs").voucher(f"{model}-{number}"), strict=True):
            bench.admin.copy(one, other)


def _create_vouchers(bench: BenchmarkRun, contender: Contender, counts: tuple[int, ...], ms: int) -> None:
    """Create all vouchers, and return when all locks have expired. No lock expires before the last one was created: if the
    time was too short, all is deleted and created again with twice the time.
    """
    ends_ms = now_ms(bench.admin) + ms
    for case in (ALONE, BESIDE):
        for count in counts:
            _create_voucher(bench, contender, count, case, ends_ms)
    left_ms = ends_ms - now_ms(bench.admin)
    if left_ms < 0:
        bench.admin.flushall()
        _create_vouchers(bench, contender, counts, 2 * ms)
    else:
        time.sleep(left_ms / 1000 + 1.1)


def _script_us(admin: Any, contender: Contender, code: str, sessions: range) -> list[int]:
    """Microseconds of each script call, from SLOWLOG."""
    admin.slowlog_reset()
    for number in sessions:
        contender.verbs[Verb.LOCK](code, key(number))
    return [entry["duration"] for entry in admin.slowlog_get(10_000) if entry["command"].startswith(b"EVALSHA")]


def run(bench: BenchmarkRun) -> None:
    """Each round uses one copy of each voucher. DEBUG keeps the server from deleting expired keys by itself."""
    contender = this_library.contender(bench.addresses.client())
    counts = (0, BATCH, 2_000 if bench.quick else DAY)
    bench.admin.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    _create_vouchers(bench, contender, counts, 2_000 if bench.quick else 15_000)
    bench.admin.config_set("slowlog-max-len", 10_000)
    bench.admin.config_set("slowlog-log-slower-than", 0)
    for number in progress(AXIS, range(bench.rounds)):
        for case, count in turns([(case, count) for case in (ALONE, BESIDE) for count in counts], number):
            for which, sessions in (("", FIRST), (": the next", NEXT)):
                us = _script_us(bench.admin, contender, f"{case}-{count}-{number}", sessions)
                subject = AXIS, case + which, name(count)
                bench.samples.add(Subject(*subject, SERVER_US), statistics.median(us))
                bench.samples.add(Subject(*subject, SLOWEST_US), max(us))
                bench.samples.add(Subject(*subject, SCRIPT_CALLS), len(us) / len(sessions))
    contender.close()

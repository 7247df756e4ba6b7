"""Axis: calls on a voucher with one live lock, and with up to a million of them."""

from __future__ import annotations

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.bulk_locks import create_locks, now_ms
from benchmarks.contenders import Verb, this_library
from benchmarks.measure import measure, progress, turns
from benchmarks.verbs import case_of, sessions

AXIS = "live locks"
COUNTS = (1, 100, 10_000, 1_000_000)
CALLS = 10  # per turn; few, so that the voucher with one live lock never has many more
WEEK_MS = 7 * 86_400_000


def name(count: int) -> str:
    return f"{count:,} live"


def _code(count: int) -> str:
    return f"LIVE-{count:07}"


def run(bench: BenchmarkRun) -> None:
    """The vouchers take turns within each verb, and each turn ends the locks that it created."""
    counts = COUNTS[: 3 if bench.quick else None]
    contender = this_library.contender(bench.addresses.client())
    contender.put(map(_code, counts))
    for count in counts:
        create_locks(bench.admin, _code(count), count, now_ms(bench.admin) + WEEK_MS)
    for number in progress(AXIS, range(bench.rounds)):
        for verb in Verb:
            for count in turns(counts, number):
                turn = sessions(verb, CALLS, 2 * CALLS * number)
                case = case_of((AXIS, verb, name(count)), contender, verb, _code(count), turn)
                measure(bench.samples, bench.admin, case, CALLS)
    contender.close()

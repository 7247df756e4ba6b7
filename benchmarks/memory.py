"""Axis: bytes per voucher, lock and receipt, by the server's used_memory and by MEMORY USAGE of each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import Verb, this_library
from benchmarks.measure import BYTES, Subject, progress
from benchmarks.verbs import key
from voucher_sessions import VoucherSessions

AXIS = "memory"
VOUCHER, OWN, SHARED, RECEIPT, ROLLBACK, ADJUSTMENT = (
    "a voucher",
    "a live lock on a voucher of its own, above the voucher",
    "a live lock on a shared voucher",
    "a receipt",
    "a receipt of a partial rollback",
    "a receipt of an adjustment",
)
USED, USAGE, TABLES = "used_memory", "MEMORY USAGE", "MEMORY USAGE and the tables of keys"


def _used_memory(admin: Any) -> int:
    return int(admin.info("memory")["used_memory"])


def _memory_usage(admin: Any) -> int:
    """The sum over all keys; samples=0 measures every element of a key."""
    keys = list(admin.scan_iter(count=10_000))
    with admin.pipeline(transaction=False) as pipe:
        for each in keys:
            pipe.memory_usage(each, samples=0)
        return sum(pipe.execute())


def _memory_usage_and_tables(admin: Any) -> int:
    """With the hash tables of keys and expiries, which MEMORY USAGE of a key leaves out. Redis 7 does not report them."""
    return _memory_usage(admin) + int(admin.memory_stats().get("overhead.db.hashtable.lut", 0))


WAYS: Final = {USED: _used_memory, USAGE: _memory_usage, TABLES: _memory_usage_and_tables}


def run(bench: BenchmarkRun) -> None:
    """Measured once: memory does not vary between rounds."""
    count = 1_000 if bench.quick else 20_000
    client = bench.addresses.client()
    contender = this_library.contender(client)
    lock, redeem = contender.verbs[Verb.LOCK], contender.verbs[Verb.REDEEM]
    codes = [f"MEMO-{number:07}" for number in range(count)]
    steps: dict[str, Callable[[int], object]] = {
        VOUCHER: lambda number: contender.put([codes[number]]),
        OWN: lambda number: lock(codes[number], key(number)),
        SHARED: lambda number: lock("SHARED", key(number)),
        RECEIPT: lambda number: redeem("SHARED", ""),
        ROLLBACK: lambda number: engine.rollback("SHARED", "order", credits=1, rollback_id=f"refund-{number:07}"),
        ADJUSTMENT: lambda number: engine.adjust("SHARED", credits=1, adjustment_id=f"top-up-{number:07}"),
    }
    contender.put(["SHARED"])
    engine = VoucherSessions(client)
    engine.adjust("SHARED", credits=count)
    engine.redeem("SHARED", credits=count, redemption_id="order")
    for each in progress(AXIS, steps):
        before = {way: size(bench.admin) for way, size in WAYS.items()}
        for number in range(count):
            steps[each](number)
        for way, size in WAYS.items():
            bench.samples.add(Subject(AXIS, each, way, BYTES), (size(bench.admin) - before[way]) / count)
    engine.close()
    client.close()

"""Axis: bytes of a voucher, a lock and a receipt, by what the server uses and by what it says of each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import LOCK, REDEEM, this_library
from benchmarks.measure import BYTES, Subject, progress
from benchmarks.verbs import key

AXIS = "memory"
VOUCHER, OWN, SHARED, RECEIPT = (
    "a voucher",
    "a live lock on a voucher of its own, above the voucher",
    "a live lock on a shared voucher",
    "a receipt",
)
USED, TOLD, TABLES = "used_memory", "MEMORY USAGE", "MEMORY USAGE and the tables of keys"


def _used(admin: Any) -> int:
    return int(admin.info("memory")["used_memory"])


def _told(admin: Any) -> int:
    """Of all keys, each looked at in full."""
    keys = list(admin.scan_iter(count=10_000))
    with admin.pipeline(transaction=False) as pipe:
        for each in keys:
            pipe.memory_usage(each, samples=0)
        return sum(pipe.execute())


def _told_with_tables(admin: Any) -> int:
    """And what the server needs to find the keys, and which of them expire: no part of any key's own usage."""
    return _told(admin) + int(admin.memory_stats().get("overhead.db.hashtable.lut", 0))


WAYS: Final = {USED: _used, TOLD: _told, TABLES: _told_with_tables}  # Redis 7 tells of no tables


def run(bench: BenchmarkRun) -> None:
    """Each once: memory does not depend on the moment."""
    count = 1_000 if bench.quick else 20_000
    client = bench.addresses.client()
    contender = this_library.contender(client)
    lock, redeem = contender.verbs[LOCK], contender.verbs[REDEEM]
    codes = [f"MEMO-{number:07}" for number in range(count)]
    steps: dict[str, Callable[[int], object]] = {
        VOUCHER: lambda number: contender.put([codes[number]]),
        OWN: lambda number: lock(codes[number], key(number)),
        SHARED: lambda number: lock("SHARED", key(number)),
        RECEIPT: lambda number: redeem("SHARED", ""),
    }
    contender.put(["SHARED"])
    for each in progress(AXIS, steps):
        before = {way: tell(bench.admin) for way, tell in WAYS.items()}
        for number in range(count):
            steps[each](number)
        for way, tell in WAYS.items():
            bench.samples.add(Subject(AXIS, each, way, BYTES), (tell(bench.admin) - before[way]) / count)
    client.close()

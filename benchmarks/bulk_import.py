"""Axis: vouchers and redemptions imported a second, beside one call per row, and the memory that an import takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.measure import BYTES, THROUGHPUT, Subject, progress, turns
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.bulk import import_redemptions, put_vouchers

AXIS = "bulk import"
ONE_EACH, BULK = "one call per row", "the bulk tool"
VOUCHERS, REDEMPTIONS = "vouchers", "redemptions"


def name(case: str, rows: int) -> str:
    return f"{rows:,} {case}"


def _vouchers(rows: int) -> Iterator[Voucher]:
    return (Voucher(code=f"BULK-{number}", quantity=1, credits=5000) for number in range(rows))


def _redemptions(rows: int) -> Iterator[dict[str, Any]]:
    return ({"code": f"BULK-{number}", "id": "order", "credits": 100} for number in range(rows))


def run(bench: BenchmarkRun) -> None:
    """The peak of memory is measured in runs of their own, since tracemalloc makes them slow."""
    rows = 300 if bench.quick else 10_000
    with VoucherSessions(bench.addresses.client()) as engine:

        def put_each() -> None:
            for voucher in _vouchers(rows):
                engine.put_voucher(voucher, if_exists="keep")

        def redeem_each() -> None:
            for row in _redemptions(rows):
                engine.redeem(row["code"], credits=row["credits"], redemption_id=row["id"])

        steps: dict[str, dict[str, Callable[[], object]]] = {
            VOUCHERS: {ONE_EACH: put_each, BULK: lambda: put_vouchers(engine, _vouchers(rows))},
            REDEMPTIONS: {
                ONE_EACH: redeem_each,
                BULK: lambda: import_redemptions(engine, _redemptions(rows), count=True),
            },
        }
        for number in progress(AXIS, range(min(bench.rounds, 5))):
            for contender in turns((ONE_EACH, BULK), number):
                bench.admin.flushall()
                for case, ways in steps.items():
                    began = perf_counter()
                    ways[contender]()
                    figure = Subject(AXIS, name(case, rows), contender, THROUGHPUT)
                    bench.samples.add(figure, rows / (perf_counter() - began))
        for many in (rows, 10 * rows):
            bench.samples.add(Subject(AXIS, f"peak memory, {name(VOUCHERS, many)}", BULK, BYTES), _peak(engine, many))


def _peak(engine: VoucherSessions, rows: int) -> float:
    """Bytes that Python held at most while it imported vouchers."""
    tracemalloc.start()
    put_vouchers(engine, _vouchers(rows))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(peak)

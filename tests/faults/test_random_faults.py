"""Random faults under load: processes, threads and tasks use the same vouchers, and their history must be linearizable.

SOAK_SECONDS sets a longer run; then ``pytest -s`` shows its progress.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

import pytest
from support.servers import Server

from faults.history import Op, Recorder
from faults.linearizable import TooManyOrders, check, together
from faults.proxy import FAULTS, OUT_OF_STEP
from faults.random_load import CALLERS, PROCESSES, LoadPlan, LoadResult, codes, limits, run, warm_up
from voucher_sessions import VoucherSessions

ROUND_SECONDS = 2.0
STEPS = 20_000  # more orders than these are not tried: seconds, where nearly all vouchers take milliseconds
spawn = multiprocessing.get_context("spawn")


@pytest.mark.parametrize("sharing", [False, True], ids=["carts of their own", "shared carts"])
def test_histories_under_random_faults_are_linearizable(
    sharing: bool, real_servers: list[Server], soak_seconds: float, tmp_path: Path
) -> None:
    ends = time.monotonic() + soak_seconds
    counts: Counter[str] = Counter()
    injected: Counter[str] = Counter()
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as processes:
        list(processes.map(warm_up, range(2 * PROCESSES)))
        for server in cycle(real_servers):
            results = run_round(processes, server, sharing=sharing)
            history = [op for each in results for op in each.history]
            counts += Counter("unknown" if op.end is None else "answered" for op in history) + check_history(
                history, tmp_path
            )
            injected += sum((each.injected for each in results), Counter())
            print(f"{dict(counts)}; {injected.total()} faults injected: {dict(injected)}; 0 violations", flush=True)
            if time.monotonic() > ends:
                break
    assert counts["vouchers given up"] <= counts["vouchers checked"] / 20
    assert set(injected) == {*FAULTS, *OUT_OF_STEP}


def run_round(processes: ProcessPoolExecutor, server: Server, *, sharing: bool) -> list[LoadResult]:
    """One round, and the vouchers put before it."""
    begin, seed = time.monotonic() + 0.3, random.randrange(2**32)
    plans = [
        LoadPlan(at, server.socket, begin, ROUND_SECONDS, seed + CALLERS * at, sharing=sharing)
        for at in range(PROCESSES)
    ]
    recorder = Recorder("first")
    with server.client() as client:
        for found in codes(plans[0]):
            for code in found:
                recorder.call(VoucherSessions(client), "put_voucher", limits(code))
    return [LoadResult(recorder.history, Counter()), *processes.map(run, plans)]


def check_history(history: list[Op], folder: Path) -> Counter[str]:
    """Voucher by voucher, those that are in one stack together; what cannot be explained is kept."""
    counts: Counter[str] = Counter()
    for ops in together(history):
        try:
            check(ops, steps=STEPS)
            counts["vouchers checked"] += 1
        except TooManyOrders:
            counts["vouchers given up"] += 1
        except AssertionError as error:
            kept = folder / "history.json"
            kept.write_text(json.dumps([asdict(op) for op in ops]))
            error.add_note(f"the history is in {kept}")
            raise
    return counts

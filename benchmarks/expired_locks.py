"""Axis: what the first call finds when many locks have expired since the last one, and the calls after it."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.bench import Bench
from benchmarks.contenders import LOCK, Contender, ours
from benchmarks.filled import fill
from benchmarks.measure import DEAREST_US, SCRIPT_CALLS, Subject, progress, turns
from benchmarks.verbs import key
from voucher_sessions.keys import Keys

AXIS = "expired locks"
BATCH, DAY = 500, 86_400  # what one script call reclaims at most; a lock a second
ALONE, BESIDE = "new lock, all expired", "new lock, beside a live lock"
FIRST, NEXT = range(1, 2), range(2, 12)  # the numbers of the sessions that lock


def name(count: int) -> str:
    return f"{count:,} expired"


def _expired(bench: Bench, contender: Contender, counts: dict[str, int], seconds: float) -> bool:
    """Lock vouchers many times, and wait until that has expired; False if some had before the last was made."""
    ends = time.monotonic() + seconds
    for code, count in counts.items():
        fill(bench.admin, code, count, max(1, int((ends - time.monotonic()) * 1000)))
    whole = all(bench.admin.zcard(Keys("vs").voucher(code)[1]) >= count for code, count in counts.items())
    time.sleep(max(0.0, ends - time.monotonic()) + 1.1)
    return whole


def _script_us(admin: Any, contender: Contender, code: str, numbers: range) -> list[int]:
    """What each script call took the server."""
    admin.slowlog_reset()
    for number in numbers:
        contender.verbs[LOCK](code, key(number))
    return [entry["duration"] for entry in admin.slowlog_get(10_000) if entry["command"].startswith(b"EVALSHA")]


def run(bench: Bench) -> None:
    """A round makes all vouchers anew, and looks at each once."""
    contender = ours.contender(bench.addresses.client())
    bench.admin.config_set("slowlog-max-len", 10_000)
    bench.admin.config_set("slowlog-log-slower-than", 0)
    seconds, day = (1.0, 2_000) if bench.quick else (4.0, DAY)
    cards = {(case, count): f"{case}-{count}" for case in (ALONE, BESIDE) for count in (0, BATCH, day)}
    for number in progress(AXIS, range(bench.rounds)):
        while True:
            bench.admin.flushall()
            contender.put(cards.values())
            for (case, _), code in cards.items():
                if case == BESIDE:
                    contender.verbs[LOCK](code, key(0))
            if _expired(bench, contender, {code: count for (_, count), code in cards.items()}, seconds):
                break
            seconds *= 2
        for case, count in turns(cards, number):
            for which, numbers in (("", FIRST), (": the next", NEXT)):
                us = _script_us(bench.admin, contender, cards[case, count], numbers)
                subject = AXIS, case + which, name(count)
                bench.samples.add(Subject(*subject, DEAREST_US), max(us))
                bench.samples.add(Subject(*subject, SCRIPT_CALLS), len(us) / len(numbers))
    bench.admin.config_set("slowlog-log-slower-than", 10_000)
    contender.close()

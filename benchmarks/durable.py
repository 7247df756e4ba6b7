"""Axis: changes that the disk confirms, by 64 asyncio tasks: one WAITAOF for many calls, or one for each call."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis.asyncio
from support.scripted_clients import AsyncThroughClient

from benchmarks.asyncio_tasks import add, code, in_tasks, name, shares, verbs
from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import CREDITS, this_library
from benchmarks.measure import progress, turns
from voucher_sessions import AsyncVoucherSessions, Durability, Voucher

AXIS, TASKS = "durability", 64
ONE_EACH = "one WAITAOF per call, through the client"


def _write_to_disk(admin: Any) -> None:
    """Have the server write each change to its disk before it replies."""
    admin.config_set("appendfsync", "always")
    admin.config_set("appendonly", "yes")
    ends = time.monotonic() + 30
    while (state := admin.info("persistence"))["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]:
        if time.monotonic() > ends:
            raise RuntimeError("the server does not write its append-only file")
        time.sleep(0.05)


async def _run(bench: BenchmarkRun) -> None:
    calls = 2 * TASKS * (2 if bench.quick else 16)
    durability = Durability(fsync=True)
    clients: list[Any] = [
        each(unix_socket_path=bench.addresses.socket, max_connections=TASKS)
        for each in (AsyncThroughClient, redis.asyncio.Redis)
    ]
    engines = [AsyncVoucherSessions(client, durability=durability) for client in clients]
    contenders = dict(zip((ONE_EACH, this_library.NAME), map(verbs, engines), strict=True))
    for number in range(TASKS):
        await engines[0].put_voucher(Voucher(code=code(number), credits=CREDITS))
    for do in contenders.values():  # opens the connections
        await in_tasks(*do, shares(TASKS, 2 * TASKS, TASKS))
    for number in progress(AXIS, range(bench.rounds)):
        for contender in turns(contenders, number):
            elapsed = await in_tasks(*contenders[contender], shares(TASKS, calls, TASKS))
            add(bench.samples, (AXIS, name(TASKS), contender), elapsed, calls)
    for engine, client in zip(engines, clients, strict=True):
        await engine.aclose()
        await client.aclose()


def run(bench: BenchmarkRun) -> None:
    """The contenders take turns."""
    _write_to_disk(bench.admin)
    asyncio.run(_run(bench))

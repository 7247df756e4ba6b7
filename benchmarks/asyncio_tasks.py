"""Axis: validate and release with asyncio, by 1, 16 and 256 tasks at once."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import redis.asyncio

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import CREDITS, Verb, minimal_scripts, this_library
from benchmarks.measure import CLIENT_US, Subject, progress, turns
from benchmarks.verbs import key
from voucher_sessions import AsyncVoucherSessions, Voucher

AXIS, CODE = "asyncio", "ASYNC-00"
TASKS = (1, 16, 256)
SessionCall = Callable[[str], Awaitable[object]]  # takes a session key


def name(tasks: int) -> str:
    return f"{tasks} {'task' if tasks == 1 else 'tasks'}"


def _verbs(client: Any, engine: Any, verb: Verb) -> dict[str, SessionCall]:
    command = minimal_scripts.nothing(verb)
    sha = minimal_scripts.sha(minimal_scripts.DO_NOTHING)

    async def do(session_key: str) -> None:
        this_library.granted(await this_library.REQUESTS[verb](engine, CODE, session_key))

    return {minimal_scripts.NO_OP: lambda session_key: client.evalsha(sha, *command), this_library.NAME: do}


async def _us(lock: SessionCall, release: SessionCall, tasks: int, keys: Iterator[str]) -> float:
    """Microseconds per call; the number of calls does not depend on the number of tasks."""

    async def work() -> None:
        for session_key in itertools.islice(keys, max(TASKS) // tasks):
            await lock(session_key)
            await release(session_key)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return (time.perf_counter() - began) * 1e6 / (2 * max(TASKS))


async def _run(bench: BenchmarkRun) -> None:
    # The default pool of redis-py has 100 connections at most.
    client: Any = redis.asyncio.Redis(unix_socket_path=bench.addresses.socket, max_connections=max(TASKS))
    engine = AsyncVoucherSessions(client)
    await client.script_load(minimal_scripts.DO_NOTHING)
    await engine.put_voucher(Voucher(code=CODE, credits=CREDITS))
    locks, releases = _verbs(client, engine, Verb.LOCK), _verbs(client, engine, Verb.RELEASE)
    keys = map(key, itertools.count())
    for contender in locks:  # opens the connections
        await _us(locks[contender], releases[contender], max(TASKS), keys)
    for number in progress(AXIS, range(bench.rounds)):
        for tasks in TASKS:
            for contender in turns(locks, number):
                us = await _us(locks[contender], releases[contender], tasks, keys)
                bench.samples.add(Subject(AXIS, name(tasks), contender, CLIENT_US), us)
    await client.aclose()


def run(bench: BenchmarkRun) -> None:
    """The contenders take turns with each number of tasks."""
    asyncio.run(_run(bench))

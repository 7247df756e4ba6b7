"""Axis: validate and release with asyncio, by 1 to 256 tasks at once.

Each task has a voucher of its own; one contender has one voucher for all tasks. ``through the client``: an engine that
sends each call through the client, as it does for a client class that has an ``execute_command`` of its own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import redis.asyncio
from support.scripted_clients import AsyncThroughClient

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import CREDITS, Verb, escrowmint_reservations, minimal_scripts, this_library
from benchmarks.loops import Elapsed, SessionCall
from benchmarks.measure import CLIENT_US, CPU_US, THROUGHPUT, Samples, Subject, progress, turns
from benchmarks.verbs import key
from voucher_sessions import AsyncVoucherSessions, Voucher

AXIS = "asyncio"
TASKS = (1, 16, 64, 256)
THREADS = 64  # escrowmint has no asyncio client
NO_OP, OURS = minimal_scripts.NO_OP, this_library.NAME
ONE_VOUCHER, THROUGH_CLIENT = f"{OURS}, one voucher", f"{OURS}, through the client"

Do = Callable[[str, str], Awaitable[object]]
Shares = Sequence[Sequence[SessionCall]]  # what each task calls
_keys = map(key, itertools.count())


def name(tasks: int) -> str:
    return f"{tasks} {'task' if tasks == 1 else 'tasks'}"


def code(number: int) -> str:
    return f"TASK-{number:05}"


def shares(tasks: int, calls: int, vouchers: int) -> Shares:
    """The sessions of each task, which together make ``calls`` calls, two for each session."""
    return [[(code(at % vouchers), next(_keys)) for _ in range(calls // tasks // 2)] for at in range(tasks)]


async def in_tasks(lock: Do, release: Do, shares: Shares) -> Elapsed:
    """All shares at once, each in a task: lock and release one session after the other."""

    async def work(share: Sequence[SessionCall]) -> None:
        for card, session_key in share:
            await lock(card, session_key)
            await release(card, session_key)

    began, cpu_began = perf_counter(), process_time()
    await asyncio.gather(*map(work, shares))
    return Elapsed(perf_counter() - began, process_time() - cpu_began)


def verbs(engine: Any) -> tuple[Do, Do]:
    """Lock and release of an engine."""

    def do(verb: Verb) -> Do:
        async def call(card: str, session_key: str) -> None:
            this_library.granted(await this_library.REQUESTS[verb](engine, card, session_key))

        return call

    return do(Verb.LOCK), do(Verb.RELEASE)


def _no_op(client: Any) -> tuple[Do, Do]:
    """An EVALSHA that does nothing, through the pool of the client."""
    sha = minimal_scripts.sha(minimal_scripts.DO_NOTHING)

    def do(verb: Verb) -> Do:
        command = minimal_scripts.nothing(verb)
        return lambda card, session_key: client.evalsha(sha, *command)

    return do(Verb.LOCK), do(Verb.RELEASE)


def add(samples: Samples, subject: tuple[str, str, str], elapsed: Elapsed, calls: int) -> None:
    """The figures of a turn."""
    samples.add(Subject(*subject, CLIENT_US), elapsed.seconds * 1e6 / calls)
    samples.add(Subject(*subject, THROUGHPUT), calls / elapsed.seconds)
    samples.add(Subject(*subject, CPU_US), elapsed.cpu_seconds * 1e6 / calls)


async def _run(bench: BenchmarkRun) -> None:
    calls = 2 * max(TASKS) * (1 if bench.quick else 4)  # of a turn, whatever the number of tasks
    escrowmint = escrowmint_reservations.contender(bench.addresses.escrowmint, bench.addresses.socket)
    # The default pool of redis-py has 100 connections at most.
    client: Any = redis.asyncio.Redis(unix_socket_path=bench.addresses.socket, max_connections=max(TASKS))
    overriding: Any = AsyncThroughClient(unix_socket_path=bench.addresses.socket, max_connections=max(TASKS))
    engine = AsyncVoucherSessions(client)
    await client.script_load(minimal_scripts.DO_NOTHING)
    codes = list(map(code, range(max(TASKS))))
    for each in codes:
        await engine.put_voucher(Voucher(code=each, credits=CREDITS))
    escrowmint.put(codes)
    contenders = {
        NO_OP: _no_op(client),
        OURS: verbs(engine),
        ONE_VOUCHER: verbs(engine),
        THROUGH_CLIENT: verbs(AsyncVoucherSessions(overriding)),
        escrowmint.name: None,
    }

    async def turn(contender: str, tasks: int) -> Elapsed:
        todo = shares(tasks, calls, 1 if contender == ONE_VOUCHER else tasks)
        do = contenders[contender]
        return escrowmint.in_threads(todo) if do is None else await in_tasks(*do, todo)

    for contender in contenders:  # opens the connections
        await turn(contender, max(TASKS) if contender != escrowmint.name else THREADS)
    for number in progress(AXIS, range(bench.rounds)):
        for tasks in TASKS:
            for contender in turns(
                [each for each in contenders if tasks == THREADS or each != escrowmint.name], number
            ):
                add(bench.samples, (AXIS, name(tasks), contender), await turn(contender, tasks), calls)
    await engine.aclose()
    await client.aclose()
    await overriding.aclose()
    escrowmint.close()


def run(bench: BenchmarkRun) -> None:
    """The contenders take turns with each number of tasks."""
    asyncio.run(_run(bench))

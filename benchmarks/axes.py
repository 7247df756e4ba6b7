"""The list of all axes, in the order of the tables. An axis is one question, measured by one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from benchmarks import (
    asyncio_tasks,
    batches,
    bulk_import,
    durable,
    expired_locks,
    import_time,
    live_locks,
    load,
    memory,
    reply_parsers,
    stacks,
    verbs,
    web,
)
from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders.minimal_scripts import NO_OP


class Axis(NamedTuple):
    """The function that measures it, and the contender by whose figures the others are divided."""

    run: Callable[[BenchmarkRun], None]
    yardstick: str


AXES: Final[Mapping[str, Axis]] = {
    verbs.AXIS: Axis(verbs.run, NO_OP),
    verbs.OWN: Axis(verbs.run_own, NO_OP),
    batches.AXIS: Axis(batches.run, batches.NO_OP),
    load.AXIS: Axis(load.run, NO_OP),
    asyncio_tasks.AXIS: Axis(asyncio_tasks.run, NO_OP),
    bulk_import.AXIS: Axis(bulk_import.run, bulk_import.ONE_EACH),
    durable.AXIS: Axis(durable.run, durable.ONE_EACH),
    web.AXIS: Axis(web.run, web.ONE_GET),
    reply_parsers.AXIS: Axis(reply_parsers.run, NO_OP),
    live_locks.AXIS: Axis(live_locks.run, live_locks.name(1)),
    expired_locks.AXIS: Axis(expired_locks.run, expired_locks.name(expired_locks.BATCH)),
    stacks.AXIS: Axis(stacks.run, stacks.name(1, hot=True)),
    memory.AXIS: Axis(memory.run, memory.USED),
    import_time.AXIS: Axis(import_time.run, import_time.DEPENDENCIES),
}

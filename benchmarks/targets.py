"""The performance targets, as data. Reports show them beside the figures; no test enforces them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks import asyncio_tasks, batches, expired_locks, import_time, live_locks, load, memory, verbs
from benchmarks.contenders import Verb
from benchmarks.contenders.escrowmint_reservations import NAME as ESCROWMINT
from benchmarks.contenders.minimal_scripts import NO_OP, WRITES
from benchmarks.contenders.postgres import NAME as POSTGRES
from benchmarks.contenders.postgres import NOT_AWAITED as POSTGRES_NOT_AWAITED
from benchmarks.contenders.redis_lock_and_watch import LOCKED, LOCKED_EAGER, WATCHED
from benchmarks.contenders.this_library import NAME as OURS
from benchmarks.measure import BYTES, CLIENT_US, MS, SERVER_US, THROUGHPUT, Samples, Spread, Subject


class Target(NamedTuple):
    """A bound of a figure, divided by the figure of the contender ``to`` if that is given."""

    number: int
    subject: Subject
    to: str | None
    bound: float
    at_least: bool = False

    @property
    def text(self) -> str:
        """The target as a sentence of the reports."""
        axis, case, contender, figure = self.subject
        divided = f" / {self.to}" if self.to else ""
        return f"{axis}, {case}, {figure}: {contender}{divided} {'≥' if self.at_least else '≤'} {self.bound:g}"

    def measured(self, samples: Samples) -> Spread | None:
        """The measured figure or ratio; None if it was not measured."""
        if self.subject not in samples.values:
            return None
        if self.to is None:
            return samples.spread(self.subject)
        return samples.ratio(self.subject, self.subject._replace(contender=self.to))

    def verdict(self, measured: Spread | None) -> str:
        """ok, missed or not measured."""
        if measured is None:
            return "not measured"
        return "ok" if (measured.median >= self.bound if self.at_least else measured.median <= self.bound) else "missed"


def _all() -> Iterator[Target]:
    of_no_op = {Verb.VALIDATE: 2.5, Verb.LOCK: 4, Verb.REDEEM_SESSION: 4, Verb.RELEASE: 4}
    for axis, ours, no_op, writes in (
        (verbs.AXIS, OURS, NO_OP, WRITES),
        (verbs.OWN, OURS, NO_OP, WRITES),
        (batches.AXIS, batches.SCRIPTS, batches.NO_OP, batches.WRITES),
    ):
        for verb, bound in of_no_op.items():
            if (axis, verb) == (verbs.OWN, Verb.VALIDATE):  # the same as on the first axis
                continue
            yield Target(1, Subject(axis, verb, ours, SERVER_US), no_op, bound)
        yield Target(1, Subject(axis, Verb.LOCK, ours, SERVER_US), writes, 1.6)
    for verb in Verb:
        yield Target(2, Subject(verbs.AXIS, verb, OURS, CLIENT_US), NO_OP, 1.2)
    for tasks in asyncio_tasks.TASKS:
        yield Target(2, Subject(asyncio_tasks.AXIS, asyncio_tasks.name(tasks), OURS, CLIENT_US), NO_OP, 1.2)
    for axis in (verbs.AXIS, verbs.OWN):
        yield Target(3, Subject(axis, Verb.LOCK, OURS, SERVER_US), ESCROWMINT, 0.6)
        yield Target(3, Subject(axis, Verb.LOCK, OURS, CLIENT_US), ESCROWMINT, 0.75)
    for peer, alone, together in (
        (LOCKED, 3, 10),
        (LOCKED_EAGER, 3, 10),
        (WATCHED, 3, 10),
        (POSTGRES, 5, 10),
        (POSTGRES_NOT_AWAITED, 5, 10),
    ):
        yield Target(3, Subject(load.AXIS, load.ONE, OURS, THROUGHPUT), peer, alone, at_least=True)
        yield Target(3, Subject(load.AXIS, load.HOT, OURS, THROUGHPUT), peer, together, at_least=True)
    most, least = live_locks.name(live_locks.COUNTS[-1]), live_locks.name(1)
    for verb in Verb:
        yield Target(4, Subject(live_locks.AXIS, verb, most, SERVER_US), least, 1.5)
    day, batch = expired_locks.name(expired_locks.DAY), expired_locks.name(expired_locks.BATCH)
    for case in (expired_locks.ALONE, expired_locks.BESIDE):
        yield Target(4, Subject(expired_locks.AXIS, case, day, SERVER_US), batch, 1.5)
    yield Target(5, Subject(memory.AXIS, memory.OWN, memory.USED, BYTES), None, 300)
    yield Target(5, Subject(memory.AXIS, memory.SHARED, memory.USED, BYTES), None, 260)
    yield Target(6, Subject(batches.AXIS, Verb.LOCK, batches.ONE_BY_ONE, CLIENT_US), batches.PIPELINE, 5, at_least=True)
    yield Target(
        7, Subject(import_time.AXIS, import_time.CASE, import_time.PACKAGE, MS), import_time.DEPENDENCIES, 1.25
    )
    yield Target(
        7, Subject(import_time.AXIS, import_time.CASE, import_time.ENGINE, MS), import_time.DEPENDENCIES_USED, 1.25
    )


TARGETS: Final = tuple(_all())

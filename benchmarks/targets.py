"""The performance targets, as data. Reports show them beside the figures; no test enforces them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks import asyncio_tasks, batches, durable, expired_locks, import_time, live_locks, load, memory, verbs, web
from benchmarks.contenders import Verb
from benchmarks.contenders.escrowmint_reservations import NAME as ESCROWMINT
from benchmarks.contenders.minimal_scripts import NO_OP
from benchmarks.contenders.postgres import NAME as POSTGRES
from benchmarks.contenders.postgres import NOT_AWAITED as POSTGRES_NOT_AWAITED
from benchmarks.contenders.redis_lock_and_watch import LOCKED, LOCKED_EAGER, WATCHED
from benchmarks.contenders.this_library import NAME as OURS
from benchmarks.measure import BYTES, CLIENT_US, CPU_US, MS, SERVER_US, THROUGHPUT, Samples, Spread, Subject


class Target(NamedTuple):
    """A bound of a figure; of its ratio to another figure of the same axis and case, if ``to`` is given."""

    number: int
    subject: Subject
    to: Subject | None
    bound: float
    at_least: bool = False

    @property
    def text(self) -> str:
        """The target as a sentence of the reports."""
        axis, case, contender, figure = self.subject
        divisor = None if self.to is None else self.to.contender if self.to.figure == figure else self.to.figure
        divided = f" / {divisor}" if divisor else ""
        return f"{axis}, {case}, {figure}: {contender}{divided} {'≥' if self.at_least else '≤'} {self.bound:g}"

    def measured(self, samples: Samples) -> Spread | None:
        """The measured figure or ratio; None if it was not measured."""
        if self.subject not in samples.values:
            return None
        return samples.spread(self.subject) if self.to is None else samples.ratio(self.subject, self.to)

    def verdict(self, measured: Spread | None) -> str:
        """ok, missed or not measured."""
        if measured is None:
            return "not measured"
        return "ok" if (measured.median >= self.bound if self.at_least else measured.median <= self.bound) else "missed"


def _ratio(number: int, subject: Subject, to: str, bound: float, *, at_least: bool = False) -> Target:
    """Of two contenders."""
    return Target(number, subject, subject._replace(contender=to), bound, at_least)


def _one_by_one() -> Iterator[Target]:
    for verb, bound in ((Verb.VALIDATE, 1.1), (Verb.LOCK, 1.3), (Verb.REDEEM_SESSION, 1.35)):
        yield _ratio(1, Subject(verbs.AXIS, verb, OURS, CLIENT_US), NO_OP, bound)
    for verb, bound in ((Verb.VALIDATE, 1.0), (Verb.LOCK, 1.15)):
        yield _ratio(2, Subject(verbs.AXIS, verb, OURS, CPU_US), NO_OP, bound)


def _asyncio() -> Iterator[Target]:
    yield _ratio(3, Subject(asyncio_tasks.AXIS, asyncio_tasks.name(1), OURS, CLIENT_US), NO_OP, 1.15)
    for tasks, bound in ((16, 1.2), (64, 1.6), (256, 2.4)):
        case = asyncio_tasks.name(tasks)
        yield _ratio(4, Subject(asyncio_tasks.AXIS, case, OURS, THROUGHPUT), NO_OP, bound, at_least=True)
    for tasks in (16, 64, 256):
        yield _ratio(5, Subject(asyncio_tasks.AXIS, asyncio_tasks.name(tasks), OURS, CPU_US), NO_OP, 0.4)
    durability = Subject(durable.AXIS, asyncio_tasks.name(durable.TASKS), OURS, THROUGHPUT)
    yield _ratio(6, durability, durable.ONE_EACH, 3, at_least=True)
    yield _ratio(7, Subject(web.AXIS, web.CASE, web.LOCK, THROUGHPUT), web.ONE_GET, 1, at_least=True)


def _batches() -> Iterator[Target]:
    for verb, bound in ((Verb.LOCK, 1.3), (Verb.VALIDATE, 1.5)):
        yield _ratio(8, Subject(batches.AXIS, verb, batches.SCRIPTS, SERVER_US), batches.COMMANDS, bound)
    piped = Subject(batches.AXIS, Verb.LOCK, batches.PIPELINE, CLIENT_US)
    yield Target(9, piped, piped._replace(figure=SERVER_US), 2)


def _others() -> Iterator[Target]:
    for peer, alone, together in (
        (LOCKED, 3.5, 10),
        (LOCKED_EAGER, 3.5, 10),
        (WATCHED, 3.5, 10),
        (POSTGRES, 3, 6),
        (POSTGRES_NOT_AWAITED, 2.2, 4),
    ):
        yield _ratio(10, Subject(load.AXIS, load.ONE, OURS, THROUGHPUT), peer, alone, at_least=True)
        yield _ratio(10, Subject(load.AXIS, load.HOT, OURS, THROUGHPUT), peer, together, at_least=True)
    yield _ratio(11, Subject(verbs.AXIS, Verb.LOCK, OURS, CLIENT_US), ESCROWMINT, 0.8)
    callers = asyncio_tasks.name(asyncio_tasks.THREADS)
    yield _ratio(11, Subject(asyncio_tasks.AXIS, callers, OURS, THROUGHPUT), ESCROWMINT, 4, at_least=True)


def _of_earlier_rounds() -> Iterator[Target]:
    most, least = live_locks.name(live_locks.COUNTS[-1]), live_locks.name(1)
    for verb in Verb:
        yield _ratio(12, Subject(live_locks.AXIS, verb, most, SERVER_US), least, 1.5)
    day, batch = expired_locks.name(expired_locks.DAY), expired_locks.name(expired_locks.BATCH)
    for case in (expired_locks.ALONE, expired_locks.BESIDE):
        yield _ratio(12, Subject(expired_locks.AXIS, case, day, SERVER_US), batch, 1.5)
    yield Target(13, Subject(memory.AXIS, memory.OWN, memory.USED, BYTES), None, 300)
    yield Target(13, Subject(memory.AXIS, memory.SHARED, memory.USED, BYTES), None, 260)
    for statement, needs in (
        (import_time.PACKAGE, import_time.DEPENDENCIES),
        (import_time.ENGINE, import_time.DEPENDENCIES_USED),
    ):
        yield _ratio(14, Subject(import_time.AXIS, import_time.CASE, statement, MS), needs, 1.25)


TARGETS: Final = (*_one_by_one(), *_asyncio(), *_batches(), *_others(), *_of_earlier_rounds())

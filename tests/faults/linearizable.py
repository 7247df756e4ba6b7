"""Checks whether a history of calls is linearizable: possible for a server that executes one call at a time.

The search is Wing and Gong's with Lowe's memory of the states that led nowhere: it builds an order of the calls that
respects who ended before who began, and in which the model gives each call the result that its caller got. A
call whose outcome is unknown may stand anywhere after its begin, or nowhere. Vouchers that no stack ties together are
checked each by itself. A lock expires where nobody acts: not before its TTL has passed since its call could have
locked it, at the latest when it has passed since then for sure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from support.model import Books, Lock

from faults.history import Op
from faults.model_answers import FOREVER, WITHOUT_RECEIPTS, State, agrees, answer, idle, locks, state

# A server rounds its clock to whole ms, and ours may be led a little differently.
SLACK_NS = 5_000_000
STEPS = 1_000_000


@dataclass
class TimedLock(Lock):
    """A lock that expires at some moment from ``earliest`` to ``expires_at``."""

    earliest: int = FOREVER


class TooManyOrders(Exception):
    """The search was given up: the history needs fewer calls at a time for each voucher."""


def check(history: Iterable[Op], initial: Books | None = None, steps: int = STEPS) -> None:
    """Raise AssertionError where no order of the calls explains the results.

    ``initial`` are the books before the first call; by default there is no voucher. The error tells the earliest reply
    that nothing explains.
    """
    for ops in together(history):
        search = Search(ops, initial or Books(), steps)
        if not search.succeeds():
            raise AssertionError(counterexample(ops, initial or Books(), steps))


def together(history: Iterable[Op]) -> list[list[Op]]:
    """The calls by voucher, or by vouchers that share calls, in the order of their beginnings."""
    groups: list[tuple[set[str], list[Op]]] = []
    for op in history:
        codes, ops = set(op.codes), [op]
        for group in [group for group in groups if group[0] & codes]:
            groups.remove(group)
            codes |= group[0]
            ops += group[1]
        groups.append((codes, ops))
    return [sorted(ops, key=lambda op: (op.begin, op.client, op.number)) for _, ops in groups]


def counterexample(ops: Sequence[Op], initial: Books, steps: int) -> str:
    """The shortest beginning of the history that no order explains, found from where the search ended."""
    ends = sorted(op.end for op in ops if op.end is not None)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if Search(until(ops, ends[middle]), initial, steps).succeeds():
            low = middle + 1
        else:
            high = middle
    beginning = until(ops, ends[high])
    search = Search(beginning, initial, steps)
    search.succeeds()
    return search.stuck(next(op for op in beginning if op.end == ends[high]))


def until(ops: Sequence[Op], moment: int) -> list[Op]:
    """What was known at that moment: calls that had not ended may have taken effect, or not."""
    begun = (op for op in ops if op.begin <= moment)
    return [op if op.end is not None and op.end <= moment else replace(op, end=None, seen=None) for op in begun]


# What may happen without a reply: an unknown call, by number, or a lock's expiry, by code and key.
Event = int | tuple[str, str]


class Config(NamedTuple):
    """How far an order has come: which calls it has, and the books and the earliest time after them."""

    first: int  # the first of the known calls that it lacks
    ahead: frozenset[int]  # what it has of the known calls after that
    spent: frozenset[int]  # and of the unknown ones
    now: int
    books: Books
    state: State
    order: tuple[Any, ...] | None  # (the order before, what came last)
    # What happened without a reply since the last known call, and how far the order had come with that call.
    without_reply: tuple[Event, ...] = ()
    base: Config | None = None


@dataclass
class Search:
    """For an order of the calls of one group."""

    ops: Sequence[Op]
    initial: Books
    steps: int
    known: list[Op] = field(init=False)
    unknown: list[Op] = field(init=False)
    furthest: Config = field(init=False)

    def __post_init__(self) -> None:
        self.known = [op for op in self.ops if op.end is not None]
        self.unknown = [op for op in self.ops if op.end is None and op.changes]
        calls = [(op.verb, op.args) for op in self.unknown]
        # The same call, begun before: it takes effect first.
        self.twins = [next((b for b in reversed(range(at)) if calls[b] == calls[at]), None) for at in range(len(calls))]
        self.horizon = max((op.end or op.begin for op in self.ops), default=0)
        self.furthest = Config(0, frozenset(), frozenset(), 0, self.initial, state(self.initial, 0), None)

    def succeeds(self) -> bool:
        visited: dict[Any, list[frozenset[int]]] = {}
        count = 0
        stack = [self.successors(self.furthest)]
        while stack:
            config = next(stack[-1], None)
            if config is None:
                stack.pop()
                continue
            if config.first == len(self.known):
                return True
            # The time does not matter: the state says which locks are live. An unknown call that is left can only help.
            spent = visited.setdefault((config.first, config.ahead, config.state), [])
            if any(less <= config.spent for less in spent):
                continue
            spent.append(config.spent)
            count += 1
            if count > self.steps:
                raise TooManyOrders(f"{len(self.ops)} calls, {len(self.unknown)} of them unknown")
            if config.first + len(config.ahead) > self.furthest.first + len(self.furthest.ahead):
                self.furthest = config
            stack.append(self.successors(config))
        return not self.known

    def candidates(self, config: Config) -> tuple[list[int], int]:
        """The known calls that may come next, and the moment when the first of them must have come."""
        latest, found = FOREVER, []
        for at in range(config.first, len(self.known)):
            op = self.known[at]
            if op.begin > latest:
                break
            if at not in config.ahead:
                latest = min(latest, op.end or FOREVER)
                found.append(at)
        return sorted(found, key=lambda at: self.known[at].end or 0), latest

    def successors(self, config: Config) -> Iterator[Config]:
        """What may come next. Two shortcuts leave out orders where another one, which is tried, does as well.

        A known call that changed nothing comes at once: it cannot affect the others. And a call without a reply, or an
        expiry, does not come before a known call whose result is the same with it and without it.
        """
        found, latest = self.candidates(config)
        known = [(at, after) for at in found if (after := self.known_call(config, at)) is not None]
        for at, after in known:
            if idle(self.known[at]) and after.state == config.state:
                yield after
                return
        for at, after in known:
            if not self.could_come_earlier(config, at, after):
                yield after
        for event in self.events(config, latest):
            happened = self.happen(config, event, latest)
            if happened is not None and happened.state != config.state:
                yield happened._replace(without_reply=(*config.without_reply, event), base=config.base or config)

    def could_come_earlier(self, config: Config, at: int, after: Config) -> bool:
        """Whether one of the events without a reply can as well come after this call."""
        swapped = (self.swapped(config, at, event) for event in config.without_reply)
        return any(other is not None and other.state.agrees(after.state) for other in swapped)

    def swapped(self, config: Config, at: int, late: Event) -> Config | None:
        """With this event after the call; None where the call, or another event, needs it before."""
        now: Config | None = config.base
        for event in (*(each for each in config.without_reply if each != late), None, late):
            if now is None:
                return None
            now = self.known_call(now, at) if event is None else self.happen(now, event, self.candidates(now)[1])
        return now

    def known_call(self, config: Config, at: int) -> Config | None:
        """The states after this call, if the model gives the result that its caller got."""
        op = self.known[at]
        assert op.end is not None
        after = self.after(config, op, op.end)
        if after is None:
            return None
        ahead, first = config.ahead | {at}, config.first
        while first in ahead:
            ahead, first = ahead - {first}, first + 1
        return after._replace(first=first, ahead=ahead, without_reply=(), base=None)

    def after(self, config: Config, op: Op, latest: int) -> Config | None:
        """After this call, which happens at this moment at the latest."""
        now, books = max(config.now, op.begin), config.books.copy()
        expected = answer(books, op, now)
        if op.end is not None and not agrees(op, expected, op.seen):
            return None
        if locked := locked_codes(op, expected):
            ttl = op.args["ttl_ms"] * 1_000_000
            earliest, expires_at = op.begin + ttl - SLACK_NS, min(FOREVER, latest + ttl + SLACK_NS)
            if earliest > self.horizon:  # nobody will see it expire: one order like the other
                earliest = expires_at = FOREVER
            for code in locked:
                sessions = books.vouchers[code].sessions
                sessions[op.args["key"]] = TimedLock(sessions[op.args["key"]].amounts, expires_at, earliest)
        receipts = config.state.receipts if op.verb in WITHOUT_RECEIPTS else None
        after = state(books, now, receipts)
        return config._replace(now=now, books=books, state=after, order=(config.order, op))

    def events(self, config: Config, latest: int) -> Iterator[Event]:
        """What may happen next without a reply: locks that expire, and unknown calls."""
        for code, book in config.books.vouchers.items():
            for key, lock in book.live(config.now).items():
                if isinstance(lock, TimedLock) and lock.earliest <= latest and lock.earliest != FOREVER:
                    yield code, key
        for at, op in enumerate(self.unknown):
            if op.begin > latest:
                break
            if at not in config.spent and self.twins[at] in (None, *config.spent):
                yield at

    def happen(self, config: Config, event: Event, latest: int) -> Config | None:
        if isinstance(event, int):
            after = self.after(config, self.unknown[event], latest)
            return after and after._replace(spent=config.spent | {event})
        code, key = event
        book = config.books.vouchers.get(code)
        lock = book.live(config.now).get(key) if book else None
        if not isinstance(lock, TimedLock):
            return None
        books, now = config.books.copy(), max(config.now, lock.earliest)
        del books.vouchers[code].sessions[key]
        order = config.order, f"{key!r} expires on {code!r}"
        return config._replace(now=now, books=books, state=state(books, now, config.state.receipts), order=order)

    def stuck(self, op: Op) -> str:
        """Where the furthest order ends, and why none of the calls that are left can follow."""
        config = self.furthest
        order = config.order
        steps: list[Op | str] = []
        while order is not None and len(steps) < 12:
            steps.append(order[1])
            order = order[0]
        lines = [f"no order explains the result of {op}: {op.seen}", "the furthest order ends with"]
        lines += [f"    {described(each)}" for each in reversed(steps)]
        lines.append(f"the books then: {picture(config.books, config.now)}")
        found, _ = self.candidates(config)
        for at in found:
            books = config.books.copy()
            expected = answer(books, self.known[at], max(config.now, self.known[at].begin))
            lines.append(f"next {described(self.known[at])}\n    but the model says: {expected}")
        return "\n".join(lines)


def locked_codes(op: Op, expected: Any) -> list[str]:
    """The vouchers on which a call with this result sets an expiry."""
    if op.verb == "validate" and locks(op, expected):
        return [code for code, _, _ in op.args["needs"]]
    return op.codes if op.verb == "extend" and isinstance(expected, list) else []


def described(step: Op | str) -> str:
    if isinstance(step, str):
        return step
    end = "?" if step.end is None else f"{step.end / 1e6:.3f}"
    return f"[{step.begin / 1e6:.3f} to {end} ms] {step} -> {'unknown' if step.end is None else step.seen}"


def picture(books: Books, now: int) -> str:
    kept = {
        code: {
            "limit": [*book.limit],
            "used": [*book.used],
            "locked": {k: [*v.amounts] for k, v in book.live(now).items()},
        }
        for code, book in books.vouchers.items()
    }
    receipts = [
        f"{id_}{f' (given back: {[*receipt.given_back]})' if any(receipt.given_back) else ''}"
        for (_, id_), receipt in books.receipts.items()
    ]
    return f"{kept}, receipts {receipts[-10:]}"

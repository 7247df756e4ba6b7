"""Shoppers: processes that call every verb through a proxy with random faults, and record what they are told.

Each process has threads and tasks, clients that repeat and clients that do not. A shopper repeats a call whose outcome
is unknown as it was, and now and then goes on without.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, NamedTuple

from faults.history import UNKNOWN, Op, Recorder
from faults.kinds_of_caller import Act, Caller, act, lock
from faults.proxy import FAULTS, Fault, Proxy, at_random
from voucher_sessions import AsyncVoucherSessions, Redeemable, Used, Voucher, VoucherSessions

PROCESSES, LANES = 2, 6  # lanes of each process: three threads and three tasks
VOUCHERS, SLICE = 4, 0.25  # so many vouchers at a time, and seconds until others take their place
MEETING = 0.1  # seconds for which a shared cart stands
HOUR_MS = 3_600_000
TIMEOUT, DELAY, RATE = 0.1, 0.2, 0.12
# A client that repeats by itself may be refused by its second try and served by its first, if that comes late: nobody
# remembers refusals. So calls come late from the others alone, who know that they may.
LOST_REPLIES: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault != "late")

# Each way through a shop yields calls and is sent their outcomes.
Way = Generator[Act, Any, Any]


class Trip(NamedTuple):
    """What one process is to do."""

    number: int
    socket: str
    begin: float  # by time.monotonic
    seconds: float
    seed: int
    sharing: bool  # whether shoppers also use each other's carts, and put and delete vouchers


class Told(NamedTuple):
    """What came of it."""

    history: list[Op]
    injected: Counter[str]


def codes(trip: Trip) -> list[list[str]]:
    """The vouchers of a trip, slice by slice."""
    slices = range(1 + int(trip.seconds / SLICE))
    return [[f"{trip.begin:.3f}-{at}-{number}" for number in range(VOUCHERS)] for at in slices]


def limits(code: str) -> Voucher:
    """Plenty of one thing and little of another, so that shoppers meet."""
    return Voucher(code=code, quantity=None if code.endswith("0") else 6, credits=60)


class Shopper:
    """One lane of calls.

    ``brief``: some of its locks last for moments. A client that repeats by itself for longer than that would lock anew
    what has expired in between, and rightly so, but that is twice.
    """

    def __init__(self, trip: Trip, number: int, *, brief: bool) -> None:
        self._trip = trip
        self._number = LANES * trip.number + number
        self._shared: set[str] = set()
        self._ttls_ms = [40, 150, HOUR_MS] if brief else [HOUR_MS]
        self._codes = codes(trip)
        self._random = random.Random(trip.seed + number)
        self._numbers = count()

    def shop(self) -> Way:
        ends = self._trip.begin + self._trip.seconds
        while (now := time.monotonic()) < ends:
            found = self._codes[int((now - self._trip.begin) / SLICE)]
            ways = [self._pay, self._pay, self._hold, self._pay_directly, self._look, self._pay_stack]
            if self._trip.sharing:
                ways += [self._meet, self._meet, self._manage]
            yield from self._random.choice(ways)(found)

    def _settled(self, made: Act) -> Way:
        """The call, repeated while its outcome is unknown, or nearly always."""
        outcome = yield made
        while isinstance(outcome, UNKNOWN) and self._random.random() < 0.9:
            made = made.named(getattr(outcome, "session_key", None), getattr(outcome, "redemption_id", None))
            outcome = yield made
        return outcome

    def _word(self) -> str:
        """A key or an id."""
        return f"{self._number}-{next(self._numbers)}"

    def _session(self, **key: str) -> dict[str, Any]:
        return {"type": "LOCK", **key, "ttl": self._random.choice(self._ttls_ms), "ttl_unit": "MILLISECONDS"}

    def _pay(self, found: list[str]) -> Way:
        """With a session, overridden now and then, and paid back now and then."""
        code, key, order, chance = self._random.choice(found), self._word(), self._word(), self._random
        for _ in range(chance.randint(1, 2)):
            yield from self._settled(
                act("validate", code, credits=chance.randint(0, 5), session=self._session(key=key))
            )
        if chance.random() < 0.2:
            yield from self._settled(act("release", code, key))
        else:
            order_id = {} if chance.random() < 0.3 else {"redemption_id": order}
            done = yield from self._settled(act("redeem", code, session=key, **order_id))
            if chance.random() < 0.3:
                yield from self._settled(act("redeem", code, session=key, **order_id))
            if chance.random() < 0.6:
                yield from self._settled(act("rollback", code, getattr(done, "id", order)))

    def _pay_directly(self, found: list[str]) -> Way:
        code, order = self._random.choice(found), self._word()
        yield from self._settled(act("redeem", code, credits=self._random.randint(0, 4), redemption_id=order))
        if self._random.random() < 0.7:
            yield from self._settled(act("rollback", code, order))

    def _hold(self, found: list[str]) -> Way:
        """Until it is released or expires; under a generated key."""
        code = self._random.choice(found)
        # Of a voucher that is deleted while the client repeats the call, nobody tells which key was generated.
        key = {"key": self._word()} if self._trip.sharing else {}
        answer = yield from self._settled(act("validate", code, credits=2, session=self._session(**key)))
        if getattr(answer, "session", None) and self._random.random() < 0.7:
            yield from self._settled(act("release", code, answer.session.key))

    def _pay_stack(self, found: list[str]) -> Way:
        stack = [Redeemable(code=code, credits=self._random.randint(0, 3)) for code in found[:2]]
        key, order, names = self._word(), self._word(), found[:2]
        if self._random.random() < 0.7:
            yield from self._settled(act("validate_stack", stack, session=self._session(key=key)))
        if self._random.random() < 0.3:
            yield from self._settled(act("release_stack", names, key))
        else:
            options = {"session": key, "redemption_id": order, "if_session_missing": "redeem"}
            yield from self._settled(act("redeem_stack", stack, **options))
            yield from self._settled(act("rollback_stack", names, order))

    def _look(self, found: list[str]) -> Way:
        code = self._random.choice(found)
        yield act("get_voucher", code)
        yield act("list_sessions", code)
        yield act("validate", code, credits=3)
        yield act("get_redemption", code, self._word())

    # What is shared is changed by three calls at most: so many does a key remember, to tell a call that is repeated.

    def _meet(self, found: list[str]) -> Way:
        """In one cart with two others, each with one call."""
        code = self._random.choice(found)
        cart = f"{code} {self._number % (LANES * PROCESSES // 3)} {int(time.monotonic() / MEETING)}"
        if cart in self._shared:
            return
        self._shared.add(cart)
        yield self._random.choice(
            [
                act("validate", code, credits=1, session=lock(cart)),
                act("validate", code, credits=2, session=lock(cart)),
                act("release", code, cart),
                act("redeem", code, session=cart, redemption_id=cart),
            ]
        )
        yield act("list_sessions", code)

    def _manage(self, found: list[str]) -> Way:
        """One put or deletion of a voucher, beside those of two others."""
        code = self._random.choice(found)
        if code in self._shared or self._number % (LANES * PROCESSES // 3):
            return
        self._shared.add(code)
        used = Used(quantity=1, credits=2)
        yield self._random.choice(
            [
                act("delete_voucher", code),
                act("put_voucher", limits(code)),
                act("put_voucher", Voucher(code=code, quantity=9, credits=70), used=used),
            ]
        )
        yield act("get_voucher", code)


def ready(_: int) -> None:
    """Nothing: a process that has been told to do it has all its imports done."""


def run(trip: Trip) -> Told:
    """All shoppers of one process."""
    recorder = Recorder(f"p{trip.number}")
    with Proxy(trip.socket, delay=DELAY) as for_once, Proxy(trip.socket, delay=DELAY) as for_repeating:
        for_once.follow(at_random(trip.seed, RATE))
        for_repeating.follow(at_random(trip.seed + 1, RATE, LOST_REPLIES))
        ports = for_once.port, for_repeating.port
        with ThreadPoolExecutor(4) as threads:
            tasks = threads.submit(asyncio.run, _in_tasks(trip, ports, recorder))
            _in_threads(trip, ports, recorder, threads)
            tasks.result()
        return Told(recorder.history, for_once.injected + for_repeating.injected)


def _in_threads(trip: Trip, ports: tuple[int, int], recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    clients = Caller("sync", 0, 2).client(ports[0], TIMEOUT), Caller("sync", 3, 3).client(ports[1], TIMEOUT)
    with clients[0] as once, clients[1] as repeating:
        works = []
        for number, client in enumerate([repeating, repeating, once]):
            shopper = Shopper(trip, number, brief=client is once)
            works.append(threads.submit(_follow, shopper, VoucherSessions(client), recorder))
        for work in works:
            work.result()


def _follow(shopper: Shopper, engine: VoucherSessions, recorder: Recorder) -> None:
    way, outcome = shopper.shop(), None
    while (made := _next(way, outcome)) is not None:
        try:
            outcome = recorder.call(engine, made.verb, *made.args, **made.options)
        except Exception as error:  # the checker judges it
            outcome = error


async def _in_tasks(trip: Trip, ports: tuple[int, int], recorder: Recorder) -> None:
    clients = Caller("async", 0, 3).client(ports[0], TIMEOUT), Caller("async", 3, 2).client(ports[1], TIMEOUT)
    async with clients[0] as once, clients[1] as repeating, asyncio.TaskGroup() as tasks:
        for number, client in enumerate([repeating, repeating, once]):
            shopper = Shopper(trip, 3 + number, brief=client is once)
            tasks.create_task(_follow_async(shopper, AsyncVoucherSessions(client), recorder))


async def _follow_async(shopper: Shopper, engine: AsyncVoucherSessions, recorder: Recorder) -> None:
    way, outcome = shopper.shop(), None
    while (made := _next(way, outcome)) is not None:
        try:
            outcome = await recorder.acall(engine, made.verb, *made.args, **made.options)
        except Exception as error:  # the checker judges it
            outcome = error


def _next(way: Way, outcome: Any) -> Act | None:
    try:
        made: Act = way.send(outcome)
    except StopIteration:
        return None
    return made

"""Processes that make random calls of every verb through a proxy with random faults, and record the results.

Each process has threads and tasks, with clients that retry and clients that do not. A caller repeats a call with an
unknown outcome unchanged, and now and then continues without doing so.
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

from support.scripted_clients import TRANSPORTS

from faults.history import UNKNOWN, Op, Recorder
from faults.proxy import FAULTS, OUT_OF_STEP, Fault, Proxy, at_random
from faults.verb_calls import ClientKind, VerbCall, lock, verb_call
from voucher_sessions import AsyncVoucherSessions, Redeemable, Used, Voucher, VoucherSessions

PROCESSES, CALLERS = 2, 6  # callers of each process: three threads and three tasks
VOUCHERS, SLICE_SECONDS = 4, 0.25  # so many vouchers at a time, and seconds until others take their place
SHARED_CART_SECONDS = 0.1  # seconds for which a shared cart stands
HOUR_MS = 3_600_000
TIMEOUT, DELAY, RATE = 0.1, 0.2, 0.12
# A client may send a call twice without its caller's knowledge, and an engine does so on a connection out of step. The
# first try can then lock and the second be refused, if the first comes late or its lock has expired in between. The
# checker expects one effect of a call, so such clients get neither late calls nor short locks, and the others no
# connection out of step.
SENT_AGAIN: tuple[Fault, ...] = tuple(fault for fault in FAULTS + OUT_OF_STEP if fault != "late")

# Yields calls and is sent their outcomes.
CallSequence = Generator[VerbCall, Any, Any]


class LoadPlan(NamedTuple):
    """What one process is to do."""

    number: int
    socket: str
    begin: float  # by time.monotonic
    seconds: float
    seed: int
    sharing: bool  # whether callers also use each other's carts, and put and delete vouchers

    @property
    def transport(self) -> str:
        """The first process has engines with connections of their own, the second uses its clients alone."""
        return TRANSPORTS[self.number % len(TRANSPORTS)]


class LoadResult(NamedTuple):
    """What came of it."""

    history: list[Op]
    injected: Counter[str]


def codes(plan: LoadPlan) -> list[list[str]]:
    """The vouchers of a plan, slice by slice."""
    slices = range(1 + int(plan.seconds / SLICE_SECONDS))
    return [[f"{plan.begin:.3f}-{at}-{number}" for number in range(VOUCHERS)] for at in slices]


def limits(code: str) -> Voucher:
    """Plenty of one thing and little of another, so that callers compete."""
    return Voucher(code=code, quantity=None if code.endswith("0") else 6, credits=60)


class RandomCaller:
    """Makes one call after the other.

    ``short_locks``: some of its locks last for moments. A call that is repeated for longer than that without its caller's
    knowledge would lock anew what has expired in between, and rightly so, but that is twice.
    """

    def __init__(self, plan: LoadPlan, number: int, *, short_locks: bool) -> None:
        self._plan = plan
        self._number = CALLERS * plan.number + number
        self._shared: set[str] = set()
        self._ttls_ms = [40, 150, HOUR_MS] if short_locks else [HOUR_MS]
        self._codes = codes(plan)
        self._random = random.Random(plan.seed + number)
        self._numbers = count()

    def calls(self) -> CallSequence:
        ends = self._plan.begin + self._plan.seconds
        while (now := time.monotonic()) < ends:
            found = self._codes[int((now - self._plan.begin) / SLICE_SECONDS)]
            sequences = [
                self._redeem_session,
                self._redeem_session,
                self._lock,
                self._redeem,
                self._read,
                self._redeem_stack,
                self._adjust,
            ]
            if self._plan.sharing:
                sequences += [self._use_shared_cart, self._use_shared_cart, self._change_voucher]
            yield from self._random.choice(sequences)(found)

    def _settled(self, call: VerbCall) -> CallSequence:
        """The call, repeated while its outcome is unknown, or nearly always."""
        outcome = yield call
        while isinstance(outcome, UNKNOWN) and self._random.random() < 0.9:
            call = call.named(outcome)
            outcome = yield call
        return outcome

    def _new_name(self) -> str:
        """A key or an id."""
        return f"{self._number}-{next(self._numbers)}"

    def _session(self, **key: str) -> dict[str, Any]:
        return {"type": "LOCK", **key, "ttl": self._random.choice(self._ttls_ms), "ttl_unit": "MILLISECONDS"}

    def _redeem_session(self, found: list[str]) -> CallSequence:
        """With a session, overridden now and then, and paid back now and then."""
        code, key, order, chance = self._random.choice(found), self._new_name(), self._new_name(), self._random
        for _ in range(chance.randint(1, 2)):
            yield from self._settled(
                verb_call("validate", code, credits=chance.randint(0, 5), session=self._session(key=key))
            )
        if chance.random() < 0.2:
            yield from self._settled(verb_call("release", code, key))
        else:
            order_id = {} if chance.random() < 0.3 else {"redemption_id": order}
            done = yield from self._settled(verb_call("redeem", code, session=key, **order_id))
            if chance.random() < 0.3:
                yield from self._settled(verb_call("redeem", code, session=key, **order_id))
            yield from self._give_back(code, getattr(done, "id", order))

    def _give_back(self, code: str, order: str) -> CallSequence:
        """Roll back parts of a redemption, the rest, both or nothing."""
        rollback_id = {"rollback_id": self._new_name()} if self._random.random() < 0.7 else {}
        if self._random.random() < 0.4:
            yield from self._settled(verb_call("rollback", code, order, credits=1, **rollback_id))
        if self._random.random() < 0.6:
            yield from self._settled(verb_call("rollback", code, order))

    def _redeem(self, found: list[str]) -> CallSequence:
        code, order = self._random.choice(found), self._new_name()
        yield from self._settled(verb_call("redeem", code, credits=self._random.randint(0, 4), redemption_id=order))
        yield from self._give_back(code, order)

    def _adjust(self, found: list[str]) -> CallSequence:
        """Raise a limit and lower it again, so that callers go on competing."""
        code, chance = self._random.choice(found), self._random
        for credits in (chance.choice([3, 60]), -3):
            id_ = {"adjustment_id": self._new_name()} if chance.random() < 0.7 else {}
            yield from self._settled(verb_call("adjust", code, credits=credits, **id_))

    def _lock(self, found: list[str]) -> CallSequence:
        """Until it is released or expires; under a generated key."""
        code = self._random.choice(found)
        # Of a voucher that is deleted while the client repeats the call, nobody tells which key was generated.
        key = {"key": self._new_name()} if self._plan.sharing else {}
        answer = yield from self._settled(verb_call("validate", code, credits=2, session=self._session(**key)))
        if getattr(answer, "session", None) and self._random.random() < 0.7:
            ttl = {"ttl": self._random.choice(self._ttls_ms), "ttl_unit": "MILLISECONDS"}
            yield from self._settled(verb_call("extend", code, answer.session.key, **ttl))
            yield from self._settled(verb_call("release", code, answer.session.key))

    def _redeem_stack(self, found: list[str]) -> CallSequence:
        stack = [Redeemable(code=code, credits=self._random.randint(0, 3)) for code in found[:2]]
        key, order, names = self._new_name(), self._new_name(), found[:2]
        if self._random.random() < 0.7:
            yield from self._settled(verb_call("validate_stack", stack, session=self._session(key=key)))
        if self._random.random() < 0.3:
            yield from self._settled(verb_call("extend_stack", names, key))
        if self._random.random() < 0.3:
            yield from self._settled(verb_call("release_stack", names, key))
        else:
            options = {"session": key, "redemption_id": order, "if_session_missing": "redeem"}
            yield from self._settled(verb_call("redeem_stack", stack, **options))
            yield from self._settled(verb_call("rollback_stack", names, order))

    def _read(self, found: list[str]) -> CallSequence:
        code = self._random.choice(found)
        yield verb_call("get_voucher", code)
        yield verb_call("list_sessions", code)
        yield verb_call("validate", code, credits=3)
        yield verb_call("get_redemption", code, self._new_name())
        yield verb_call("get_session", code, self._new_name())

    # What is shared is changed by three calls at most: so many does a key remember, to tell a call that is repeated.

    def _use_shared_cart(self, found: list[str]) -> CallSequence:
        """In one cart with two others, each with one call."""
        code = self._random.choice(found)
        cart = f"{code} {self._number % (CALLERS * PROCESSES // 3)} {int(time.monotonic() / SHARED_CART_SECONDS)}"
        if cart in self._shared:
            return
        self._shared.add(cart)
        yield self._random.choice(
            [
                verb_call("validate", code, credits=1, session=lock(cart)),
                verb_call("validate", code, credits=2, session=lock(cart)),
                verb_call("extend", code, cart),
                verb_call("release", code, cart),
                verb_call("redeem", code, session=cart, redemption_id=cart),
            ]
        )
        yield verb_call("list_sessions", code)
        yield verb_call("get_session", code, cart)

    def _change_voucher(self, found: list[str]) -> CallSequence:
        """One put or deletion of a voucher, beside those of two others."""
        code = self._random.choice(found)
        if code in self._shared or self._number % (CALLERS * PROCESSES // 3):
            return
        self._shared.add(code)
        used = Used(quantity=1, credits=2)
        yield self._random.choice(
            [
                verb_call("delete_voucher", code),
                verb_call("put_voucher", limits(code)),
                verb_call("put_voucher", Voucher(code=code, quantity=9, credits=70), used=used),
            ]
        )
        yield verb_call("get_voucher", code)


def warm_up(_: int) -> None:
    """Does nothing: a process that has run it has finished its imports."""


def run(plan: LoadPlan) -> LoadResult:
    """All callers of one process."""
    recorder = Recorder(f"p{plan.number}")
    with Proxy(plan.socket, delay=DELAY) as for_once, Proxy(plan.socket, delay=DELAY) as for_repeating:
        for_once.follow(at_random(plan.seed, RATE, FAULTS))
        for_repeating.follow(at_random(plan.seed + 1, RATE, SENT_AGAIN))
        ports = for_once.port, for_repeating.port
        with ThreadPoolExecutor(4) as threads:
            tasks = threads.submit(asyncio.run, _in_tasks(plan, ports, recorder))
            _in_threads(plan, ports, recorder, threads)
            tasks.result()
        return LoadResult(recorder.history, for_once.injected + for_repeating.injected)


def _in_threads(plan: LoadPlan, ports: tuple[int, int], recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    kinds = ClientKind("sync", 0, 2, plan.transport), ClientKind("sync", 3, 3, plan.transport)
    clients = [kind.client(port, TIMEOUT) for kind, port in zip(kinds, ports, strict=True)]
    with clients[0] as once, clients[1] as repeating:
        works = []
        for number, client in enumerate([repeating, repeating, once]):
            caller = RandomCaller(plan, number, short_locks=client is once)
            works.append(threads.submit(_run_caller, caller, VoucherSessions(client), recorder))
        for work in works:
            work.result()


def _run_caller(caller: RandomCaller, engine: VoucherSessions, recorder: Recorder) -> None:
    sequence, outcome = caller.calls(), None
    while (call := _next(sequence, outcome)) is not None:
        try:
            outcome = recorder.call(engine, call.verb, *call.args, **call.options)
        except Exception as error:  # the checker judges it
            outcome = error


async def _in_tasks(plan: LoadPlan, ports: tuple[int, int], recorder: Recorder) -> None:
    kinds = ClientKind("async", 0, 3, plan.transport), ClientKind("async", 3, 2, plan.transport)
    clients = [kind.client(port, TIMEOUT) for kind, port in zip(kinds, ports, strict=True)]
    async with clients[0] as once, clients[1] as repeating, asyncio.TaskGroup() as tasks:
        for number, client in enumerate([repeating, repeating, once]):
            caller = RandomCaller(plan, 3 + number, short_locks=client is once)
            tasks.create_task(_run_caller_async(caller, AsyncVoucherSessions(client), recorder))


async def _run_caller_async(caller: RandomCaller, engine: AsyncVoucherSessions, recorder: Recorder) -> None:
    sequence, outcome = caller.calls(), None
    while (call := _next(sequence, outcome)) is not None:
        try:
            outcome = await recorder.acall(engine, call.verb, *call.args, **call.options)
        except Exception as error:  # the checker judges it
            outcome = error


def _next(sequence: CallSequence, outcome: Any) -> VerbCall | None:
    try:
        call: VerbCall = sequence.send(outcome)
    except StopIteration:
        return None
    return call

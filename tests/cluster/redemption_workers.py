"""Tills: processes that sell while servers move and die, and the audit of the books against what they were told."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier, Event
from typing import Any, NamedTuple

import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry

from voucher_sessions import (
    AsyncVoucherSessions,
    OutcomeUnknown,
    Redeemable,
    RedemptionNotFound,
    SessionNotFound,
    Voucher,
    VoucherSessions,
)
from voucher_sessions._transport import urls

spawn = multiprocessing.get_context("spawn")

SINGLES = [f"S{at}" for at in range(12)]
CUSTOMERS = {"ann": ["ann-1", "ann-2"], "bob": ["bob-1", "bob-2"]}
STACKED = [code for codes in CUSTOMERS.values() for code in codes]
STACK_PREFIX = "st"
QUANTITY, CREDITS = 10**6, 10**9
HOUR_MS = 3_600_000
LANES = {"sync": 1, "async": 3}  # carts at a time on one engine
# One process each: the engine, and whether its client repeats what got no reply by itself.
TILLS = [("sync", True), ("async", True), ("sync", False), ("async", False)]
TRIES = 100


def customer(code: str) -> str:
    """The partition of the stacks."""
    return code.partition("-")[0]


class Sale(NamedTuple):
    """What a till was told of one redemption."""

    credits: int
    session_key: str | None
    rolled_back: bool = False


@dataclass
class Told:
    """What the tills were told."""

    sales: dict[tuple[str, str], Sale] = field(default_factory=dict)
    held: dict[tuple[str, str], int] = field(default_factory=dict)
    calls: int = 0
    slowest: float = 0
    unknown: Counter[str] = field(default_factory=Counter)  # outcomes, by verb
    below: Counter[str] = field(default_factory=Counter)  # what redis-py told the engines, by kind of error
    lost: set[str] = field(default_factory=set)  # orders of which the servers forgot what the tills were told

    def add(self, other: Told) -> None:
        self.sales |= other.sales
        self.held |= other.held
        self.calls += other.calls
        self.slowest = max(self.slowest, other.slowest)
        self.unknown += other.unknown
        self.below += other.below
        self.lost |= other.lost

    def __str__(self) -> str:
        return (
            f"{self.calls} calls, {len(self.sales)} receipts, the slowest call {self.slowest:.2f} s, "
            f"unknown outcomes {dict(self.unknown)}, below the engines {dict(self.below)}, {len(self.lost)} writes lost"
        )


class Till:
    """One lane of carts. A call whose outcome is unknown it repeats as it was; every other error is its end."""

    def __init__(self, name: str, single: Any, stack: Any) -> None:
        self._name = name
        self._single = single
        self._stack = stack
        self.told = Told()

    async def _do(self, engine: Any, verb: str, *args: Any, **options: Any) -> Any:
        began = time.monotonic()
        for _ in range(TRIES):
            self.told.calls += 1
            try:
                result = getattr(engine, verb)(*args, **options)
                result = await result if inspect.isawaitable(result) else result
            except OutcomeUnknown:
                self.told.unknown[verb] += 1
                await asyncio.sleep(0.1)
            else:
                self.told.slowest = max(self.told.slowest, time.monotonic() - began)
                return result
        raise AssertionError(f"{verb}: unknown {TRIES} times")

    async def sell(self, stop: Event) -> None:
        at = 0
        while not stop.is_set():
            at += 1
            await (self._sell_stack(at) if at % 4 == 0 else self._sell(at))
            await asyncio.sleep(0.002)

    async def _sell(self, at: int) -> None:
        code, order, credits = SINGLES[at % len(SINGLES)], f"{self._name}-{at}", 1 + at % 7
        way = at % 11
        if way < 4:  # no session
            await self._redeem(code, order, credits, None)
            if way == 0:
                await self._roll_back(code, order)
            return
        ttl_ms = 30 if way == 4 else HOUR_MS
        session = {"type": "LOCK", "key": order, "ttl": ttl_ms, "ttl_unit": "MILLISECONDS"}
        answer = await self._do(self._single, "validate", code, credits=credits, session=session)
        assert answer.valid, answer
        if way == 5:
            released = await self._do(self._single, "release", code, order)
            if not released.released and not self.told.unknown["release"]:
                self.told.lost.add(order)
        elif way == 6:
            self.told.held[code, order] = credits
        elif way > 6:
            await self._redeem(code, order, credits, order)

    async def _redeem(self, code: str, order: str, credits: int, key: str | None) -> None:
        options: dict[str, Any] = {"credits": credits, "session": key, "redemption_id": order}
        try:
            done = await self._do(self._single, "redeem", code, **options)
        except SessionNotFound:
            self.told.lost.add(order)
            done = await self._do(self._single, "redeem", code, **options, if_session_missing="redeem")
        assert (done.credits, done.replayed) == (credits, False), done
        self.told.sales[code, order] = Sale(credits, key)

    async def _roll_back(self, code: str, order: str) -> None:
        try:
            back = await self._do(self._single, "rollback", code, order)
        except RedemptionNotFound:
            self.told.lost.add(order)
            return
        assert (back.credits, back.replayed) == (self.told.sales[code, order].credits, False), back
        self.told.sales[code, order] = self.told.sales[code, order]._replace(rolled_back=True)

    async def _sell_stack(self, at: int) -> None:
        codes, order, credits = list(CUSTOMERS.values())[at // 4 % 2], f"{self._name}-{at}", 1 + at % 5
        stack = [Redeemable(code=code, credits=credits) for code in codes]
        answer = await self._do(self._stack, "validate_stack", stack, session={"type": "LOCK", "key": order})
        assert answer.valid, answer
        if at % 3 == 0:
            await self._do(self._stack, "release_stack", codes, order)
            return
        options: dict[str, Any] = {"session": order, "redemption_id": order}
        try:
            done = await self._do(self._stack, "redeem_stack", stack, **options)
        except SessionNotFound:
            self.told.lost.add(order)
            done = await self._do(self._stack, "redeem_stack", stack, **options, if_session_missing="redeem")
        assert not done.replayed, done
        for code in codes:
            self.told.sales[code, order] = Sale(credits, order)


def _counted(client: Any, below: Counter[str]) -> Any:
    """The client, its errors counted."""
    execute = client.execute_command

    def counted(*words: Any, **options: Any) -> Any:
        try:
            return execute(*words, **options)
        except Exception as error:
            below[type(error).__name__] += 1
            raise

    async def counted_async(*words: Any, **options: Any) -> Any:
        try:
            return await execute(*words, **options)
        except Exception as error:
            below[type(error).__name__] += 1
            raise

    client.execute_command = counted_async if inspect.iscoroutinefunction(execute) else counted
    return client


_stop: Event
_ready: Barrier


def _begin(stop: Event, ready: Barrier) -> None:
    global _stop, _ready
    _stop, _ready = stop, ready


def _work(url: str, kind: str, retries: bool) -> Told:
    try:
        return asyncio.run(_sell(url, kind, retries))
    except Exception:
        # As text: an error of redis-py may hold its connection, which cannot leave the process.
        raise AssertionError(traceback.format_exc()) from None


async def _sell(url: str, kind: str, retries: bool) -> Told:
    told = Told()
    single: Any
    stack: Any
    if kind == "sync":
        opened: Any = urls.open_url(url, {} if retries else {"retry": Retry(NoBackoff(), 0)})
        client = _counted(opened.client, told.below)
        single = VoucherSessions(client)
        stack = VoucherSessions(client, prefix=STACK_PREFIX, partition=customer)
    else:
        opened = urls.open_url_async(url, {} if retries else {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0)})
        client = _counted(opened.client, told.below)
        single = AsyncVoucherSessions(client)
        stack = AsyncVoucherSessions(client, prefix=STACK_PREFIX, partition=customer)
    tills = [Till(f"{kind}{retries}{lane}", single, stack) for lane in range(LANES[kind])]
    _ready.wait(30)
    await asyncio.gather(*(till.sell(_stop) for till in tills))
    closed = opened.close()
    if inspect.isawaitable(closed):
        await closed
    for till in tills:
        told.add(till.told)
    return told


@contextmanager
def selling(url: str) -> Iterator[Told]:
    """All tills sell from beginning to end; then what they were told is there."""
    with VoucherSessions.from_url(url) as single:
        for code in SINGLES:
            single.put_voucher(Voucher(code=code, quantity=QUANTITY, credits=CREDITS))
    with VoucherSessions.from_url(url, prefix=STACK_PREFIX, partition=customer) as stack:
        for code in STACKED:
            stack.put_voucher(Voucher(code=code, quantity=QUANTITY, credits=CREDITS))
    stop, ready, told = spawn.Event(), spawn.Barrier(len(TILLS) + 1), Told()
    with ProcessPoolExecutor(len(TILLS), mp_context=spawn, initializer=_begin, initargs=(stop, ready)) as processes:
        works: list[Future[Told]] = [processes.submit(_work, url, kind, retries) for kind, retries in TILLS]
        try:
            ready.wait(30)
            time.sleep(0.3)
            yield told
            early = [work for work in works if work.done()]
        finally:
            stop.set()
        for work in [*early, *works]:
            told.add(work.result(60))


class Books:
    """What the servers hold, read through the engines, and from the names of the keys."""

    def __init__(self, engines: dict[str, VoucherSessions], admin: Any) -> None:
        self.engines = engines
        self.sessions = {
            code: {session.key: session.credits for session in engine.list_sessions(code, limit=10_000)}
            for code, engine in engines.items()
        }
        self.states = {code: engine.get_voucher(code) for code, engine in engines.items()}
        self.sales: dict[tuple[str, str], Sale] = {}
        for key in admin.scan_iter(match="*:redemption:*", count=1000):
            book, _, order = key.decode().partition(":redemption:")
            code = book.rpartition("{")[2].removesuffix("}")
            receipt = engines[code].get_redemption(code, order)
            self.sales[code, order] = Sale(receipt.credits, receipt.session_key, receipt.rolled_back)

    def agree_with_themselves(self) -> None:
        for code, state in self.states.items():
            kept = [sale.credits for (of, _), sale in self.sales.items() if of == code and not sale.rolled_back]
            held = self.sessions[code].values()
            assert (state.quantity.used, state.credits.used) == (len(kept), sum(kept)), code
            assert (state.quantity.locked, state.credits.locked) == (len(held), sum(held)), code
            assert (state.quantity.limit, state.credits.limit) == (QUANTITY, CREDITS), code

    def agree_with(self, told: Told) -> None:
        assert self.sales == told.sales
        assert self.sessions == {
            code: {key: credits for (of, key), credits in told.held.items() if of == code} for code in self.engines
        }

    def do_again_what_was_lost(self, told: Told) -> bool:
        """As callers would, under the same ids; whether there was anything."""
        assert self.sales.keys() <= told.sales.keys(), "nothing happened that nobody was told of"
        for (code, order), sale in told.sales.items():
            engine, found = self.engines[code], self.sales.get((code, order))
            if found == sale:
                continue
            told.lost.add(order)
            options: dict[str, Any] = {"credits": sale.credits, "session": sale.session_key, "redemption_id": order}
            again = engine.redeem(code, **options, if_session_missing="redeem")
            assert again.replayed == (found is not None)
            if sale.rolled_back:
                assert not engine.rollback(code, order).replayed
        for code, engine in self.engines.items():
            live = engine.list_sessions(code, limit=10_000)
            held = {key: credits for (of, key), credits in told.held.items() if of == code}
            for session in live:
                if session.key not in held:
                    told.lost.add(session.key)
                    engine.release(code, session.key)
            for key in held.keys() - {session.key for session in live}:
                told.lost.add(key)
                assert engine.validate(code, credits=held[key], session={"type": "LOCK", "key": key}).valid
        return bool(told.lost)


def audit(url: str, admin: Any, told: Told) -> None:
    """Limits, used, locked and every receipt agree with what the tills were told, and there is nothing else.

    What the servers lost of that (replication does not wait) is done again first, and counted.
    """
    time.sleep(0.05)  # the short locks expire
    with (
        VoucherSessions.from_url(url) as single,
        VoucherSessions.from_url(url, prefix=STACK_PREFIX, partition=customer) as stack,
    ):
        engines = {**dict.fromkeys(SINGLES, single), **dict.fromkeys(STACKED, stack)}
        books = Books(engines, admin)
        books.agree_with_themselves()
        if books.do_again_what_was_lost(told):
            books = Books(engines, admin)
            books.agree_with_themselves()
        books.agree_with(told)

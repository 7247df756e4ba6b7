"""Processes that redeem vouchers while servers move and die, and the check of the stored data against their results."""

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
CARTS_PER_ENGINE = {"sync": 1, "async": 3}  # carts at a time on one engine
# One process each: the engine, and whether its client repeats what got no reply by itself.
WORKERS = [("sync", True), ("async", True), ("sync", False), ("async", False)]
TRIES = 100


def customer(code: str) -> str:
    """The partition of the stacks."""
    return code.partition("-")[0]


class RedemptionRecord(NamedTuple):
    """The result of one redemption."""

    credits: int
    session_key: str | None
    rolled_back: bool = False


@dataclass
class Outcomes:
    """The results of the workers' calls."""

    redemptions: dict[tuple[str, str], RedemptionRecord] = field(default_factory=dict)
    held: dict[tuple[str, str], int] = field(default_factory=dict)
    calls: int = 0
    slowest: float = 0
    unknown: Counter[str] = field(default_factory=Counter)  # outcomes, by verb
    client_errors: Counter[str] = field(default_factory=Counter)  # errors that redis-py raised to the engines, by kind
    lost: set[str] = field(default_factory=set)  # orders of which the servers lost an acknowledged write

    def add(self, other: Outcomes) -> None:
        self.redemptions |= other.redemptions
        self.held |= other.held
        self.calls += other.calls
        self.slowest = max(self.slowest, other.slowest)
        self.unknown += other.unknown
        self.client_errors += other.client_errors
        self.lost |= other.lost

    def __str__(self) -> str:
        return (
            f"{self.calls} calls, {len(self.redemptions)} receipts, the slowest call {self.slowest:.2f} s, "
            f"unknown outcomes {dict(self.unknown)}, errors of the client {dict(self.client_errors)}, {len(self.lost)} writes lost"
        )


class Worker:
    """Processes one cart after the other. It repeats a call with an unknown outcome; any other error ends it."""

    def __init__(self, name: str, single: Any, stack: Any) -> None:
        self._name = name
        self._single = single
        self._stack = stack
        self.outcomes = Outcomes()

    async def _do(self, engine: Any, verb: str, *args: Any, **options: Any) -> Any:
        began = time.monotonic()
        for _ in range(TRIES):
            self.outcomes.calls += 1
            try:
                result = getattr(engine, verb)(*args, **options)
                result = await result if inspect.isawaitable(result) else result
            except OutcomeUnknown:
                self.outcomes.unknown[verb] += 1
                await asyncio.sleep(0.1)
            else:
                self.outcomes.slowest = max(self.outcomes.slowest, time.monotonic() - began)
                return result
        raise AssertionError(f"{verb}: unknown {TRIES} times")

    async def run(self, stop: Event) -> None:
        at = 0
        while not stop.is_set():
            at += 1
            await (self._process_stack(at) if at % 4 == 0 else self._process_cart(at))
            await asyncio.sleep(0.002)

    async def _process_cart(self, at: int) -> None:
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
            if not released.released and not self.outcomes.unknown["release"]:
                self.outcomes.lost.add(order)
        elif way == 6:
            self.outcomes.held[code, order] = credits
        elif way > 6:
            await self._redeem(code, order, credits, order)

    async def _redeem(self, code: str, order: str, credits: int, key: str | None) -> None:
        options: dict[str, Any] = {"credits": credits, "session": key, "redemption_id": order}
        try:
            done = await self._do(self._single, "redeem", code, **options)
        except SessionNotFound:
            self.outcomes.lost.add(order)
            done = await self._do(self._single, "redeem", code, **options, if_session_missing="redeem")
        assert (done.credits, done.replayed) == (credits, False), done
        self.outcomes.redemptions[code, order] = RedemptionRecord(credits, key)

    async def _roll_back(self, code: str, order: str) -> None:
        try:
            back = await self._do(self._single, "rollback", code, order)
        except RedemptionNotFound:
            self.outcomes.lost.add(order)
            return
        assert (back.credits, back.replayed) == (self.outcomes.redemptions[code, order].credits, False), back
        self.outcomes.redemptions[code, order] = self.outcomes.redemptions[code, order]._replace(rolled_back=True)

    async def _process_stack(self, at: int) -> None:
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
            self.outcomes.lost.add(order)
            done = await self._do(self._stack, "redeem_stack", stack, **options, if_session_missing="redeem")
        assert not done.replayed, done
        for code in codes:
            self.outcomes.redemptions[code, order] = RedemptionRecord(credits, order)


def _counted(client: Any, client_errors: Counter[str]) -> Any:
    """The client, its errors counted."""
    execute = client.execute_command

    def counted(*words: Any, **options: Any) -> Any:
        try:
            return execute(*words, **options)
        except Exception as error:
            client_errors[type(error).__name__] += 1
            raise

    async def counted_async(*words: Any, **options: Any) -> Any:
        try:
            return await execute(*words, **options)
        except Exception as error:
            client_errors[type(error).__name__] += 1
            raise

    client.execute_command = counted_async if inspect.iscoroutinefunction(execute) else counted
    return client


_stop: Event
_ready: Barrier


def _init_process(stop: Event, ready: Barrier) -> None:
    global _stop, _ready
    _stop, _ready = stop, ready


def _run_process(url: str, kind: str, retries: bool) -> Outcomes:
    try:
        return asyncio.run(_run_workers(url, kind, retries))
    except Exception:
        # As text: an error of redis-py may hold its connection, which cannot leave the process.
        raise AssertionError(traceback.format_exc()) from None


async def _run_workers(url: str, kind: str, retries: bool) -> Outcomes:
    outcomes = Outcomes()
    single: Any
    stack: Any
    if kind == "sync":
        opened: Any = urls.open_url(url, {} if retries else {"retry": Retry(NoBackoff(), 0)})
        client = _counted(opened.client, outcomes.client_errors)
        single = VoucherSessions(client)
        stack = VoucherSessions(client, prefix=STACK_PREFIX, partition=customer)
    else:
        opened = urls.open_url_async(url, {} if retries else {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0)})
        client = _counted(opened.client, outcomes.client_errors)
        single = AsyncVoucherSessions(client)
        stack = AsyncVoucherSessions(client, prefix=STACK_PREFIX, partition=customer)
    workers = [Worker(f"{kind}{retries}{number}", single, stack) for number in range(CARTS_PER_ENGINE[kind])]
    _ready.wait(30)
    await asyncio.gather(*(worker.run(_stop) for worker in workers))
    closed = opened.close()
    if inspect.isawaitable(closed):
        await closed
    for worker in workers:
        outcomes.add(worker.outcomes)
    return outcomes


@contextmanager
def running_workers(url: str) -> Iterator[Outcomes]:
    """All workers run until the end of the block; then their results are there."""
    with VoucherSessions.from_url(url) as single:
        for code in SINGLES:
            single.put_voucher(Voucher(code=code, quantity=QUANTITY, credits=CREDITS))
    with VoucherSessions.from_url(url, prefix=STACK_PREFIX, partition=customer) as stack:
        for code in STACKED:
            stack.put_voucher(Voucher(code=code, quantity=QUANTITY, credits=CREDITS))
    stop, ready, outcomes = spawn.Event(), spawn.Barrier(len(WORKERS) + 1), Outcomes()
    with ProcessPoolExecutor(
        len(WORKERS), mp_context=spawn, initializer=_init_process, initargs=(stop, ready)
    ) as processes:
        works: list[Future[Outcomes]] = [
            processes.submit(_run_process, url, kind, retries) for kind, retries in WORKERS
        ]
        try:
            ready.wait(30)
            time.sleep(0.3)
            yield outcomes
            early = [work for work in works if work.done()]
        finally:
            stop.set()
        for work in [*early, *works]:
            outcomes.add(work.result(60))


class StoredState:
    """What the servers hold, read through the engines, and from the names of the keys."""

    def __init__(self, engines: dict[str, VoucherSessions], admin: Any) -> None:
        self.engines = engines
        self.sessions = {
            code: {session.key: session.credits for session in engine.list_sessions(code, limit=10_000)}
            for code, engine in engines.items()
        }
        self.states = {code: engine.get_voucher(code) for code, engine in engines.items()}
        self.redemptions: dict[tuple[str, str], RedemptionRecord] = {}
        for key in admin.scan_iter(match="*:redemption:*", count=1000):
            book, _, order = key.decode().partition(":redemption:")
            code = book.rpartition("{")[2].removesuffix("}")
            receipt = engines[code].get_redemption(code, order)
            self.redemptions[code, order] = RedemptionRecord(receipt.credits, receipt.session_key, receipt.rolled_back)

    def check_totals(self) -> None:
        for code, state in self.states.items():
            kept = [
                redemption.credits
                for (of, _), redemption in self.redemptions.items()
                if of == code and not redemption.rolled_back
            ]
            held = self.sessions[code].values()
            assert (state.quantity.used, state.credits.used) == (len(kept), sum(kept)), code
            assert (state.quantity.locked, state.credits.locked) == (len(held), sum(held)), code
            assert (state.quantity.limit, state.credits.limit) == (QUANTITY, CREDITS), code

    def check_against(self, outcomes: Outcomes) -> None:
        assert self.redemptions == outcomes.redemptions
        assert self.sessions == {
            code: {key: credits for (of, key), credits in outcomes.held.items() if of == code} for code in self.engines
        }

    def repeat_lost_calls(self, outcomes: Outcomes) -> bool:
        """As callers would, under the same ids; whether there was anything."""
        assert self.redemptions.keys() <= outcomes.redemptions.keys(), (
            "nothing is stored that no worker got a result for"
        )
        for (code, order), redemption in outcomes.redemptions.items():
            engine, found = self.engines[code], self.redemptions.get((code, order))
            if found == redemption:
                continue
            outcomes.lost.add(order)
            options: dict[str, Any] = {
                "credits": redemption.credits,
                "session": redemption.session_key,
                "redemption_id": order,
            }
            again = engine.redeem(code, **options, if_session_missing="redeem")
            assert again.replayed == (found is not None)
            if redemption.rolled_back:
                assert not engine.rollback(code, order).replayed
        for code, engine in self.engines.items():
            live = engine.list_sessions(code, limit=10_000)
            held = {key: credits for (of, key), credits in outcomes.held.items() if of == code}
            for session in live:
                if session.key not in held:
                    outcomes.lost.add(session.key)
                    engine.release(code, session.key)
            for key in held.keys() - {session.key for session in live}:
                outcomes.lost.add(key)
                assert engine.validate(code, credits=held[key], session={"type": "LOCK", "key": key}).valid
        return bool(outcomes.lost)


def audit(url: str, admin: Any, outcomes: Outcomes) -> None:
    """Limits, used, locked and every receipt agree with the results of the workers, and nothing else is stored.

    What the servers lost of that (replication does not wait) is done again first, and counted.
    """
    time.sleep(0.05)  # the short locks expire
    with (
        VoucherSessions.from_url(url) as single,
        VoucherSessions.from_url(url, prefix=STACK_PREFIX, partition=customer) as stack,
    ):
        engines = {**dict.fromkeys(SINGLES, single), **dict.fromkeys(STACKED, stack)}
        stored = StoredState(engines, admin)
        stored.check_totals()
        if stored.repeat_lost_calls(outcomes):
            stored = StoredState(engines, admin)
            stored.check_totals()
        stored.check_against(outcomes)

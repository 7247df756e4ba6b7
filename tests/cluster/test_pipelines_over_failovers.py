"""Pipelines outlast a failover and moving slots as single calls do, call by call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from support.servers import BINARIES

from cluster.topology import Cluster, running_cluster, running_sentinels, slot_of, until
from voucher_sessions import AsyncVoucherSessions, Durability, Voucher, VoucherSessions

CODES = [f"P{at}" for at in range(12)]
# More changing calls of one session's key than it remembers, so that the batch is sent in parts.
CHANGES_OF_A_CART = 6


@contextmanager
def open_engine(
    url: str, *, asynchronous: bool, **options: Any
) -> Iterator[Callable[[Callable[[Any], Any]], list[Any]]]:
    """A function that queues calls on a pipeline and returns the outcomes, failures in their places."""
    if not asynchronous:
        with VoucherSessions.from_url(url, **options) as engine:
            yield lambda queue: queue(engine.pipeline()).execute(raise_on_error=False)
        return
    loop = asyncio.new_event_loop()
    waiting = AsyncVoucherSessions.from_url(url, **options)
    try:
        yield lambda queue: loop.run_until_complete(queue(waiting.pipeline()).execute(raise_on_error=False))
    finally:
        loop.run_until_complete(waiting.aclose())
        loop.close()


def put_all(pipe: Any) -> Any:
    for code in CODES:
        pipe.put_voucher(Voucher(code=code, quantity=100_000, credits=1_000_000))
    return pipe


class Batches:
    """Batches of locks and redemptions on all vouchers, one after the other, and what each redemption took."""

    def __init__(self) -> None:
        self.redeemed: dict[str, dict[str, int]] = {code: {} for code in CODES}
        self.slowest = 0.0
        self._numbers = count()

    def send(self, execute: Callable[[Callable[[Any], Any]], list[Any]]) -> None:
        number = next(self._numbers)
        begun = time.monotonic()
        outcomes = execute(lambda pipe: self._queue(pipe, number))
        self.slowest = max(self.slowest, time.monotonic() - begun)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert failed == [], failed[0]
        size = CHANGES_OF_A_CART + 1
        for at, code in enumerate(CODES):
            *validations, redemption = outcomes[at * size : (at + 1) * size]
            assert all(each.valid for each in validations)
            assert redemption.credits == CHANGES_OF_A_CART, "what the last validation of the session locked"
            self.redeemed[code][redemption.id] = redemption.credits

    def _queue(self, pipe: Any, number: int) -> Any:
        session = {"type": "LOCK", "key": f"cart-{number}"}
        for code in CODES:
            for credits in range(1, CHANGES_OF_A_CART + 1):
                pipe.validate(code, credits=credits, session=session)
            pipe.redeem(code, session=f"cart-{number}", redemption_id=f"order-{number}")
        return pipe

    def check(self, execute: Callable[[Callable[[Any], Any]], list[Any]]) -> None:
        """Each redemption has taken effect once, and no lock is left."""

        def read_all(pipe: Any) -> Any:
            for code in CODES:
                pipe.get_voucher(code)
            return pipe

        for code, state in zip(CODES, execute(read_all), strict=True):
            assert state.quantity.used == len(self.redeemed[code])
            assert state.credits.used == sum(self.redeemed[code].values())
            assert (state.quantity.locked, state.credits.locked) == (0, 0)


def not_durable(batches: Batches, execute: Callable[[Callable[[Any], Any]], list[Any]]) -> bool:
    try:
        batches.send(execute)
    except AssertionError as error:
        if "NotDurable" not in str(error):
            raise
        return True
    return False


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("server", sorted({"valkey", "redis8"} & BINARIES.keys()))
def test_a_primary_of_the_cluster_is_killed(server: str, asynchronous: bool) -> None:
    """With durability, so that no acknowledged change is lost with the primary."""
    durability = Durability(replicas=1, timeout_ms=4000)
    with running_cluster(server) as cluster:
        primary = cluster.primary_of(slot_of(f"vs:{{{CODES[0]}}}"))
        with open_engine(cluster.url, asynchronous=asynchronous, durability=durability) as execute:
            assert not [each for each in execute(put_all) if isinstance(each, Exception)]
            batches = Batches()
            for _ in range(5):
                batches.send(execute)
            primary.kill()
            # The promoted replica has no replica of its own: NotDurable shows that the failover is over.
            until(lambda: not_durable(batches, execute))
    print(f"the slowest batch took {batches.slowest:.1f} s")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_primary_of_sentinels_is_killed(asynchronous: bool) -> None:
    with running_sentinels("valkey") as sentinels, open_engine(sentinels.url, asynchronous=asynchronous) as execute:
        assert not [each for each in execute(put_all) if isinstance(each, Exception)]
        batches = Batches()
        for _ in range(5):
            batches.send(execute)
        # All that was acknowledged is with the replicas, so the totals must be right after the failover.
        primary = sentinels.primary()
        primary.ask("WAIT", 2, 5000)
        primary.kill()
        for _ in range(20):
            batches.send(execute)
        batches.check(execute)
    assert batches.slowest > 0.5, "a batch has waited for the new primary"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("how", ["key by key", "at once"])
def test_slots_move(asynchronous: bool, how: str) -> None:
    with (
        running_cluster("valkey", node_timeout_ms=10_000) as cluster,
        open_engine(cluster.url, asynchronous=asynchronous) as execute,
    ):
        assert not [each for each in execute(put_all) if isinstance(each, Exception)]
        batches, stop = Batches(), threading.Event()
        mover = threading.Thread(target=move_slots, args=(cluster, how, stop))
        mover.start()
        try:
            ends = time.monotonic() + 5
            while time.monotonic() < ends:
                batches.send(execute)
        finally:
            stop.set()
            mover.join(60)
        until(cluster.is_whole)
        batches.check(execute)


def move_slots(cluster: Cluster, how: str, stop: threading.Event) -> None:
    """Move the vouchers' slots back and forth, some of them slowly."""
    for at in count():
        slot = slot_of(f"vs:{{{CODES[at % len(CODES)]}}}")
        if how == "at once":
            cluster.move_at_once(slot)
        else:
            cluster.move(slot, open_for=0.3 if at % 5 == 0 else 0)
        if stop.wait(0.02):
            return

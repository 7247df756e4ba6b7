"""Pipelines and ``durability=`` on a cluster and through Sentinel: each call goes to the node of its voucher."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Backend

from cluster.topology import Cluster, running_cluster, slot_of, until
from voucher_sessions import AsyncVoucherSessions, Durability, InvalidRequest, NotDurable, Voucher, VoucherSessions

CODES = [f"V{at}" for at in range(40)]
LOCK = {"type": "LOCK", "key": "cart"}


@pytest.mark.parametrize("durability", [None, Durability(replicas=1, timeout_ms=4000)], ids=["", "durable"])
def test_a_batch_is_split_per_node(
    make_engine: Callable[..., VoucherSessions],
    execute: Callable[..., list[Any]],
    durability: Durability | None,
    backend: Backend,
) -> None:
    engine = make_engine(durability=durability)
    pipe: Any = engine.pipeline()
    for code in CODES:
        pipe.put_voucher(Voucher(code=code, credits=100)).validate(code, credits=30, session=LOCK)
        pipe.redeem(code, session="cart", redemption_id="order")
    results = execute(pipe)
    assert [result.code for result in results] == [code for code in CODES for _ in range(3)]
    assert all(done.credits == 30 for done in results[2::3])
    for code in CODES:
        assert engine.redeem(code, session="cart", redemption_id="order").replayed
        assert engine.get_voucher(code).credits.used == 30
    assert backend.keys()


@pytest.mark.parametrize("options", [{"socket_timeout": 1}, {"socket_timeout": 0.5}])
def test_a_socket_timeout_below_the_durability_timeout_is_refused_on_a_cluster(
    cluster: Cluster, options: dict[str, Any]
) -> None:
    durability = Durability(replicas=1, timeout_ms=1000)
    with pytest.raises(InvalidRequest, match="socket_timeout"):
        VoucherSessions.from_url(cluster.url, durability=durability, **options)
    VoucherSessions.from_url(cluster.url, durability=durability, socket_timeout=1.5).close()


def test_a_slot_that_has_moved_is_found(execute: Callable[..., list[Any]]) -> None:
    """By batches, and by calls that wait for replicas, which a cluster's client does not redirect by itself."""
    with running_cluster("valkey", node_timeout_ms=10_000) as cluster:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(_redeem_while_slots_move(cluster))
        finally:
            loop.close()


async def _redeem_while_slots_move(cluster: Cluster) -> None:
    durability = Durability(replicas=1, timeout_ms=4000)
    waiting = AsyncVoucherSessions.from_url(cluster.url, durability=durability)
    with VoucherSessions.from_url(cluster.url, durability=durability) as engine:
        for at in range(6):
            code = random.choice(CODES)
            await waiting.put_voucher(Voucher(code=code, credits=100))
            engine.put_voucher(Voucher(code=code, credits=100))
            cluster.move(slot_of(f"vs:{{{code}}}"))
            until(cluster.is_whole)
            if at % 2:
                assert engine.redeem(code, credits=1, redemption_id=f"{at}").credits == 1
                assert (await waiting.redeem(code, credits=1, redemption_id=f"{at}")).replayed
                await waiting.delete_voucher(code)
            else:
                async_results: Any = await waiting.pipeline().redeem(code, credits=1, redemption_id=f"{at}").execute()
                results: Any = engine.pipeline().redeem(code, credits=1, redemption_id=f"{at}").execute()
                redemptions = [(done.credits, done.replayed) for done in (*async_results, *results)]
                assert redemptions == [(1, False), (1, True)]
                engine.delete_voucher(code)
    await waiting.aclose()


def test_a_stopped_replica_confirms_nothing() -> None:
    with running_cluster("valkey", node_timeout_ms=60_000) as cluster:
        primary = cluster.primary_of(slot_of("vs:{V1}"))
        replica = cluster.replica_of(primary)
        durability = Durability(replicas=1, timeout_ms=100)
        with VoucherSessions.from_url(cluster.url, durability=durability) as engine:
            until(lambda: _confirmed(engine))
            os.kill(replica.process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(NotDurable, match="0 of 1 replicas"):
                    engine.redeem("V1", redemption_id="order")
                (outcome,) = engine.pipeline().redeem("V1", redemption_id="order").execute(raise_on_error=False)
                assert isinstance(outcome, NotDurable)
            finally:
                os.kill(replica.process.pid, signal.SIGCONT)


def _confirmed(engine: VoucherSessions) -> bool:
    try:
        engine.put_voucher(Voucher(code="V1"))
    except NotDurable:
        return False
    return True


def test_calls_wait_for_the_successor_of_a_killed_primary() -> None:
    with running_cluster("valkey") as cluster:
        engine = VoucherSessions.from_url(cluster.url)
        durable = VoucherSessions(engine.client, durability=Durability(replicas=1, timeout_ms=200))
        with engine:
            engine.put_voucher(Voucher(code="V1"))
            primary = cluster.primary_of(slot_of("vs:{V1}"))
            primary.kill()
            with pytest.raises(NotDurable):  # the new primary has no replica left; it took effect all the same
                durable.redeem("V1", redemption_id="order")
            assert engine.redeem("V1", redemption_id="order").replayed

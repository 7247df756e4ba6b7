"""Where vouchers are stored on a cluster, and the error for a stack of several slots (DESIGN.md 3.14).

Here the test makes the clients itself, with the default settings of redis-py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from conftest import OpenEngines

from cluster.cluster_workers import customer
from cluster.topology import HOST, Cluster
from voucher_sessions import CrossSlotStack, Redeemable, Voucher

CODES = ["ann-1", "bob-1", "ann-2"]
STACK = [Redeemable(code=code) for code in CODES]
SESSION = {"type": "LOCK", "key": "k"}
OTHER = {"type": "LOCK", "key": "other"}
CALLS: list[Callable[[Any], Any]] = [
    lambda engine: engine.validate_stack(STACK),
    lambda engine: engine.validate_stack(STACK, session=SESSION),
    lambda engine: engine.validate_stack(STACK[:1], session=SESSION, release=CODES[1:]),
    lambda engine: engine.redeem_stack(STACK),
    lambda engine: engine.release_stack(CODES, "k"),
    lambda engine: engine.rollback_stack(CODES, "order"),
]


class ClusterClient:
    """A client of one kind, and engines over it. ``deaf``: it must not be asked anything."""

    def __init__(self, kind: str, port: int, engines: OpenEngines) -> None:
        self._engines = engines
        self._kind = kind
        library: Any = redis.asyncio if kind == "async" else redis
        self.client = library.RedisCluster(host=HOST, port=port)

    def engine(self, **options: Any) -> Any:
        return self._engines.over(self.client, **options)

    def refuse_all_commands(self) -> None:
        def refuse(*words: Any, **_: Any) -> Any:
            raise AssertionError(f"sent: {words}")

        async def refuse_async(*words: Any, **_: Any) -> Any:
            refuse(*words)

        self.client.execute_command = refuse_async if self._kind == "async" else refuse


@pytest.fixture(params=["sync", "async"])
def cluster_client(request: pytest.FixtureRequest, cluster: Cluster, engines: OpenEngines) -> ClusterClient:
    with cluster.admin() as admin:
        admin.flushall()
    return ClusterClient(request.param, cluster.nodes[0].port, engines)


def test_vouchers_are_spread_over_the_slots_by_their_code(cluster_client: ClusterClient, cluster: Cluster) -> None:
    engine = cluster_client.engine()
    for at in range(60):
        engine.put_voucher(Voucher(code=f"V{at}", quantity=2))
        for session in (SESSION, OTHER):
            assert engine.validate(f"V{at}", session=session).valid
    keys = [node.admin.dbsize() for node in cluster.nodes[:3]]
    assert sum(keys) == 1 + 4 * 60, "what the engines remember of their partition; book, index and sessions of each"
    assert min(keys) > 40


@pytest.mark.parametrize("call", CALLS)
def test_14_a_stack_of_several_slots_is_refused_before_anything_is_sent(
    cluster_client: ClusterClient, call: Callable[[Any], Any]
) -> None:
    cluster_client.refuse_all_commands()
    with pytest.raises(CrossSlotStack) as refused:
        call(cluster_client.engine())
    assert refused.value.groups == (("ann-1",), ("bob-1",), ("ann-2",))
    with pytest.raises(CrossSlotStack) as refused:
        call(cluster_client.engine(partition=customer))
    assert refused.value.groups == (("ann-1", "ann-2"), ("bob-1",))


def test_14_a_partition_makes_a_stack_possible(cluster_client: ClusterClient) -> None:
    engine = cluster_client.engine(partition=customer)
    for code in CODES:
        engine.put_voucher(Voucher(code=code, quantity=1, credits=10))
    stack = [Redeemable(code=code, credits=3) for code in ("ann-1", "ann-2")]
    assert engine.validate_stack(stack, session=SESSION).valid
    assert engine.redeem_stack(stack, session="k", redemption_id="order").redemptions[1].credits == 3
    assert [each.credits for each in engine.rollback_stack(["ann-1", "ann-2"], "order")] == [3, 3]

"""Slots are moved back and forth while four processes redeem: no call fails, and all totals are right."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import cycle

import pytest
from support.servers import BINARIES

from cluster.cluster_workers import CUSTOMERS, SINGLES, STACK_PREFIX, Outcomes, audit, running_workers
from cluster.topology import Cluster, running_cluster, slot_of

SECONDS, MOVES = 5, 12  # at least
SLOTS = sorted(
    {slot_of(f"vs:{{{code}}}") for code in SINGLES} | {slot_of(f"{STACK_PREFIX}:{{{name}}}") for name in CUSTOMERS}
)


def run_workers_while_moving(cluster: Cluster, move: Callable[[int], int]) -> Outcomes:
    """The results of the workers that ran meanwhile."""
    moves = 0
    with running_workers(cluster.url) as outcomes:
        ends = time.monotonic() + SECONDS
        while moves < MOVES or time.monotonic() < ends:
            move(random.choice(SLOTS))
            moves += 1
    with cluster.admin() as admin:
        audit(cluster.url, admin, outcomes)
    print(f"{moves} moves: {outcomes}")
    assert not outcomes.unknown
    assert not outcomes.lost
    return outcomes


@pytest.mark.parametrize("server", sorted({"valkey", "redis8"} & BINARIES.keys()))
def test_slots_migrated_key_by_key(server: str) -> None:
    with running_cluster(server, node_timeout_ms=10_000) as cluster:
        # Some stay open for longer than redis-py follows ASK and TRYAGAIN.
        seconds = cycle([0.8, 0, 0, 0.1, 0, 0])
        outcomes = run_workers_while_moving(cluster, lambda slot: cluster.move(slot, open_for=next(seconds)))
    assert outcomes.client_errors["ClusterError"] > 0, "redis-py gave up, and the engines did not"


def test_slots_reassigned_at_once() -> None:
    with running_cluster("valkey", node_timeout_ms=10_000) as cluster:
        run_workers_while_moving(cluster, cluster.move_at_once)

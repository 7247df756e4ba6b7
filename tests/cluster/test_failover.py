"""Primaries are killed while four processes redeem: the calls continue without an error, and all totals are right.

Replication is asynchronous, so a server that dies can lose the last writes that it has answered: at most one for each
cart that is processed at the time, because replies and the data for replicas leave in the same turn of the server's
loop. What workers got a result for and the new primary does not have is done again under the same ids, as callers
would do. The totals agree with the locks and receipts before that; after it they agree with all results too.
"""

from __future__ import annotations

import time

import pytest
from support.servers import BINARIES

from cluster.cluster_workers import CARTS_PER_ENGINE, SINGLES, WORKERS, Outcomes, audit, running_workers
from cluster.topology import Node, running_cluster, running_sentinels, slot_of, until
from voucher_sessions._core import scripts

SERVERS = sorted({"valkey", "redis8"} & BINARIES.keys())


def has_scripts(server: Node) -> bool:
    return any(server.ask("SCRIPT", "EXISTS", *(script.sha for script in scripts.ALL)))


def check(outcomes: Outcomes, took: float) -> None:
    print(f"a new primary after {took:.2f} s: {outcomes}")
    assert outcomes.client_errors["ConnectionError"] > 0, "something happened"
    assert took - 1 < outcomes.slowest < took + 5, "the calls waited for the new primary, and not much longer"
    assert not outcomes.unknown
    assert len(outcomes.lost) <= sum(CARTS_PER_ENGINE[kind] for kind, _ in WORKERS)


@pytest.mark.parametrize("server", SERVERS)
def test_a_primary_of_the_cluster_is_killed(server: str) -> None:
    with running_cluster(server) as cluster:
        primary = cluster.primary_of(slot_of(f"vs:{{{SINGLES[0]}}}"))
        replica = cluster.replica_of(primary)
        with running_workers(cluster.url) as outcomes:
            time.sleep(0.5)
            assert has_scripts(primary)
            assert not has_scripts(replica)
            primary.kill()
            killed = time.monotonic()
            until(lambda: replica.admin.info("replication")["role"] == "master")
            took = time.monotonic() - killed
            until(lambda: has_scripts(replica))
            time.sleep(1)
            primary.start()
            primary.wait()
            until(cluster.is_whole)
        with cluster.admin() as admin:
            audit(cluster.url, admin, outcomes)
    check(outcomes, took)


@pytest.mark.parametrize("server", SERVERS)
def test_the_host_of_the_primary_and_a_sentinel_is_killed(server: str) -> None:
    with running_sentinels(server) as sentinels:
        primary, (first, other, _) = sentinels.primary(), sentinels.sentinels
        with running_workers(sentinels.url) as outcomes:
            time.sleep(0.5)
            assert [each for each in sentinels.servers if has_scripts(each)] == [primary]
            first.kill()
            primary.kill()
            killed = time.monotonic()
            until(lambda: sentinels.primary(other) is not primary)
            took = time.monotonic() - killed
            until(lambda: has_scripts(sentinels.primary(other)))
            time.sleep(1)
            # For some seconds it takes itself for the primary, with nothing in it; nobody may follow it. The sentinel
            # stays away: until it has heard of the others it would name this one, and it would be believed.
            primary.start()
            primary.wait()
            time.sleep(1)
        with sentinels.admin(other) as admin:
            audit(sentinels.url, admin, outcomes)
    check(outcomes, took)

"""Primaries are killed, cut off or stopped while workers redeem, and are replaced.

With ``durability`` no acknowledged change is lost, and the results of all workers are possible for one server that
never failed. A change that was not confirmed counts as unknown, and is repeated unchanged on the new primary.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

import pytest
from cluster.topology import running_cluster, running_sentinels, slot_of
from support.servers import BINARIES
from support.waiting import rounds, until

from faults.audit_of_workers import Audit, audit
from faults.history import Op
from faults.linearizable import check
from faults.redemption_workers import SCARCE, SHORT_MS
from faults.replicas import replicated_servers
from faults.workers_over_failovers import PrimaryAddress, WorkerThreads, running_workers
from voucher_sessions import Durability, VoucherSessions

CONFIRMED = Durability(replicas=1, timeout_ms=300)


def check_result(url: str, workers: WorkerThreads, title: str, deposed: Iterable[Op] = ()) -> Audit:
    """``deposed``: the calls that a deposed primary has answered. Its refusals and reads nothing guards."""
    time.sleep(max(SHORT_MS) / 1000 + 0.05)
    with VoucherSessions.from_url(url) as engine:
        found = audit(engine, workers.history)
    print(f"{title}: {found}")
    assert not found.lost
    unguarded = {(op.client, op.number) for op in deposed if not op.changes or is_refusal(op)}
    check(op for op in workers.history if (op.client, op.number) not in unguarded)
    return found


def is_refusal(op: Op) -> bool:
    return isinstance(op.seen, dict) and "error" in op.seen


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_primary_is_killed(name: str) -> None:
    for _ in rounds():
        with replicated_servers(name) as servers:
            address = PrimaryAddress(servers.primary.url)
            with running_workers(CONFIRMED, *4 * [address]) as workers:
                workers.wait_for_changes()
                servers.primary.kill()
                address.url = servers.promote().url
                workers.wait_for_changes()
            assert check_result(address.url, workers, f"{name} killed").unknown > 0, "calls were under way"


def test_a_primary_is_killed_and_sentinels_replace_it() -> None:
    with running_sentinels("valkey", down_after_ms=600) as sentinels:
        address = PrimaryAddress(sentinels.url)
        with running_workers(CONFIRMED, *4 * [address]) as workers:
            workers.wait_for_changes()
            primary = sentinels.primary()
            primary.kill()
            until(lambda: sentinels.primary() is not primary)
            workers.wait_for_changes()
        check_result(sentinels.url, workers, "valkey killed, replaced by sentinels")


def test_a_primary_of_a_cluster_is_killed_and_comes_back_as_a_replica() -> None:
    with running_cluster("valkey") as cluster:
        with running_workers(CONFIRMED, *4 * [PrimaryAddress(cluster.url)]) as workers:
            workers.wait_for_changes()
            primary = cluster.primary_of(slot_of(f"vs:{{{SCARCE[0]}}}"))
            replica = cluster.replica_of(primary)
            primary.kill()
            until(lambda: bool(replica.admin.info("replication")["role"] == "master"))
            primary.start()
            primary.wait()
            until(cluster.is_whole)
            workers.wait_for_changes()
        check_result(cluster.url, workers, "valkey killed, replaced by its cluster")


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_primary_is_cut_off_together_with_some_workers(name: str) -> None:
    """Those beside it are not confirmed, those elsewhere go on with a new one; later all are together again."""
    for _ in rounds():
        with replicated_servers(name) as servers:
            inside, outside = PrimaryAddress(servers.primary.url), PrimaryAddress(servers.client_link.url, patience=1)
            with running_workers(CONFIRMED, *3 * [inside], outside, outside) as workers:
                workers.wait_for_changes()
                began = time.monotonic_ns()
                servers.cut_off()
                new = servers.promote()
                outside.url = new.url
                workers.wait_for_changes()
                assert workers.waits_for_replies(0, 1, 2), "nothing was confirmed there"
                inside.url, over = new.url, time.monotonic_ns()
                workers.wait_for_changes()
                servers.follow(servers.primary, new)
            deposed = [
                op
                for op in workers.history
                if op.client in {"t0", "t1", "t2"} and op.begin < over and (op.end or over) > began
            ]
            found = check_result(new.url, workers, f"{name} cut off", deposed)
            assert found.unknown >= 3, "calls were not confirmed"


@pytest.mark.parametrize("name", list(BINARIES))
@pytest.mark.parametrize("links", ["open", "cut"])
def test_a_primary_is_stopped_with_calls_in_flight_and_continues_after_it_was_replaced(name: str, links: str) -> None:
    """Once it hears that its replicas have left it, and once it hears nothing."""
    for _ in rounds():
        with replicated_servers(name) as servers:
            first, second = PrimaryAddress(servers.primary.url), PrimaryAddress()
            with running_workers(CONFIRMED, first, first, second, second) as workers:
                workers.wait_for_changes()
                os.kill(servers.primary.process.pid, signal.SIGSTOP)
                try:
                    until(lambda: workers.waits_for_replies(0, 1))
                    if links == "cut":
                        servers.cut_off()
                    new = servers.promote()
                    second.url = new.url
                    workers.wait_for_changes()
                    first.url = new.url
                finally:
                    os.kill(servers.primary.process.pid, signal.SIGCONT)
                workers.wait_for_changes()
            check_result(new.url, workers, f"{name} asleep, its links {links}")

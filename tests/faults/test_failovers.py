"""Primaries that die, are cut off or fall asleep while tills sell, and are replaced.

With ``durability`` no acknowledged change is lost, and all that the tills were told can have come from one server that
never failed. What was not confirmed counts as unknown, and is repeated as it was where the new primary is.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

import pytest
from cluster.topology import running_cluster, running_sentinels, slot_of
from support.servers import BINARIES

from faults.audit_of_workers import Audit, audit
from faults.history import Op
from faults.linearizable import check
from faults.redemption_workers import SCARCE, SHORT_MS
from faults.replicas import trio
from faults.waiting import rounds, until
from faults.workers_over_failovers import Place, Shop, selling
from voucher_sessions import Durability, VoucherSessions

CONFIRMED = Durability(replicas=1, timeout_ms=300)


def judge(url: str, shop: Shop, told: str, deposed: Iterable[Op] = ()) -> Audit:
    """``deposed``: the calls that a deposed primary has answered. Its refusals and reads nothing guards."""
    time.sleep(max(SHORT_MS) / 1000 + 0.05)
    with VoucherSessions.from_url(url) as engine:
        found = audit(engine, shop.history)
    print(f"{told}: {found}")
    assert not found.lost
    unguarded = {(op.client, op.number) for op in deposed if not op.changes or is_refusal(op)}
    check(op for op in shop.history if (op.client, op.number) not in unguarded)
    return found


def is_refusal(op: Op) -> bool:
    return isinstance(op.seen, dict) and "error" in op.seen


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_primary_is_killed(name: str) -> None:
    for _ in rounds():
        with trio(name) as servers:
            place = Place(servers.primary.url)
            with selling(CONFIRMED, *4 * [place]) as shop:
                shop.sell()
                servers.primary.kill()
                place.url = servers.promote().url
                shop.sell()
            assert judge(place.url, shop, f"{name} killed").unknown > 0, "calls were under way"


def test_a_primary_is_killed_and_sentinels_replace_it() -> None:
    with running_sentinels("valkey", down_after_ms=600) as sentinels:
        place = Place(sentinels.url)
        with selling(CONFIRMED, *4 * [place]) as shop:
            shop.sell()
            primary = sentinels.primary()
            primary.kill()
            until(lambda: sentinels.primary() is not primary)
            shop.sell()
        judge(sentinels.url, shop, "valkey killed, replaced by sentinels")


def test_a_primary_of_a_cluster_is_killed_and_comes_back_as_a_replica() -> None:
    with running_cluster("valkey") as cluster:
        with selling(CONFIRMED, *4 * [Place(cluster.url)]) as shop:
            shop.sell()
            primary = cluster.primary_of(slot_of(f"vs:{{{SCARCE[0]}}}"))
            replica = cluster.replica_of(primary)
            primary.kill()
            until(lambda: bool(replica.admin.info("replication")["role"] == "master"))
            primary.start()
            primary.wait()
            until(cluster.is_whole)
            shop.sell()
        judge(cluster.url, shop, "valkey killed, replaced by its cluster")


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_primary_is_cut_off_with_some_of_the_tills(name: str) -> None:
    """Those beside it are not confirmed, those elsewhere go on with a new one; later all are together again."""
    for _ in rounds():
        with trio(name) as servers:
            inside, outside = Place(servers.primary.url), Place(servers.street.url, patience=1)
            with selling(CONFIRMED, *3 * [inside], outside, outside) as shop:
                shop.sell()
                began = time.monotonic_ns()
                servers.cut_off()
                new = servers.promote()
                outside.url = new.url
                shop.sell()
                assert shop.waits_for_replies(0, 1, 2), "nothing was confirmed there"
                inside.url, over = new.url, time.monotonic_ns()
                shop.sell()
                servers.follow(servers.primary, new)
            deposed = [
                op
                for op in shop.history
                if op.client in {"t0", "t1", "t2"} and op.begin < over and (op.end or over) > began
            ]
            found = judge(new.url, shop, f"{name} cut off", deposed)
            assert found.unknown >= 3, "calls were not confirmed"


@pytest.mark.parametrize("name", list(BINARIES))
@pytest.mark.parametrize("links", ["open", "cut"])
def test_a_primary_falls_asleep_with_calls_in_flight_and_wakes_up_deposed(name: str, links: str) -> None:
    """Once it hears that its replicas have left it, and once it hears nothing."""
    for _ in rounds():
        with trio(name) as servers:
            first, second = Place(servers.primary.url), Place()
            with selling(CONFIRMED, first, first, second, second) as shop:
                shop.sell()
                os.kill(servers.primary.process.pid, signal.SIGSTOP)
                try:
                    until(lambda: shop.waits_for_replies(0, 1))
                    if links == "cut":
                        servers.cut_off()
                    new = servers.promote()
                    second.url = new.url
                    shop.sell()
                    first.url = new.url
                finally:
                    os.kill(servers.primary.process.pid, signal.SIGCONT)
                shop.sell()
            judge(new.url, shop, f"{name} asleep, its links {links}")

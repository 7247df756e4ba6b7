"""While the server of the key ``vs:partition`` is down, new engines work on the other servers of a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from cluster.topology import Cluster, running_cluster, slot_of, until
from voucher_sessions import AsyncVoucherSessions, InvalidRequest, Voucher, VoucherSessions


def by_customer(code: str) -> str:
    return code.partition("-")[0]


def codes_on_other_servers(cluster: Cluster, number: int) -> list[str]:
    down = cluster.primary_of(slot_of("vs:partition"))
    customers = (f"c{at}" for at in range(10_000))
    served = (each for each in customers if cluster.primary_of(slot_of(f"vs:{{{each}}}")) is not down)
    return [f"{next(served)}-1" for _ in range(number)]


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_new_engines_work_on_the_other_servers(how: str) -> None:
    with running_cluster("valkey", node_timeout_ms=1000 if how == "killed" else 60_000) as cluster:
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        first, second = codes_on_other_servers(cluster, 2)
        url = f"{cluster.url}?socket_timeout=0.5"
        engine = VoucherSessions.from_url(url, partition=by_customer)
        waiting = AsyncVoucherSessions.from_url(url, partition=by_customer)
        loop = asyncio.new_event_loop()
        primary = cluster.primary_of(slot_of("vs:partition"))
        try:
            if how == "killed":
                cluster.replica_of(primary).kill()
                primary.kill()
            else:
                os.kill(primary.process.pid, signal.SIGSTOP)
            assert engine.put_voucher(Voucher(code=first, credits=100)).credits.limit == 100
            loop.run_until_complete(waiting.put_voucher(Voucher(code=second, credits=100)))
            begun = time.monotonic()
            for number in range(20):
                assert engine.redeem(first, credits=1, redemption_id=f"{number}").credits == 1
                assert (
                    loop.run_until_complete(waiting.redeem(second, credits=1, redemption_id=f"{number}")).credits == 1
                )
            assert time.monotonic() - begun < 5, "the other calls do not wait for that server"
        finally:
            if how == "hanging":
                os.kill(primary.process.pid, signal.SIGCONT)
            loop.run_until_complete(waiting.aclose())
            loop.close()
            engine.close()
        if how == "hanging":
            until(cluster.is_whole)
            with VoucherSessions.from_url(cluster.url, partition=by_customer) as compared:
                assert compared.get_voucher(first).credits.used == 20
            with VoucherSessions.from_url(cluster.url, partition=str.upper) as other, pytest.raises(InvalidRequest):
                other.get_voucher(first)

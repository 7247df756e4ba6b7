"""What happens on a primary that was replaced and does not know it, in situations that the tests construct.

Without ``durability`` changes that it acknowledged are lost, and it grants again what the new primary has granted;
these tests show it. With ``durability`` it gets no confirmation for that. A confirmation is worth as much as the
replicas that give it: one of those must become the new primary, or be the most advanced of those that can.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from redis.exceptions import ResponseError
from support.servers import Server
from support.waiting import until

from faults.replicas import ReplicatedServers, replicated_servers, replication
from faults.workers_over_failovers import CheckedThreads, CurrentEngine, PrimaryAddress
from voucher_sessions import (
    Durability,
    NotDurable,
    RedemptionNotFound,
    SessionNotFound,
    Voucher,
    VoucherSessions,
)

SERVER = "valkey"
LAST = [f"LAST-{at}" for at in range(10)]  # of each there is one
ORDERS = range(20)
# Of those that cannot be confirmed, and of those that will be.
ONE, BOTH = (Durability(replicas=replicas, timeout_ms=50) for replicas in (1, 2))
SURE, SURE_OF_BOTH = (Durability(replicas=replicas, timeout_ms=20_000) for replicas in (1, 2))

guarded = pytest.mark.parametrize("durability", [None, ONE], ids=["without durability", "with durability"])


def put_vouchers(servers: ReplicatedServers) -> None:
    """The vouchers, known to both replicas."""
    with VoucherSessions.from_url(servers.primary.url, durability=SURE_OF_BOTH, socket_timeout=30) as engine:
        for code in LAST:
            engine.put_voucher(Voucher(code=code, quantity=1))
        engine.put_voucher(Voucher(code="CARD", credits=10**6))


def locked(engine: Any, code: str, key: str) -> bool:
    """Whether the lock was acknowledged."""
    try:
        valid: bool = engine.validate(code, session={"type": "LOCK", "key": key}).valid
    except NotDurable:
        return False
    return valid


@contextmanager
def current_engines(url: str, durability: Durability | None, number: int = 2) -> Iterator[list[CurrentEngine]]:
    """Sync and asyncio by turns."""
    opened = [CurrentEngine(PrimaryAddress(url), durability, asynchronous=at % 2 == 1) for at in range(number)]
    with ExitStack() as closing:
        for current_engine in opened:
            closing.callback(current_engine.close)
        yield opened


@guarded
def test_a_primary_without_its_replicas(durability: Durability | None) -> None:
    with replicated_servers(SERVER) as servers, current_engines(servers.primary.url, durability) as inside:
        put_vouchers(servers)
        servers.cut_off()
        acknowledged = [order for order in ORDERS if redeemed(inside[order % 2](), order)]
        granted = sum(locked(inside[at % 2](), code, "inside") for at, code in enumerate(LAST))
        new = servers.promote()
        with VoucherSessions.from_url(new.url, durability=durability and SURE, socket_timeout=30) as outside:
            granted_again = sum(locked(outside, code, "outside") for code in LAST)
            lost = [order for order in acknowledged if not has_receipt(outside, order)]
            if durability is None:
                assert len(acknowledged) == len(lost) == len(ORDERS)
                assert granted == granted_again == len(LAST)
                return
            assert (len(acknowledged), granted, granted_again) == (0, 0, len(LAST))
            assert all(redeemed(outside, order) for order in ORDERS), "repeated where it can be confirmed"
            assert outside.get_voucher("CARD").credits.used == len(ORDERS)


def redeemed(engine: Any, order: int) -> bool:
    try:
        return not engine.redeem("CARD", credits=1, redemption_id=str(order)).replayed
    except NotDurable:
        return False


def has_receipt(engine: Any, order: int) -> bool:
    try:
        return bool(engine.get_redemption("CARD", str(order)))
    except RedemptionNotFound:
        return False


@pytest.mark.parametrize("links", ["open", "cut"])
@guarded
def test_a_stopped_primary_that_continues_with_calls_in_flight(durability: Durability | None, links: str) -> None:
    """With links cut it has not heard that its replicas left, and min-replicas-to-write is counted once a second."""
    locked_codes: dict[str, bool] = {}
    with (
        replicated_servers(
            SERVER, min_replicas_to_write="1" if links == "cut" else "0", min_replicas_max_lag="1"
        ) as servers,
        current_engines(servers.client_link.url, durability, len(LAST)) as inside,
    ):
        put_vouchers(servers)
        for current_engine in inside:
            with suppress(NotDurable):
                current_engine().release("CARD", "nobody")  # the connection of a change stands
        sent, threads = servers.client_link.calls, CheckedThreads()
        os.kill(servers.primary.process.pid, signal.SIGSTOP)
        try:
            for code, current_engine in zip(LAST, inside, strict=True):
                threads.start(
                    lambda code, current_engine: locked_codes.update({code: locked(current_engine(), code, "inside")}),
                    code,
                    current_engine,
                )
            until(lambda: servers.client_link.calls == sent + len(LAST))
            if links == "cut":
                for link in servers.links:
                    link.cut()
            new = servers.promote()
            with VoucherSessions.from_url(new.url, durability=durability and SURE, socket_timeout=30) as outside:
                assert all(locked(outside, code, "outside") for code in LAST)
        finally:
            os.kill(servers.primary.process.pid, signal.SIGCONT)
        threads.join()
    assert sum(locked_codes.values()) == (len(LAST) if durability is None else 0)


@pytest.mark.parametrize(("asked", "granted"), [(ONE, len(LAST)), (BOTH, 0)], ids=["one", "both"])
def test_a_replica_that_stays_with_the_deposed_primary_confirms(asked: Durability, granted: int) -> None:
    """The other one is promoted: only who asks for the confirmation of both is safe."""
    with replicated_servers(SERVER) as servers:
        put_vouchers(servers)
        _, leaves = servers.replicas
        with (
            VoucherSessions.from_url(servers.primary.url, durability=asked) as inside,
            VoucherSessions.from_url(leaves.url) as outside,
        ):
            servers.promote(leaves)
            assert sum(locked(inside, code, "inside") for code in LAST) == granted
            assert all(locked(outside, code, "outside") for code in LAST)


def follows(replica: Server, primary: Server) -> bool:
    """Whether it is in step with what the primary is since its start."""
    its, of = replication(replica), replication(primary)
    return bool(its["master_link_status"] == "up" and its["master_replid"] == of["master_replid"])


@pytest.mark.parametrize("appendonly", ["no", "yes"])
def test_a_primary_that_restarts_empty_deletes_its_replicas_data(appendonly: str) -> None:
    """Faster than anybody promoted one of them. So a primary that starts by itself needs an append-only file."""
    with replicated_servers(SERVER, appendonly=appendonly) as servers:
        put_vouchers(servers)
        replica = servers.replicas[0]
        with (
            VoucherSessions.from_url(servers.primary.url, durability=SURE_OF_BOTH, socket_timeout=30) as engine,
            VoucherSessions.from_url(replica.url) as on_replica,
        ):
            assert redeemed(engine, 1), "both replicas have confirmed it"
            servers.primary.kill()
            servers.primary.start()
            until(lambda: follows(replica, servers.primary))
            assert has_receipt(on_replica, 1) == has_receipt(engine, 1) == (appendonly == "yes")


def test_min_replicas_to_write_limits_the_loss_but_does_not_prevent_it() -> None:
    """A primary that is cut off goes on acknowledging until its replicas have been silent for min-replicas-max-lag."""
    with replicated_servers(SERVER, min_replicas_to_write="1", min_replicas_max_lag="1") as servers:
        put_vouchers(servers)
        with VoucherSessions.from_url(servers.primary.url) as inside:
            servers.cut_off()
            acknowledged = redeemed_until_refused(inside)
        with VoucherSessions.from_url(servers.promote().url) as outside:
            lost = [order for order in range(acknowledged) if not has_receipt(outside, order)]
        print(f"{len(lost)} of {acknowledged} acknowledged redemptions lost before the server refused more")
        assert len(lost) == acknowledged > 0


def redeemed_until_refused(engine: VoucherSessions) -> int:
    """How many redemptions it acknowledged before."""
    for acknowledged in itertools.count():
        try:
            redeemed(engine, acknowledged)
        except ResponseError as refused:
            if "NOREPLICAS" not in str(refused):
                raise
            break
    return acknowledged


def test_refusals_and_reads_are_not_confirmed() -> None:
    """They change nothing and wait for nobody, so a deposed primary gives them from its old books."""
    with replicated_servers(SERVER) as servers:
        put_vouchers(servers)
        servers.cut_off()
        new = servers.promote()
        with (
            VoucherSessions.from_url(servers.primary.url, durability=ONE) as inside,
            VoucherSessions.from_url(new.url, durability=SURE, socket_timeout=30) as outside,
        ):
            outside.validate("CARD", credits=7, session={"type": "LOCK", "key": "cart"})
            assert inside.list_sessions("CARD") == []
            assert inside.get_voucher("CARD").credits.locked == 0
            with pytest.raises(SessionNotFound):
                inside.redeem("CARD", session="cart")
            assert outside.redeem("CARD", session="cart").credits == 7

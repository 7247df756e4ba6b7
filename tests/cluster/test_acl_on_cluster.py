"""The rows of the ACL table in docs/server.md that are for clusters and for Sentinel."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import redis.exceptions
from conftest import BlockingAsync
from redis.crc import key_slot
from transport.test_acl import OPTIONAL, RULE, everything, extra, without_each

from cluster.topology import SERVICE, Cluster, Node, Sentinels
from voucher_sessions import AsyncVoucherSessions, RedemptionNotFound, Voucher, VoucherSessions
from voucher_sessions._transport import clients
from voucher_sessions.bulk import scan_vouchers

# redis.asyncio forgets nodes that it met before it failed to read the slot table, without closing them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FOR_CLUSTERS = extra("a cluster client")
FOR_SCANS = [*extra("a restart"), *extra("open slots")]
FOR_SENTINELS = extra("a user of the sentinels")
ON_ITS_WAY = "on its way"
PREFIX = "vs:unpartitioned"  # which the rule allows too


@contextmanager
def allowed(nodes: list[Node], rule: list[str]) -> Iterator[None]:
    """There is a user who may do just this."""
    for node in nodes:
        node.ask("ACL", "SETUSER", "till", "reset", *rule)
        node.ask("ACL", "LOG", "RESET")
        if node.ask("ROLE")[0] == b"master":
            node.ask("FLUSHALL")
    try:
        yield
    finally:
        for node in nodes:
            node.ask("ACL", "DELUSER", "till")


def denied(nodes: list[Node], optional: Collection[str] = (*OPTIONAL, *FOR_SCANS)) -> set[str]:
    found = {str(each["object"]) for node in nodes for each in node.admin.acl_log()}
    return found.difference(word.removeprefix("+") for word in optional)


@pytest.fixture(params=["sync", "async"])
def call_as_user(
    request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Does something with an engine of its own for this URL, one that does not wait for what never comes."""
    monkeypatch.setattr(clients, "retry_period_seconds", lambda _: 0)

    def use(url: str, do: Callable[[Any], object], **options: Any) -> None:
        if request.param == "sync":
            with VoucherSessions.from_url(url, **options) as engine:
                do(engine)
            return
        waiting = AsyncVoucherSessions.from_url(url, **options)
        try:
            do(BlockingAsync(waiting, loop))
        finally:
            loop.run_until_complete(waiting.aclose())
            gc.collect()  # so that the warnings about nodes that are not closed come here

    return use


def test_a_cluster_client_needs_its_row(cluster: Cluster, call_as_user: Callable[..., None]) -> None:
    url = cluster.url.replace("://", "://till:secret@")
    with allowed(cluster.nodes, [*RULE, *FOR_CLUSTERS]):
        call_as_user(url, everything, partition=lambda _: "all")
        assert denied(cluster.nodes) == set()
    for name, rule in without_each(FOR_CLUSTERS):
        if name != "asking":
            with allowed(cluster.nodes, rule):
                with pytest.raises((redis.RedisError, redis.exceptions.RedisClusterException)):
                    call_as_user(url, everything, partition=lambda _: "all")
                assert denied(cluster.nodes) == {name}


def test_a_scan_that_notices_changes_of_the_cluster_needs_its_rows(cluster: Cluster) -> None:
    """Without them, it works, and the servers log what they denied."""
    url = cluster.url.replace("://", "://till:secret@")
    rule = [*RULE, *FOR_CLUSTERS]
    for added, expected in ((FOR_SCANS, set()), (FOR_SCANS[:1], {"cluster|nodes"}), (FOR_SCANS[1:], {"info"})):
        with (
            allowed(cluster.nodes, [*rule, *added]),
            VoucherSessions.from_url(url, partition=lambda _: "all") as engine,
        ):
            engine.put_voucher(Voucher(code="A"))
            assert [each.code for each in scan_vouchers(engine)] == ["A"]
            assert denied(cluster.nodes, optional=["client|setinfo"]) == expected


def test_missing_permission_for_cluster_slots_raises_at_once(
    cluster: Cluster, call_as_user: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # so that calls have their patience
    url = cluster.url.replace("://", "://till:secret@")
    rule = dict(without_each(FOR_CLUSTERS))["cluster|slots"]
    begin = time.monotonic()
    with allowed(cluster.nodes, rule), pytest.raises((redis.RedisError, redis.exceptions.RedisClusterException)):
        call_as_user(url, everything, partition=lambda _: "all")
    assert time.monotonic() - begin < 15


def test_asking_is_needed_while_a_slot_is_on_its_way(cluster: Cluster, call_as_user: Callable[..., None]) -> None:
    url = cluster.url.replace("://", "://till:secret@")
    slot = key_slot(f"{{{ON_ITS_WAY}}}".encode())
    source, target = cluster.primary_of(slot), cluster.primary_of((slot + 8192) % 16384)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
    rules = dict(without_each(FOR_CLUSTERS))
    try:
        with allowed(cluster.nodes, [*RULE, *FOR_CLUSTERS]):
            call_as_user(url, ask_for_a_receipt, prefix=PREFIX)
        with allowed(cluster.nodes, rules["asking"]):
            with pytest.raises(redis.exceptions.ResponseError, match="'asking'"):
                call_as_user(url, ask_for_a_receipt, prefix=PREFIX)
            assert denied(cluster.nodes) == {"asking"}
    finally:
        for node in (source, target):
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")


def ask_for_a_receipt(engine: Any) -> None:
    """One key, which neither node has: the client is sent from the one to the other."""
    with pytest.raises(RedemptionNotFound):
        engine.get_redemption(ON_ITS_WAY, "order")


def test_a_client_from_sentinel_needs_no_row_and_the_sentinels_one(
    sentinels: Sentinels, call_as_user: Callable[..., None]
) -> None:
    hosts = ",".join(sentinel.address for sentinel in sentinels.sentinels)
    url = f"redis+sentinel://till:secret@{hosts}/{SERVICE}?sentinel_username=till&sentinel_password=secret"
    with allowed(sentinels.servers, RULE):
        with allowed(sentinels.sentinels, ["on", ">secret", "-@all", *FOR_SENTINELS]):
            call_as_user(url, everything)
        for name, _ in without_each(FOR_SENTINELS):
            with allowed(sentinels.sentinels, ["on", ">secret", "-@all"]):
                with pytest.raises(redis.RedisError):
                    call_as_user(url, everything)
                assert denied(sentinels.sentinels) == {name}

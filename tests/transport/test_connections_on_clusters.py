"""Engines on a cluster: over connections of their own to each node, and through a client of the application's class."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import redis
import redis.asyncio
from cluster.topology import HOST, Node
from conftest import OpenEngines
from faults.proxy import Fault, Proxy
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.scripted_clients import TRANSPORTS, AsyncThroughClusterClient, ThroughClusterClient
from support.waiting import until

from transport.two_primaries import TwoPrimaries, calls_of, refusals_of, running_two_primaries
from voucher_sessions import (
    CorruptState,
    Durability,
    NotDurable,
    OutcomeUnknown,
    ServerUnavailable,
    Voucher,
    VoucherSessions,
)
from voucher_sessions._transport import clients

NAME = "on-cluster"
OWN, THROUGH_CLIENT = TRANSPORTS
SYNC = {OWN: redis.RedisCluster, THROUGH_CLIENT: ThroughClusterClient}
ASYNC = {OWN: redis.asyncio.RedisCluster, THROUGH_CLIENT: AsyncThroughClusterClient}


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoPrimaries]:
    with running_two_primaries() as cluster:
        yield cluster


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def open_engine(kind: str, transport: str, cluster: TwoPrimaries, engines: OpenEngines) -> Callable[..., Any]:
    """Makes an engine of each kind over each transport; the options are the client's."""

    def make(durability: Durability | None = None, **options: Any) -> Any:
        options = {"host": HOST, "port": cluster.nodes[0].port, "require_full_coverage": False, **options}
        classes: Any = SYNC if kind == "sync" else ASYNC
        retry = Retry if kind == "sync" else AsyncRetry
        client = classes[transport](client_name=NAME, retry=retry(NoBackoff(), 1), **options)
        return engines.over(client, close=closed, durability=durability)

    return make


async def closed(client: Any) -> None:
    """``aclose`` of redis-py (8.1) leaves connections open if a node has failed."""
    for node in (*client.nodes_manager.startup_nodes.values(), *client.nodes_manager.nodes_cache.values()):
        await node.disconnect()
    await client.aclose()


@pytest.fixture
def engine(open_engine: Callable[..., Any], cluster: TwoPrimaries) -> Any:
    """It has made its first call, knows the slots, and the nodes have the scripts."""
    engine = open_engine()
    for at in range(2):
        with_voucher(engine, cluster.code(at))
    return engine


@pytest.fixture
def retried_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "retry_period_seconds", lambda client: 0.2)


def close_engine(engine: Any) -> None:
    engine.close() if isinstance(engine, VoucherSessions) else engine.aclose()


def with_voucher(engine: Any, code: str) -> str:
    engine.put_voucher(Voucher(code=code, quantity=10))
    engine.redeem(code, redemption_id="order")
    engine.get_redemption(code, "order")
    return code


def running_scripts(node: Node) -> int:
    """How many connections of the engine and its client have run a script, or proven one by ECHO, as their last command."""
    connected: Any = node.admin.client_list()
    return sum(each["name"] == NAME and each["cmd"] in ("eval", "evalsha", "echo") for each in connected)


class TestConnections:
    def test_each_node_has_one_connection_for_calls_one_after_the_other(
        self, transport: str, cluster: TwoPrimaries, engine: Any
    ) -> None:
        assert list(map(running_scripts, cluster.nodes)) == [1, 1]
        close_engine(engine)
        for node in cluster.nodes:
            until(partial(lambda each: running_scripts(each) == (transport == THROUGH_CLIENT), node))

    def test_calls_after_close_leave_none_open(self, cluster: TwoPrimaries, engine: Any, transport: str) -> None:
        close_engine(engine)
        for at in range(2):
            with_voucher(engine, cluster.code(at))
        for node in cluster.nodes:
            until(partial(lambda each: running_scripts(each) == (transport == THROUGH_CLIENT), node))

    def test_a_pipeline_goes_to_both_nodes(
        self, cluster: TwoPrimaries, engine: Any, execute: Callable[..., list[Any]]
    ) -> None:
        codes = [with_voucher(engine, cluster.code(at)) for at in (0, 1, 0, 1)]
        pipe = engine.pipeline()
        for code in codes:
            pipe.redeem(code, redemption_id="piped")
        before = [calls_of(node, "evalsha") + calls_of(node, "eval") for node in cluster.nodes]
        assert [each.code for each in execute(pipe)] == codes
        after = [calls_of(node, "evalsha") + calls_of(node, "eval") for node in cluster.nodes]
        assert [now - then for then, now in zip(before, after, strict=True)] == [2, 2]

    def test_a_change_is_confirmed_by_its_own_node(
        self, cluster: TwoPrimaries, open_engine: Callable[..., Any], execute: Callable[..., list[Any]]
    ) -> None:
        engine = open_engine(Durability(replicas=1, timeout_ms=1))
        for at, node in enumerate(cluster.nodes):
            before = calls_of(node, "wait")
            with pytest.raises(NotDurable, match="0 of 1 replicas"):
                engine.put_voucher(Voucher(code=cluster.code(at)))
            pipe = engine.pipeline().put_voucher(Voucher(code=cluster.code(at)))
            assert [type(each) for each in execute(pipe, raise_on_error=False)] == [NotDurable]
            assert calls_of(node, "wait") - before >= 2

    @pytest.mark.parametrize("kind", ["sync"], indirect=True)
    @pytest.mark.parametrize("transport", [OWN], indirect=True)
    def test_an_instrumentation_of_the_pools_sees_each_call(
        self, monkeypatch: pytest.MonkeyPatch, cluster: TwoPrimaries, open_engine: Callable[..., Any]
    ) -> None:
        """Its nodes are used through the client."""
        taken: list[Any] = []
        get_connection = redis.ConnectionPool.get_connection

        def counted(pool: Any, *words: Any, **options: Any) -> Any:
            taken.append(pool)
            return get_connection(pool, *words, **options)

        monkeypatch.setattr(redis.ConnectionPool, "get_connection", counted)
        engine = open_engine()
        code = with_voucher(engine, cluster.code(0))
        taken.clear()
        engine.get_redemption(code, "order")
        assert len(taken) == 1
        engine.pipeline().redeem(code).validate(code).execute()
        assert len(taken) == 2


class TestSlotsThatMove:
    def test_a_key_that_has_gone_ahead_of_its_slot_is_followed(self, cluster: TwoPrimaries, engine: Any) -> None:
        code = with_voucher(engine, cluster.code(0))
        found: list[Any] = []
        source = cluster.node_of(code)
        before = refusals_of(source, "ASK")
        cluster.move_slot_of(code, lambda: found.append(engine.get_redemption(code, "order")))
        assert found[0].code == code
        assert refusals_of(source, "ASK") > before

    def test_a_key_of_a_slot_that_has_moved_is_followed(self, cluster: TwoPrimaries, engine: Any) -> None:
        code = with_voucher(engine, cluster.code(1))
        source = cluster.node_of(code)
        cluster.move_slot_of(code)
        before = refusals_of(source, "MOVED")
        assert engine.redeem(code, redemption_id="second").code == code
        assert refusals_of(source, "MOVED") > before
        assert engine.get_voucher(code).quantity.used == 2

    def test_a_call_waits_until_the_slot_has_all_its_keys(self, cluster: TwoPrimaries, engine: Any) -> None:
        """A script whose keys do not all exist is told to try again until then."""
        code, target = with_voucher(engine, cluster.code(0)), cluster.nodes[1]
        before = refusals_of(target, "TRYAGAIN")

        opened = threading.Event()

        def until_tried() -> None:
            opened.set()
            until(lambda: refusals_of(target, "TRYAGAIN") > before)

        with ThreadPoolExecutor() as threads:
            moving = threads.submit(cluster.move_slot_of, code, until_tried)
            assert opened.wait(60)
            assert engine.redeem(code, redemption_id="second").code == code
            moving.result()
        assert not engine.redeem(code, redemption_id="third").replayed
        assert engine.get_voucher(code).quantity.used == 3

    def test_a_pipeline_follows_keys_and_slots(
        self, cluster: TwoPrimaries, engine: Any, execute: Callable[..., list[Any]]
    ) -> None:
        codes = [with_voucher(engine, cluster.code(at)) for at in range(2)]

        def read() -> list[str]:
            pipe = engine.pipeline()
            for code in codes:
                pipe.get_redemption(code, "order")
            return [each.code for each in execute(pipe)]

        seen: list[list[str]] = []
        cluster.move_slot_of(codes[0], lambda: seen.append(read()))
        assert [*seen, read()] == [codes, codes]


def test_a_node_that_is_down_is_unavailable_and_the_other_goes_on(
    retried_shortly: None, transport: str, cluster: TwoPrimaries, engine: Any, execute: Callable[..., list[Any]]
) -> None:
    here, there = (with_voucher(engine, cluster.code(at)) for at in range(2))
    with cluster.down(cluster.nodes[1]):
        pipe = engine.pipeline().validate(here).validate(there)
        read, failed = execute(pipe, raise_on_error=False)
        assert (read.valid, type(failed), failed.codes) == (True, ServerUnavailable, (there,))
        for call in (engine.ping, partial(engine.validate, there)):
            with pytest.raises(ServerUnavailable):
                call()
        # A client does not tell what it has sent.
        with pytest.raises(ServerUnavailable if transport == OWN else OutcomeUnknown):
            engine.redeem(there)
        assert engine.redeem(here).code == here
    assert engine.validate(there).reason == "not_found", "it has no disk"
    engine.ping()


def is_on_disk(node: Node) -> bool:
    """Whether it has written its first append-only file."""
    persistence: Any = node.admin.info("persistence")
    return not (persistence["aof_rewrite_in_progress"] or persistence["aof_rewrite_scheduled"])


class TestSlotWithoutANode:
    def test_a_read_is_unavailable(self, retried_shortly: None, cluster: TwoPrimaries, engine: Any) -> None:
        code = with_voucher(engine, cluster.code(0))
        with cluster.unserved(code):
            for _ in range(2):  # the second time, the client knows
                with pytest.raises(ServerUnavailable):
                    engine.validate(code)
        assert engine.ping() is None

    def test_all_changes_of_a_pipeline_fail(
        self, retried_shortly: None, cluster: TwoPrimaries, engine: Any, execute: Callable[..., list[Any]]
    ) -> None:
        """The second is sent after the first, when the client knows that nobody serves the slot."""
        code = with_voucher(engine, cluster.code(0))
        with cluster.unserved(code):
            pipe = engine.pipeline().put_voucher(Voucher(code=code)).put_voucher(Voucher(code=code))
            outcomes = execute(pipe, raise_on_error=False)
        assert len(outcomes) == 2
        assert {type(each) for each in outcomes} <= {OutcomeUnknown, ServerUnavailable}

    @pytest.fixture
    def written_to_disk(self, cluster: TwoPrimaries) -> Iterator[None]:
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "appendonly", "yes")
            until(partial(is_on_disk, node))
        yield
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "appendonly", "no")

    @pytest.mark.usefixtures("retried_shortly", "written_to_disk")
    def test_the_other_changes_of_a_pipeline_are_confirmed(
        self, cluster: TwoPrimaries, open_engine: Callable[..., Any], execute: Callable[..., list[Any]]
    ) -> None:
        engine = open_engine(Durability(fsync=True, timeout_ms=4000))
        missing, *others = (with_voucher(engine, cluster.code(0)) for _ in range(4))
        with cluster.unserved(missing):
            pipe = engine.pipeline()
            for code in (missing, *others):
                pipe.redeem(code, redemption_id="next")
            failed, *done = execute(pipe, raise_on_error=False)
        assert [each.id for each in done] == ["next"] * 3
        assert isinstance(failed, (OutcomeUnknown, ServerUnavailable))

    @pytest.mark.usefixtures("retried_shortly", "written_to_disk")
    @pytest.mark.parametrize(("kind", "transport"), [("async", OWN)])
    def test_the_other_changes_of_a_group_are_confirmed(
        self, cluster: TwoPrimaries, open_engine: Callable[..., Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        blocking = open_engine(Durability(fsync=True, timeout_ms=4000))
        missing, *others = (with_voucher(blocking, cluster.code(0)) for _ in range(4))

        async def all_at_once() -> list[Any]:
            calls = (blocking._engine.redeem(code, redemption_id="next") for code in (missing, *others))
            return await asyncio.gather(*calls, return_exceptions=True)

        with cluster.unserved(missing):
            failed, *done = loop.run_until_complete(all_at_once())
        assert [getattr(each, "id", each) for each in done] == ["next"] * 3
        assert isinstance(failed, (OutcomeUnknown, ServerUnavailable))


class TestOutOfStep:
    @pytest.fixture
    def proxy(self, cluster: TwoPrimaries) -> Iterator[Proxy]:
        with Proxy((HOST, cluster.nodes[1].port)) as proxy:
            yield proxy

    @pytest.mark.parametrize("fault", ["double", "drop"])
    def test_each_call_has_its_own_reply(
        self, cluster: TwoPrimaries, proxy: Proxy, open_engine: Callable[..., Any], fault: Fault
    ) -> None:
        remapped = {(HOST, cluster.nodes[1].port): (HOST, proxy.port)}
        engine = open_engine(address_remap=lambda address: remapped.get(address, address), socket_timeout=0.3)
        codes = [with_voucher(engine, cluster.code(1)) for _ in range(3)]
        proxy.follow([fault])
        assert [engine.get_redemption(code, "order").code for code in codes] == codes
        for code, last in pairwise(codes):
            proxy.follow([fault])
            assert [engine.redeem(each, redemption_id=f"of {code}").code for each in (code, last)] == [code, last]


def test_a_value_that_cannot_be_read_is_no_reason_to_try_again(cluster: TwoPrimaries, engine: Any) -> None:
    code = cluster.code(0)
    cluster.node_of(code).admin.lpush(f"vs:{{{code}}}", "x")
    cluster.node_of(code).admin.script_flush()
    for _ in range(2):  # the second time, the node has the script
        with pytest.raises(CorruptState):
            engine.validate(code)


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_an_interrupted_call_leaves_no_connection_behind(
    cluster: TwoPrimaries, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = with_voucher(engine, cluster.code(0))
    with monkeypatch.context() as patched:
        patched.setattr(redis.connection.Connection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.validate(code)
    until(lambda: running_scripts(cluster.nodes[0]) == 0)  # the server notices a moment later
    assert engine.get_redemption(code, "order").code == code


@pytest.mark.parametrize("client", [redis.RedisCluster, redis.asyncio.RedisCluster])
def test_a_call_waits_for_a_slot_that_moves_to_a_server_without_slots(client: Any, engines: OpenEngines) -> None:
    """redis-py does not know such a server, and cannot follow the redirection to it."""
    with running_two_primaries() as cluster, ThreadPoolExecutor() as threads:
        new = cluster.add_without_slots()
        engine = engines.over(client(host=HOST, port=cluster.nodes[0].port), close=closed)
        code = cluster.code(0)
        puts: list[Future[Any]] = []

        def put() -> None:
            puts.append(threads.submit(engine.put_voucher, Voucher(code=code, credits=5)))
            with pytest.raises(TimeoutError):
                puts[0].result(0.5)

        cluster.move_slot_to(new, code, between=put)
        assert puts[0].result(20).credits.limit == 5
        assert engine.get_voucher(code).credits.limit == 5
        assert cluster.node_of(code) is new


def interrupted(*_: object, **__: object) -> None:
    """As the handler of a signal would."""
    raise KeyboardInterrupt


class TestExhaustedClient:
    """An application's cluster client whose connections are all in use."""

    @pytest.fixture
    def transport(self) -> str:
        return THROUGH_CLIENT

    def test_a_change_may_have_been_sent_before(
        self,
        retried_shortly: None,
        kind: str,
        cluster: TwoPrimaries,
        open_engine: Callable[..., Any],
        execute: Callable[..., list[Any]],
    ) -> None:
        """The client may have followed a redirection to the node."""
        engine = open_engine(max_connections=1)
        code = with_voucher(engine, cluster.code(1))
        give_back = exhausted(engine, kind, code)
        with pytest.raises(OutcomeUnknown):
            engine.redeem(code)
        with pytest.raises(ServerUnavailable):
            engine.validate(code)
        pipe = engine.pipeline().validate(code)
        assert [type(each) for each in execute(pipe, raise_on_error=False)] == [ServerUnavailable]
        give_back()
        assert engine.redeem(code, redemption_id="second").code == code


def exhausted(engine: Any, kind: str, code: str) -> Callable[[], object]:
    """Take the only connection to the node of a code; returns what gives it back."""
    client = engine.client
    node = client.get_node_from_key(f"vs:{{{code}}}")
    if kind == "sync":
        pool = client.get_redis_connection(node).connection_pool
        connection = pool.get_connection()
        return lambda: pool.release(connection)
    connection = node.acquire_connection()
    return lambda: node._free.append(connection)

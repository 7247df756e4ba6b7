"""What own connections do when ECHO proves nothing, when a slot table cannot be read, and when a call is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import NoPermissionError, RedisClusterException, SlotNotCoveredError
from support.servers import Server

from transport.test_keys_in_use import changing
from transport.two_primaries import TwoPrimaries, running_two_primaries
from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    NotDurable,
    OutcomeUnknown,
    ServerUnavailable,
    Voucher,
    VoucherSessions,
)
from voucher_sessions._core import client_errors
from voucher_sessions._core.client_errors import ConnectionClosed
from voucher_sessions._transport import clients, sync_connections
from voucher_sessions._transport.keys_in_use import MAX_CHANGES, AsyncKeysInUse
from voucher_sessions._transport.shared_connection import SharedConnection


@pytest.fixture
def engine(server: Server, engine_at: Callable[..., Any]) -> Any:
    """An engine whose scripts the server does not have."""
    engine = engine_at(f"unix://{server.socket}")
    engine.put_voucher(Voucher(code="A", quantity=9))
    with server.client() as admin:
        admin.script_flush()
    return engine


def never(*_: object) -> bool:
    return False


def test_after_an_unknown_script_a_connection_that_is_not_in_step_is_closed(
    engine: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_errors, "proves_in_step", never)
    with server.client() as admin:
        before = admin.info("stats")["total_connections_received"]
        assert engine.get_voucher("A").quantity.limit == 9
        assert engine.get_voucher("A").quantity.limit == 9
        assert admin.info("stats")["total_connections_received"] == before + 1


def test_an_error_that_nothing_proves_is_a_lost_reply(
    engine: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as admin:
        admin.set("vs:{B}", "not of this library")
    monkeypatch.setattr(client_errors, "proves_in_step", never)
    with pytest.raises(OutcomeUnknown):
        engine.delete_voucher("B")


def test_the_reply_counts_if_the_connection_is_lost_before_it_is_proven(
    server: Server, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = SharedConnection.exchange

    async def without_echo(self: SharedConnection, calls: Any, commands: Any, connection: object = None) -> Any:
        if commands[0][0] == "ECHO":
            raise ConnectionClosed("lost")
        return await exchange(self, calls, commands, connection)

    async def main() -> None:
        async with (
            redis.asyncio.Redis(unix_socket_path=server.socket) as client,
            AsyncVoucherSessions(client) as engine,
        ):
            await engine.put_voucher(Voucher(code="A", quantity=9))
            await client.script_flush()
            monkeypatch.setattr(SharedConnection, "exchange", without_echo)
            assert (await engine.get_voucher("A")).quantity.limit == 9

    loop.run_until_complete(main())


def test_an_interrupted_call_closes_its_connection_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as client, VoucherSessions(client) as engine:
        engine.put_voucher(Voucher(code="A", quantity=9))
        client.ping()

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(sync_connections, "exchange", interrupted)
            with pytest.raises(KeyboardInterrupt):
                engine.get_voucher("A")
        assert len(client.connection_pool._available_connections) == 1, "the client's connection is as it was"
        assert engine.get_voucher("A").quantity.limit == 9


def test_a_change_that_is_cancelled_before_its_group_is_sent_is_not_sent(server: Server) -> None:
    async def main() -> None:
        async with (
            redis.asyncio.Redis(unix_socket_path=server.socket) as client,
            AsyncVoucherSessions(client, durability=Durability(replicas=1, timeout_ms=500)) as engine,
        ):
            first = asyncio.ensure_future(engine.put_voucher(Voucher(code="SENT")))
            while not await client.exists("vs:{SENT}"):
                await asyncio.sleep(0)
            second = asyncio.ensure_future(engine.put_voucher(Voucher(code="NOT-SENT")))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            with pytest.raises(NotDurable):
                await first
        with server.client() as admin:
            assert not admin.exists("vs:{NOT-SENT}")

    asyncio.run(main())


def test_the_turn_of_a_task_whose_loop_is_closed_goes_to_the_next() -> None:
    """And calls that have taken nothing give nothing back."""

    async def waiting(keys: AsyncKeysInUse) -> None:
        await keys.take([changing(b"k")])

    async def main() -> None:
        keys, of_k = AsyncKeysInUse(), [changing(b"k") for _ in range(MAX_CHANGES)]
        for each in of_k:
            assert keys.take_at_once([each])
        other = asyncio.new_event_loop()
        keys._users.enter_or_wait([changing(b"k")], other.create_future)
        other.close()
        last = asyncio.ensure_future(waiting(keys))
        await asyncio.sleep(0)
        keys.give_back([changing(b"k"), of_k[0]])
        await asyncio.wait_for(last, 30)

    asyncio.run(main())


# --- Clusters ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoPrimaries]:
    with running_two_primaries() as cluster:
        yield cluster


@pytest.fixture(params=["sync", "async"])
def clustered(
    request: pytest.FixtureRequest,
    cluster: TwoPrimaries,
    loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Any, Any, Callable[[Any], Any]]]:
    """The client of a cluster, an engine over it, and what waits for a call of it."""
    monkeypatch.setattr(clients, "retry_period_seconds", lambda client: 0)
    port = cluster.nodes[0].port
    if request.param == "sync":
        with redis.RedisCluster(host="127.0.0.1", port=port) as client, VoucherSessions(client) as engine:
            engine.put_voucher(Voucher(code="A", quantity=9))
            yield client, engine, lambda result: result
        return
    waiting = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
    async_engine = AsyncVoucherSessions(waiting)
    loop.run_until_complete(async_engine.put_voucher(Voucher(code="A", quantity=9)))
    yield waiting, async_engine, loop.run_until_complete
    loop.run_until_complete(async_engine.aclose())
    loop.run_until_complete(waiting.aclose())


def raising(error: Exception, *, asynchronous: bool) -> Any:
    def fails(*_: object, **__: object) -> None:
        raise error

    async def fails_async(*_: object, **__: object) -> None:
        raise error

    return fails_async if asynchronous else fails


def test_a_call_of_a_pipeline_whose_slot_has_no_node_is_unavailable(
    clustered: tuple[Any, Any, Callable[[Any], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, engine, result_of = clustered
    monkeypatch.setattr(client, "get_node_from_key", raising(SlotNotCoveredError("no node"), asynchronous=False))
    (outcome,) = result_of(engine.pipeline().get_voucher("A").execute(raise_on_error=False))
    assert isinstance(outcome, ServerUnavailable)


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_slot_table_that_cannot_be_read_does_not_hide_why_it_is_needed(
    clustered: tuple[Any, Any, Callable[[Any], Any]], monkeypatch: pytest.MonkeyPatch, forbidden: bool
) -> None:
    client, engine, result_of = clustered
    error = RedisClusterException("no slot table")
    if forbidden:
        error.__cause__ = NoPermissionError("CLUSTER SLOTS")
    asynchronous = isinstance(engine, AsyncVoucherSessions)
    monkeypatch.setattr(type(client.nodes_manager), "initialize", raising(error, asynchronous=asynchronous))
    refresh: Any = clients.refresh_slots_async if asynchronous else clients.refresh_slots
    if forbidden:
        with pytest.raises(RedisClusterException):
            result_of(refresh(client))
    else:
        result_of(refresh(client))

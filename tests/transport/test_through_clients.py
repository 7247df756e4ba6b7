"""Engines that send their calls through a client of the application's class: what of its errors they tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import BlockingAsync
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.scripted_clients import AsyncThroughClient, ThroughClient, client_class
from support.servers import Server

from voucher_sessions import AsyncVoucherSessions, ServerRefused, ServerUnavailable, Voucher, VoucherSessions

NONSENSE = "nonsense"


class Mistaken(ThroughClient):
    """It has a mistake in its code."""

    def pipeline(self, *_: Any, **__: Any) -> Any:
        return getattr(self, NONSENSE)

    def execute_command(self, *_: Any, **__: Any) -> Any:
        raise KeyError("nonsense")


class AsyncMistaken(AsyncThroughClient):
    """The same for asyncio."""

    def pipeline(self, *_: Any, **__: Any) -> Any:
        return getattr(self, NONSENSE)

    async def execute_command(self, *_: Any, **__: Any) -> Any:
        raise KeyError("nonsense")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_mistake_in_the_applications_client_is_raised_as_it_is(
    kind: str, loop: asyncio.AbstractEventLoop, execute: Callable[..., list[Any]]
) -> None:
    engine: Any = VoucherSessions(Mistaken())
    if kind == "async":
        engine = BlockingAsync(AsyncVoucherSessions(AsyncMistaken()), loop)
    with pytest.raises(KeyError, match="nonsense"):
        engine.get_voucher("A")
    with pytest.raises(AttributeError, match="nonsense"):
        execute(engine.pipeline().get_voucher("A"))


def test_a_client_whose_connections_are_all_in_use_has_sent_nothing(server: Server) -> None:
    client = ThroughClient(unix_socket_path=server.socket, max_connections=1, retry=Retry(NoBackoff(), 0))
    engine, pool = VoucherSessions(client), client.connection_pool
    connection = pool.get_connection()
    with pytest.raises(ServerUnavailable):
        engine.put_voucher(Voucher(code="A"))
    pipe = engine.pipeline().put_voucher(Voucher(code="A"))
    assert [type(each) for each in pipe.execute(raise_on_error=False)] == [ServerUnavailable]
    pool.release(connection)
    assert engine.validate("A").reason == "not_found"
    client.close()


def test_the_same_for_asyncio(server: Server) -> None:
    async def main() -> None:
        retry = AsyncRetry(NoBackoff(), 0)
        async with AsyncThroughClient(unix_socket_path=server.socket, max_connections=1, retry=retry) as client:
            engine, pool = AsyncVoucherSessions(client), client.connection_pool
            connection = await pool.get_connection()
            with pytest.raises(ServerUnavailable):
                await engine.put_voucher(Voucher(code="A"))
            pipe = engine.pipeline().put_voucher(Voucher(code="A"))
            assert [type(each) for each in await pipe.execute(raise_on_error=False)] == [ServerUnavailable]
            await pool.release(connection)
            assert (await engine.validate("A")).reason == "not_found"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_call_that_is_refused_is_not_unknown(
    server: Server, kind: str, loop: asyncio.AbstractEventLoop, execute: Callable[..., list[Any]]
) -> None:
    rights = ["+@all", "-eval", "-evalsha"]
    with server.client() as admin:
        admin.acl_setuser("weak", enabled=True, nopass=True, keys="*", channels="*", commands=rights)
    options: Any = {"unix_socket_path": server.socket, "username": "weak", "password": "any"}
    client: Any = client_class(kind, "client")(**options)
    engine: Any = VoucherSessions(client) if kind == "sync" else BlockingAsync(AsyncVoucherSessions(client), loop)
    with pytest.raises(ServerRefused, match="permission"):
        engine.put_voucher(Voucher(code="A"))
    outcomes = execute(engine.pipeline().put_voucher(Voucher(code="A")), raise_on_error=False)
    assert [type(each) for each in outcomes] == [ServerRefused]
    client.close() if kind == "sync" else loop.run_until_complete(client.aclose())
    with server.client() as admin:
        admin.acl_deluser("weak")

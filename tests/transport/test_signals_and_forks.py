"""Signals during calls, and forks: no call reads a reply, or uses a connection, that belongs to another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from queue import LifoQueue
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis.exceptions

from voucher_sessions import AsyncVoucherSessions, InvalidRequest, OutcomeUnknown, VoucherSessions
from voucher_sessions._transport import clients


class Connection:
    """Knows whether it was closed."""

    closed = False

    def disconnect(self, inuse_connections: bool | None = None) -> None:
        assert inuse_connections in (None, False)
        self.closed = True


class Interrupted:
    """A client in which a signal comes."""

    connection: Connection | None = None

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.connection_pool = Connection()

    def execute_command(self, *words: Any, **options: Any) -> Any:
        raise self.error

    def pipeline(self, *, transaction: bool) -> Any:
        raise self.error


class OneConnection(Interrupted):
    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.connection = Connection()


def one_by_one(engine: VoucherSessions) -> object:
    return engine.redeem("A")


def in_a_batch(engine: VoucherSessions) -> object:
    return engine.pipeline().redeem("A").execute()


@pytest.mark.parametrize("call", [one_by_one, in_a_batch])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ValueError("raised by a signal's handler")])
def test_the_connection_of_an_interrupted_call_is_closed(
    call: Callable[[VoucherSessions], object], error: BaseException
) -> None:
    client: Any = Interrupted(error)
    with pytest.raises(type(error)):
        call(VoucherSessions(client))
    assert client.connection_pool.closed


@pytest.mark.parametrize("call", [one_by_one, in_a_batch])
def test_the_connection_of_a_failed_call_stays_open(call: Callable[[VoucherSessions], object]) -> None:
    client: Any = Interrupted(redis.exceptions.ConnectionError("gone"))
    with pytest.raises(OutcomeUnknown):
        call(VoucherSessions(client))
    assert not client.connection_pool.closed


def test_disconnect_closes_what_each_kind_of_client_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    single: Any = OneConnection(KeyboardInterrupt())
    clients.disconnect(single)
    assert single.connection.closed
    clients.disconnect(object())  # a stand-in has none
    with fakeredis.FakeRedis() as pooled:
        pooled.ping()
        clients.disconnect(pooled)
        assert pooled.ping()

    class Node:
        def __init__(self, client: Any) -> None:
            self.redis_connection = client

    class Cluster:
        def get_nodes(self) -> list[Node]:
            return [Node(None), Node(node)]

    node: Any = Interrupted(KeyboardInterrupt())
    monkeypatch.setattr(clients, "is_cluster", lambda client: isinstance(client, Cluster))
    clients.disconnect(Cluster())
    assert node.connection_pool.closed


def test_connections_of_the_parent_are_not_used_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    single: Any = OneConnection(KeyboardInterrupt())
    engine = VoucherSessions(single)
    with fakeredis.FakeRedis() as pooled:
        pooled_engine = VoucherSessions(pooled)
        used, unused = (AsyncVoucherSessions(fakeredis.FakeAsyncRedis()) for _ in range(2))
        assert asyncio.run(used.validate("A")).reason == "not_found"
        child = os.getpid() + 1
        monkeypatch.setattr(os, "getpid", lambda: child)
        with pytest.raises(InvalidRequest, match="client: was opened before a fork"):
            engine.get_voucher("A")
        with pytest.raises(InvalidRequest, match="client: was opened before a fork"):
            engine.pipeline().get_voucher("A").execute()
        with pytest.raises(InvalidRequest, match="client: was used before a fork"):
            asyncio.run(used.validate("A"))
        assert asyncio.run(unused.validate("A")).reason == "not_found"
        assert pooled_engine.validate("A").reason == "not_found", "redis-py's pools know of forks"
        for each in (used, unused):
            asyncio.run(each.client.aclose())


class OldPool:
    """The BlockingConnectionPool of redis-py before 7: it can only close all connections, also those in use."""

    def __init__(self) -> None:
        self.pool: LifoQueue[Any] = LifoQueue()
        self.closed: list[str] = []
        for name in ("first", None, "second"):
            self.pool.put_nowait(None if name is None else self.connection(name))

    def connection(self, name: str) -> Any:
        return SimpleNamespace(name=name, disconnect=lambda: self.closed.append(name))

    def disconnect(self) -> None:
        raise AssertionError("it closes connections in use")


def test_idle_connections_of_an_old_blocking_pool_are_closed_and_stay_in_their_order() -> None:
    pool = OldPool()
    clients.disconnect(SimpleNamespace(connection_pool=pool))
    assert sorted(pool.closed) == ["first", "second"]
    left = [pool.pool.get_nowait() for _ in range(3)]
    assert [each and each.name for each in left] == ["second", None, "first"]
    assert pool.pool.empty()


def test_a_failed_clean_up_does_not_replace_a_signal_handlers_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise TypeError

    monkeypatch.setattr(clients, "disconnect", fails)
    single: Any = OneConnection(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        VoucherSessions(single).get_voucher("A")

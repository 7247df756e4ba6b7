"""Connections of a sync client pack numbers as text, since hiredis can crash while it packs a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.connection import HiredisRespSerializer
from support.servers import Server, running

from voucher_sessions import VoucherSessions
from voucher_sessions._transport.numbers_as_text import send_numbers_as_text


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey") as server:
        yield server


def packer_of(client: redis.Redis) -> Any:
    """The packer of a connection that the client opens anew."""
    client.connection_pool.disconnect()
    connection = client.connection_pool.get_connection()
    try:
        return connection._command_packer
    finally:
        client.connection_pool.release(connection)


@pytest.mark.parametrize("pool_class", [redis.ConnectionPool, redis.BlockingConnectionPool])
@pytest.mark.parametrize("protocol", [2, 3])
def test_open_connections_and_later_ones(server: Server, pool_class: type[Any], protocol: int) -> None:
    pool = pool_class(
        connection_class=redis.UnixDomainSocketConnection, path=server.socket, protocol=protocol, max_connections=3
    )
    client = redis.Redis(connection_pool=pool)
    client.ping()
    VoucherSessions(client)
    for packer in (
        next(each for each in pool._available_connections if each)._command_packer
        if hasattr(pool, "_available_connections")
        else packer_of(client),
        packer_of(client),
    ):
        assert type(packer) is not HiredisRespSerializer
        assert b"".join(packer.pack("SET", "k", 5, 2.5, b"x")) == (
            b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n5\r\n$3\r\n2.5\r\n$1\r\nx\r\n"
        )
    client.set("number", 5)
    nothing: Any = None
    assert client.incr("number") == 6
    with pytest.raises(redis.DataError):
        client.set("number", nothing)  # redis-py's own error stays
    client.close()


def test_a_client_with_one_connection(server: Server) -> None:
    with server.client(single_connection_client=True) as client:
        VoucherSessions(client)
        assert type(client.connection._command_packer) is not HiredisRespSerializer
        assert VoucherSessions(client).validate("A").reason == "not_found"


class Packer(HiredisRespSerializer):
    """A packer of the application's own."""


def test_a_packer_of_the_application_stays(server: Server) -> None:
    packer = Packer()
    pool = redis.ConnectionPool(
        connection_class=redis.UnixDomainSocketConnection, path=server.socket, command_packer=packer
    )
    with redis.Redis(connection_pool=pool) as client:
        VoucherSessions(client)
        assert packer_of(client) is packer
        assert VoucherSessions(client).validate("A").reason == "not_found"


class WithItsOwnPacker(redis.UnixDomainSocketConnection):
    """A connection class that decides about the packer itself."""

    def __init__(self, **options: Any) -> None:
        redis.UnixDomainSocketConnection.__init__(self, command_packer=Packer(), **options)


def test_a_packer_of_the_connection_class_stays(server: Server) -> None:
    pool = redis.ConnectionPool(connection_class=WithItsOwnPacker, path=server.socket)
    with redis.Redis(connection_pool=pool) as client:
        assert VoucherSessions(client).validate("A").reason == "not_found"
        assert client.ping()
        assert type(packer_of(client)) is Packer


def test_the_options_of_the_pool_stay_as_they_are(server: Server) -> None:
    """Others make clients from them."""
    with server.client() as client:
        before = dict(client.connection_pool.connection_kwargs)
        VoucherSessions(client)
        make_connection = client.connection_pool.make_connection
        VoucherSessions(client)
        assert client.connection_pool.make_connection is make_connection, "a second engine wraps nothing again"
        assert client.connection_pool.connection_kwargs == before


def test_what_has_no_pool_of_redis_py_stays_as_it_is() -> None:
    send_numbers_as_text(object())

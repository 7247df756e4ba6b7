"""When an engine opens connections of its own, and that the server sees them set up as those of the client."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fakeredis
import pytest
import redis
import redis.asyncio
import wrapt
from faults.proxy import Proxy
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.connection import ConnectionPool
from redis.credentials import CredentialProvider
from redis.sentinel import Sentinel
from support import tls
from support.scripted_clients import AsyncThroughClient, ThroughClient
from support.servers import Server, free_port, running
from support.waiting import until

from voucher_sessions import ServerUnavailable, Voucher, VoucherSessions
from voucher_sessions._transport.own_connections import are_allowed

URL = "redis://127.0.0.1:1"
ENGINE = "the-engine"  # the name of its connections


class OwnPipeline(redis.Redis):
    def pipeline(self, *words: Any, **options: Any) -> Any:
        return super().pipeline(*words, **options)


class OwnPool(ConnectionPool):
    def get_connection(self, *words: Any, **options: Any) -> Any:
        return super().get_connection(*words, **options)


class PoolOfOwnConnections(ConnectionPool):
    def make_connection(self) -> Any:
        return super().make_connection()


class OwnSending(redis.Connection):
    def send_packed_command(self, *words: Any, **options: Any) -> Any:
        return redis.Connection.send_packed_command(self, *words, **options)


class OwnCommand(redis.Connection):
    """``Redis`` sends by ``send_command``, the engine does not."""

    def send_command(self, *words: Any, **options: Any) -> Any:
        return redis.Connection.send_command(self, *words, **options)


class OwnReading(redis.Connection):
    def read_response(self, *words: Any, **options: Any) -> Any:
        return super().read_response(*words, **options)


class OwnAsyncReading(redis.asyncio.Connection):
    async def read_response(self, *words: Any, **options: Any) -> Any:
        return await super().read_response(*words, **options)


class OwnOpening(redis.Connection):
    """What it adds happens on the engine's connections, too, and it counts as redis-py's."""

    def on_connect(self) -> None:
        redis.Connection.on_connect(self)


class OtherMethods(redis.Redis):
    """A subclass that leaves alone what sends commands."""

    def hello(self) -> str:
        return "hello"


def with_replaced(client: Any, name: str) -> Any:
    """The client with an attribute of its own in the place of a method, as instrumentation of one client does it."""
    setattr(client, name, functools.partial(getattr(client, name)))
    return client


ALLOWED: dict[str, Callable[[], Any]] = {
    "Redis": redis.Redis,
    "from_url": lambda: redis.Redis.from_url(URL),
    "asyncio": redis.asyncio.Redis,
    "asyncio from_url": lambda: redis.asyncio.Redis.from_url(URL),
    "TLS": lambda: redis.Redis(ssl=True),
    "Unix socket": lambda: redis.Redis(unix_socket_path="/no/where"),
    "blocking pool": lambda: redis.Redis(connection_pool=redis.BlockingConnectionPool()),
    "asyncio blocking pool": lambda: redis.asyncio.Redis(connection_pool=redis.asyncio.BlockingConnectionPool()),
    "Sentinel": lambda: Sentinel([("127.0.0.1", 1)]).master_for("service"),
    "asyncio Sentinel": lambda: AsyncSentinel([("127.0.0.1", 1)]).master_for("service"),
    "asyncio cluster": lambda: redis.asyncio.RedisCluster(host="127.0.0.1", port=1),
    "subclass with other methods": OtherMethods,
    "connection class with an opening of its own": lambda: redis.Redis(
        connection_pool=ConnectionPool(connection_class=OwnOpening)
    ),
}
NOT_ALLOWED: dict[str, Callable[[], Any]] = {
    "fakeredis": fakeredis.FakeRedis,
    "asyncio fakeredis": fakeredis.FakeAsyncRedis,
    "subclass with an execute_command": ThroughClient,
    "asyncio subclass with an execute_command": AsyncThroughClient,
    "subclass with a pipeline": OwnPipeline,
    "execute_command of the instance": lambda: with_replaced(redis.Redis(), "execute_command"),
    "pipeline of the instance": lambda: with_replaced(redis.Redis(), "pipeline"),
    "asyncio execute_command of the instance": lambda: with_replaced(redis.asyncio.Redis(), "execute_command"),
    "pool class": lambda: redis.Redis(connection_pool=OwnPool()),
    "pool class that makes connections": lambda: redis.Redis(connection_pool=PoolOfOwnConnections()),
    "connections that send": lambda: redis.Redis(connection_pool=ConnectionPool(connection_class=OwnSending)),
    "connections that send commands": lambda: redis.Redis(connection_pool=ConnectionPool(connection_class=OwnCommand)),
    "connections that read": lambda: redis.Redis(connection_pool=ConnectionPool(connection_class=OwnReading)),
    "asyncio connections that read": lambda: redis.asyncio.Redis(
        connection_pool=redis.asyncio.ConnectionPool(connection_class=OwnAsyncReading)
    ),
    "a function that makes connections": lambda: redis.Redis(
        connection_pool=ConnectionPool(connection_class=functools.partial(redis.Connection))
    ),
    "a pool that is none": lambda: redis.Redis(connection_pool=Mock()),
    "a mock": Mock,
}


@pytest.mark.parametrize("client", ALLOWED)
def test_own_connections_are_allowed(client: str) -> None:
    assert are_allowed(ALLOWED[client]())


@pytest.mark.parametrize("client", NOT_ALLOWED)
def test_own_connections_are_not_allowed(client: str) -> None:
    assert not are_allowed(NOT_ALLOWED[client]())


def test_a_sync_client_of_a_cluster_may_have_own_connections() -> None:
    cluster = redis.RedisCluster.__new__(redis.RedisCluster)  # a real one connects as it is built
    assert are_allowed(cluster)
    assert not are_allowed(with_replaced(cluster, "execute_command"))


def test_the_client_of_one_connection_keeps_it(server_of: Callable[[str], Server]) -> None:
    with server_of("valkey").client(single_connection_client=True) as client:
        assert not are_allowed(client)


def test_a_package_whose_name_begins_with_redis_is_not_redis_py(tmp_path: Path) -> None:
    """Its folder stands beside redis-py's, and its path begins with the same letters."""
    beside = Path(redis.__file__).parent.parent / "redis_tracing/__init__.py"
    namespace: dict[str, Any] = {}
    exec(compile("def execute_command(self, *words, **options): ...", beside, "exec"), namespace)
    assert not are_allowed(type("Traced", (redis.Redis,), namespace)())


def wrapped_by_functools(execute: Any, seen: list[str]) -> Any:
    """As Sentry does it."""

    @functools.wraps(execute)
    def execute_command(self: Any, *words: Any, **options: Any) -> Any:
        seen.append(str(words[0]))
        return execute(self, *words, **options)

    return execute_command


def wrapped_by_wrapt(execute: Any, seen: list[str]) -> Any:
    """As OpenTelemetry and Datadog do it. The wrapper says that it is the function which it wraps."""

    def traced(wrapped: Any, instance: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        seen.append(str(words[0]))
        return wrapped(*words, **options)

    return wrapt.FunctionWrapper(execute, traced)


@pytest.mark.parametrize("wrapped", [wrapped_by_functools, wrapped_by_wrapt])
def test_instrumentation_of_the_class_sees_each_command(
    wrapped: Any, server_of: Callable[[str], Server], engine_on: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for library in (redis, redis.asyncio):
        monkeypatch.setattr(library.Redis, "execute_command", wrapped(vars(library.Redis)["execute_command"], seen))
    engine = engine_on(server_of("valkey"), prefix="own")
    assert engine.validate("A").reason == "not_found"
    assert "EVALSHA" in seen
    engine.ping()
    assert seen[-1] == "PING"


class Credentials(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "shop", "of-shop"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that lets in a user by password."""
    with running("valkey") as server, server.client() as admin:
        admin.acl_setuser("shop", enabled=True, passwords=["+of-shop"], keys="*", channels="*", commands=["+@all"])
        yield server


def connection_of_the_engine(server: Server) -> dict[str, str]:
    """The only connection of its name, as the server sees it."""
    with server.client() as admin:
        (found,) = (each for each in admin.client_list() if each["name"] == ENGINE)
    return dict(found)


def used(engine: Any) -> Any:
    """The engine, after it has sent a call by itself and one in a pipeline."""
    engine.put_voucher(Voucher(code="A", credits=5))
    assert engine.validate("A", credits=5).valid
    return engine


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode_responses", [False, True])
def test_they_have_the_protocol_the_database_and_the_name_of_the_client(
    guarded: Server, engine_on: Callable[..., Any], protocol: int, decode_responses: bool
) -> None:
    options = {"protocol": protocol, "decode_responses": decode_responses, "db": 3, "client_name": ENGINE}
    engine = used(engine_on(guarded, options))
    seen = connection_of_the_engine(guarded)
    assert (seen["db"], seen["resp"], seen["user"]) == ("3", str(protocol), "default")
    with guarded.client(db=3) as client:
        assert client.keys("vs:*")
    assert engine.get_voucher("A").credits.limit == 5


@pytest.mark.parametrize(
    "login",
    [{"username": "shop", "password": "of-shop"}, {"credential_provider": Credentials()}],
    ids=["password", "credential provider"],
)
def test_they_log_in_as_the_client_does(guarded: Server, engine_on: Callable[..., Any], login: dict[str, Any]) -> None:
    used(engine_on(guarded, {**login, "client_name": ENGINE}))
    assert connection_of_the_engine(guarded)["user"] == "shop"


def test_a_refused_login_is_the_error_of_redis_py(guarded: Server, engine_on: Callable[..., Any]) -> None:
    engine = engine_on(guarded, {"username": "shop", "password": "wrong"})
    for call in (engine.ping, lambda: engine.redeem("A")):
        with pytest.raises(redis.ConnectionError) as caught:
            call()
        assert not isinstance(caught.value, ServerUnavailable)
        refused = caught.value.__cause__ or caught.value  # redis.asyncio raises every error of an opening as this
        assert isinstance(refused, redis.AuthenticationError)


def test_the_client_itself_has_no_connection_for_them(guarded: Server) -> None:
    with guarded.client(client_name=ENGINE) as client:
        with closing(VoucherSessions(client)) as engine:
            used(engine)
            assert connection_of_the_engine(guarded)
        with guarded.client() as admin:
            until(lambda: all(each["name"] != ENGINE for each in admin.client_list()))


def test_they_wait_for_a_reply_as_long_as_the_client_does(guarded: Server, engine_at: Callable[..., Any]) -> None:
    with Proxy(guarded.socket) as proxy:
        engine = used(engine_at(proxy.url, socket_timeout=0.2))
        proxy.follow(["swallow"])
        with pytest.raises(ServerUnavailable) as caught:
            engine.validate("A")
        assert isinstance(caught.value.__cause__, redis.TimeoutError)


@pytest.mark.parametrize("name", tls.SERVERS)
def test_they_are_encrypted_as_those_of_the_client(name: str, tmp_path: Path) -> None:
    port = free_port()
    with tls.tls_server(name, tmp_path, port) as files:
        certificates: dict[str, Any] = {
            "ssl_ca_certs": str(files.authority),
            "ssl_certfile": str(files.client_certificate),
            "ssl_keyfile": str(files.client_key),
        }
        with VoucherSessions.from_url(f"rediss://127.0.0.1:{port}", client_name=ENGINE, **certificates) as engine:
            assert are_allowed(engine.client)
            used(engine)
            names = [each["name"] for each in engine.client.client_list()]
            assert names.count(ENGINE) == 2, "one of the engine, one of the client, which asked"

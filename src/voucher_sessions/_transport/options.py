"""The options that the clients of redis-py accept. redis-py itself finds a misspelt one at the first connection."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

import redis.asyncio.sentinel
import redis.sentinel

from voucher_sessions.errors import InvalidRequest

# The classes that get the options of a URL, by its scheme; in redis and in redis.asyncio they have the same names.
_CLASSES: Final = {
    "redis": ("ConnectionPool", "Connection"),
    "rediss": ("ConnectionPool", "SSLConnection"),
    "unix": ("ConnectionPool", "UnixDomainSocketConnection"),
    "embedded": ("ConnectionPool", "UnixDomainSocketConnection"),
    "redis+cluster": ("RedisCluster", "Redis", "SSLConnection"),
    "redis+sentinel": ("Sentinel", "ConnectionPool", "SentinelManagedConnection"),
    "memory": ("Redis", "ConnectionPool", "Connection"),
}
_ASYNC_CLASSES: Final = {**_CLASSES, "redis+cluster": ("RedisCluster",)}
# The class that the connections have if the option ssl is given.
_SSL_CLASSES: Final = {"redis+sentinel": ("SentinelManagedSSLConnection",)}
# Options that no signature names: redis-py and fakeredis take them out of their keyword arguments.
_OF_SENTINEL: Final = ("check_connection", "sentinel_username", "sentinel_password", "ssl")
_OF_FAKEREDIS: Final = ("connected", "singleton", "auto_close_connection_pool")
_UNNAMED: Final = {
    **dict.fromkeys(_CLASSES, ("single_connection_client", "cache", "cache_config")),
    "redis+sentinel": ("cache", "cache_config", *_OF_SENTINEL),
    "memory": _OF_FAKEREDIS,
}
_ASYNC_UNNAMED: Final = {
    **dict.fromkeys(_CLASSES, ("single_connection_client", "auto_close_connection_pool")),
    "redis+cluster": (),
    "redis+sentinel": _OF_SENTINEL,
    "memory": _OF_FAKEREDIS,
}
# Arguments of these classes that are made from the URL.
_FROM_THE_URL: Final = ("self", "startup_nodes", "sentinels")
# The options of from_url that are for the engine.
ENGINE_OPTIONS: Final = (
    "prefix",
    "partition",
    "durability",
    "receipt_ttl",
    "default_ttl",
    "max_ttl",
    "loader",
    "on_call",
)
# Options whose values are dicts.
_DICTS: Final = ("sentinel_kwargs", "socket_keepalive_options")


def check_options(
    scheme: str,
    in_url: Collection[str],
    options: Mapping[str, Any],
    *,
    asynchronous: bool,
    further: type[Any] | None = None,
) -> None:
    """``InvalidRequest`` for the first name that is no option of a client for URLs of this scheme.

    ``further`` is a class that takes options too, beside redis-py's.
    """
    ssl = bool(options.get("ssl", "ssl" in in_url))
    known = _known(scheme, further, asynchronous=asynchronous, ssl=ssl)
    for of_url, names in ((True, in_url), (False, options)):
        for name in names:
            if name in known:
                continue
            if name in _known(scheme, further, asynchronous=asynchronous, ssl=True):
                advice = ": it needs ssl=True too"
            else:
                advice = _advice(name, {*known, *ENGINE_OPTIONS}, of_url=of_url)
            if of_url:
                raise InvalidRequest(
                    "url", f"has the option {_shown(name)}, which no client for {scheme}:// has{advice}"
                )
            raise InvalidRequest(name, f"is no option of a client for {scheme}://{advice}")


def check_dicts(in_url: Collection[str], options: Mapping[str, Any], *, asynchronous: bool) -> None:
    """``InvalidRequest`` for an option that is no dict although it must be one, or has a key that redis-py refuses."""
    for name in _DICTS:
        if name in in_url:
            raise InvalidRequest("url", f"has the option {name}, which is a dict: give it to from_url as an argument")
        if not isinstance(options.get(name) or {}, Mapping):
            raise InvalidRequest(name, "must be a dict")
    known = names_of_sentinel_options(asynchronous=asynchronous)
    for key in options.get("sentinel_kwargs") or {}:
        if key not in known:
            advice = _advice(str(key), known)
            raise InvalidRequest(
                "sentinel_kwargs", f"has {_shown(str(key))}, which is no option of a client for a Sentinel{advice}"
            )
    if not all(isinstance(key, int) for key in options.get("socket_keepalive_options") or {}):
        raise InvalidRequest(
            "socket_keepalive_options", "must have constants of socket as keys, as in {socket.TCP_KEEPIDLE: 60}"
        )


def names_of_sentinel_options(*, asynchronous: bool) -> frozenset[str]:
    """The options that a client for a Sentinel takes beside its address."""
    return _names(("Redis",), asynchronous=asynchronous) - {"host", "port"}


def _advice(name: str, known: Iterable[str], *, of_url: bool = False) -> str:
    """What to do about a name that is not known."""
    similar = get_close_matches(name, known, n=1)
    if not similar:
        return ": redis-py's documentation lists them"
    if of_url and similar[0] in ENGINE_OPTIONS:
        return f": give {similar[0]} to from_url as an argument"
    return f": did you mean {similar[0]}?"


def _shown(name: str) -> str:
    """A name as a part of a text: it can be encoded, and is not too long."""
    return name[:100].encode(errors="backslashreplace").decode()


def _known(scheme: str, further: type[Any] | None, *, asynchronous: bool, ssl: bool) -> frozenset[str]:
    classes = (_ASYNC_CLASSES if asynchronous else _CLASSES)[scheme] + (_SSL_CLASSES.get(scheme, ()) if ssl else ())
    unnamed = (_ASYNC_UNNAMED if asynchronous else _UNNAMED)[scheme]
    return _names(classes, asynchronous=asynchronous, further=further).union(unnamed)


def _names(classes: Iterable[str], *, asynchronous: bool, further: type[Any] | None = None) -> frozenset[str]:
    """The names of all arguments that these classes take."""
    modules = (redis.asyncio, redis.asyncio.sentinel) if asynchronous else (redis, redis.sentinel)
    found = [next(vars(each)[name] for each in modules if name in vars(each)) for name in classes]
    if further:
        found.append(further)
    return frozenset(name for each in found for name in _named(each)).difference(_FROM_THE_URL)


def _named(of: type[Any]) -> Iterator[str]:
    """The names of the arguments of a class, and of those that it passes on to its bases by ``**``."""
    for base in of.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            yield from (each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
            if not any(each.kind is each.VAR_KEYWORD for each in parameters):
                return

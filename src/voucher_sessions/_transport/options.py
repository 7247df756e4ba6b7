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
# The words for a boolean in a URL. redis-py takes every word that is not one of the first for true.
_BOOLEANS: Final = {
    **dict.fromkeys(("0", "F", "FALSE", "N", "NO"), False),
    **dict.fromkeys(("1", "T", "TRUE", "Y", "YES"), True),
}


def check_options(
    scheme: str,
    in_url: Mapping[str, str],
    options: Mapping[str, Any],
    *,
    asynchronous: bool,
    own_class: type[Any] | None = None,
) -> None:
    """``InvalidRequest`` for the first name that is no option of a client for URLs of this scheme.

    ``own_class`` takes options too, beside redis-py's classes: the ``connection_class`` of the application, or the
    client of fakeredis.
    """
    ssl = scheme in _SSL_CLASSES and bool(options.get("ssl", as_boolean("ssl", in_url.get("ssl", "no"))))
    known = _known(scheme, own_class, asynchronous=asynchronous, ssl=ssl)
    for of_url, names in ((True, in_url), (False, options)):
        for name in names:
            if name in known:
                continue
            if name in _known(scheme, own_class, asynchronous=asynchronous, ssl=True):
                advice = ": it needs ssl=True too"
            elif scheme == "redis" and (name == "ssl" or name in _known("rediss", None, asynchronous=asynchronous)):
                advice = ": use rediss://"
            else:
                advice = _advice(name, {*known, *ENGINE_OPTIONS}, of_url=of_url)
            if of_url:
                raise InvalidRequest(
                    "url", f"has the option {_shown(name)}, which no client for {scheme}:// has{advice}"
                )
            raise InvalidRequest(name, f"is no option of a client for {scheme}://{advice}")


def as_boolean(name: str, value: str) -> bool:
    """The value of an option in a URL, in the words that redis-py reads for its own boolean options."""
    if value.upper() not in _BOOLEANS:
        raise InvalidRequest("url", f"has the option {name}, which must be true or false")
    return _BOOLEANS[value.upper()]


def takes_any_name(connection_class: type[Any]) -> bool:
    """Whether its ``__init__`` is not redis-py's and takes ``**``: only it knows the names of its options."""
    owner = next(base for base in connection_class.__mro__ if "__init__" in vars(base))
    if owner.__module__.partition(".")[0] in ("redis", "builtins"):
        return False
    parameters = inspect.signature(vars(owner)["__init__"]).parameters.values()
    return any(each.kind is each.VAR_KEYWORD for each in parameters)


def check_dicts(scheme: str, in_url: Collection[str], options: Mapping[str, Any], *, asynchronous: bool) -> None:
    """``InvalidRequest`` for an option that is no dict although it must be one, or has a key that redis-py refuses.

    Only options that a client for URLs of this scheme has; ``check_options`` refuses the others.
    """
    of_scheme = _known(scheme, None, asynchronous=asynchronous)
    given = {name: options.get(name) or {} for name in _DICTS if name in of_scheme}
    for name, value in given.items():
        if name in in_url:
            raise InvalidRequest("url", f"has the option {name}, which is a dict: give it to from_url as an argument")
        if not isinstance(value, Mapping):
            raise InvalidRequest(name, "must be a dict")
    known = names_of_sentinel_options(asynchronous=asynchronous)
    for key in given.get("sentinel_kwargs", ()):
        if key not in known:
            advice = _advice(str(key), known)
            raise InvalidRequest(
                "sentinel_kwargs", f"has {_shown(str(key))}, which is no option of a client for a Sentinel{advice}"
            )
    if not all(isinstance(key, int) for key in given.get("socket_keepalive_options", ())):
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


def _known(scheme: str, own_class: type[Any] | None, *, asynchronous: bool, ssl: bool = False) -> frozenset[str]:
    classes = (_ASYNC_CLASSES if asynchronous else _CLASSES)[scheme] + (_SSL_CLASSES.get(scheme, ()) if ssl else ())
    unnamed = (_ASYNC_UNNAMED if asynchronous else _UNNAMED)[scheme]
    return _names(classes, asynchronous=asynchronous, own_class=own_class).union(unnamed)


def _names(classes: Iterable[str], *, asynchronous: bool, own_class: type[Any] | None = None) -> frozenset[str]:
    """The names of all arguments that these classes take."""
    modules = (redis.asyncio, redis.asyncio.sentinel) if asynchronous else (redis, redis.sentinel)
    found = [next(vars(each)[name] for each in modules if name in vars(each)) for name in classes]
    if own_class:
        found.append(own_class)
    return frozenset(name for each in found for name in _named(each)).difference(_FROM_THE_URL)


def _named(of: type[Any]) -> Iterator[str]:
    """The names of the arguments of a class, and of those that it passes on to its bases by ``**``."""
    for base in of.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            yield from (each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
            if not any(each.kind is each.VAR_KEYWORD for each in parameters):
                return

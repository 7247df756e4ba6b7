"""The options that the clients of redis-py accept. redis-py itself finds a misspelt one at the first connection."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from types import ModuleType
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
    "redis+sentinel": ("Sentinel", "Redis", "ConnectionPool", "SSLConnection"),
    "memory": ("Redis", "ConnectionPool", "Connection"),
}
# Options that no signature names: redis-py and fakeredis take them out of their keyword arguments.
_UNNAMED: Final = frozenset(("single_connection_client", "auto_close_connection_pool", "cache", "cache_config"))
_UNNAMED_OF_SCHEME: Final = {
    "redis+sentinel": frozenset(("check_connection", "sentinel_username", "sentinel_password")),
    "memory": frozenset(("connected", "singleton")),
}


def check_options(
    scheme: str, names: Iterable[str], *, asynchronous: bool, of_url: bool, further: type[Any] | None = None
) -> None:
    """``InvalidRequest`` for the first name that is no option of a client for URLs of this scheme.

    ``further`` is a class that takes options too, beside redis-py's.
    """
    known = _known(scheme, further, asynchronous=asynchronous)
    for name in names:
        if name not in known:
            similar = get_close_matches(name, known, n=1)
            advice = f": did you mean {similar[0]}?" if similar else ": redis-py's documentation lists them"
            if of_url:
                raise InvalidRequest("url", f"has the option {name}, which no client for {scheme}:// has{advice}")
            raise InvalidRequest(name, f"is no option of a client for {scheme}://{advice}")


def _known(scheme: str, further: type[Any] | None, *, asynchronous: bool) -> frozenset[str]:
    modules: tuple[ModuleType, ...] = (
        (redis.asyncio, redis.asyncio.sentinel) if asynchronous else (redis, redis.sentinel)
    )
    classes = [next(vars(each)[name] for each in modules if name in vars(each)) for name in _CLASSES[scheme]]
    bases = {
        base for each in (*classes, *((further,) if further else ())) for base in each.__mro__ if base is not object
    }
    named = {name for base in bases for name in inspect.signature(base.__init__).parameters}
    return frozenset(named - {"self", "args", "kwargs"} | _UNNAMED | _UNNAMED_OF_SCHEME.get(scheme, frozenset()))

"""What an engine was given as its client: one that it can use or not, sync or asyncio.

The client can be wrapped. A proxy (wrapt) says that its class is that of the client inside. Another wrapper has some
methods of its own, and passes on what it does not have. So these things are looked at too: the objects whose methods
it passes on, its pool, the class of its connections, and its slot table.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

import redis
import redis.asyncio as aioredis
import redis.asyncio.client
import redis.asyncio.cluster
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.client
import redis.cluster
import redis.connection
import redis.sentinel

from voucher_sessions.errors import InvalidRequest

# All these classes are named at import: a test of the application may replace redis.Redis by a mock.
_SYNC_CLIENTS: Final = (redis.Redis, redis.RedisCluster)
_ASYNC_CLIENTS: Final = (aioredis.Redis, aioredis.RedisCluster)
_SYNC: Final = (
    *_SYNC_CLIENTS,
    redis.ConnectionPool,
    redis.connection.AbstractConnection,
    redis.cluster.NodesManager,
)
_ASYNC: Final = (
    *_ASYNC_CLIENTS,
    aioredis.ConnectionPool,
    redis.asyncio.connection.AbstractConnection,
    redis.asyncio.cluster.NodesManager,
)
# Objects of redis-py that have execute_command and cannot run a script.
_NO_CLIENTS: Final[tuple[tuple[tuple[type[Any], ...], str], ...]] = (
    (
        (redis.sentinel.Sentinel, redis.asyncio.sentinel.Sentinel),
        "is a Sentinel, which has no vouchers: give the client that its method returns, sentinel.master_for(name)",
    ),
    (
        (
            redis.client.Pipeline,
            redis.cluster.ClusterPipeline,
            redis.asyncio.client.Pipeline,
            redis.asyncio.cluster.ClusterPipeline,
        ),
        "is a pipeline, which sends nothing until it is executed: give its client, and use the pipeline() of the engine",
    ),
    (
        (redis.client.PubSub, redis.asyncio.client.PubSub),
        "is a PubSub, which receives messages: give the client that it was made from",
    ),
)
# Methods of a client, a pipeline and a Sentinel. A wrapper that does not define them passes them on.
_PASSED_ON: Final = ("close", "execute", "master_for")


def check_client(client: Any, *, asynchronous: bool) -> Any:
    """The client. ``InvalidRequest`` if it is none of redis-py, or sync instead of asyncio, or the reverse."""
    classes: list[type[Any]] = []
    is_async: bool | None = None
    try:
        execute = None if inspect.isclass(client) else getattr(client, "execute_command", None)
        classes = list(_classes(client))
        is_async = _is_async(client, execute, classes)
    except Exception:  # raised by the object that was given as a client
        execute = None
    if execute is None:
        raise InvalidRequest("client", "must be a client of redis-py; for a URL there is from_url")
    _refuse_other_classes(classes)
    if is_async is None and asynchronous:
        raise InvalidRequest(
            "client",
            "is no client of redis.asyncio, and its execute_command is not an async def. If it wraps an asyncio client, "
            "let it pass on the connection_pool of that client. For a sync client, use VoucherSessions",
        )
    if is_async is not None and is_async != asynchronous:
        kind, other = ("a sync", "VoucherSessions") if asynchronous else ("an asyncio", "AsyncVoucherSessions")
        raise InvalidRequest("client", f"is {kind} client: use {other}")
    return client


def check_reply(reply: Any) -> Any:
    """The reply that a sync client returned. ``InvalidRequest`` if it must be awaited: nothing was sent."""
    if inspect.isawaitable(reply):
        if inspect.iscoroutine(reply):
            reply.close()  # without this, Python warns that it was never awaited
        raise InvalidRequest("client", "is an asyncio client: use AsyncVoucherSessions")
    return reply


def _refuse_other_classes(classes: list[type[Any]]) -> None:
    """``InvalidRequest`` if one of them is of valkey-py, or of an object of redis-py that is no client."""
    if any(base.__module__.partition(".")[0] == "valkey" for each in classes for base in each.__mro__):
        raise InvalidRequest(
            "client",
            "is one of valkey-py, whose errors are not those of redis-py. redis-py speaks to Valkey as well: give "
            'redis.Redis(...) or redis.asyncio.Redis(...), or use from_url("redis://...")',
        )
    for no_clients, problem in _NO_CLIENTS:
        if any(issubclass(each, no_clients) for each in classes):
            raise InvalidRequest("client", problem)


def _classes(client: object) -> Iterator[type[Any]]:
    """The classes that show what a client is: its own first, then those of what it wraps and of what it uses."""
    pool = getattr(client, "connection_pool", None)
    behind = [getattr(getattr(client, name, None), "__self__", None) for name in _PASSED_ON]
    for each in (client, *behind, getattr(client, "nodes_manager", None), pool):
        yield type(each)
        yield each.__class__  # of a proxy or of a mock with a specification: the class that it stands for
    of_connections = getattr(pool, "connection_class", None)
    if inspect.isclass(of_connections):
        yield of_connections


def _is_async(client: object, execute: Any, classes: list[type[Any]]) -> bool | None:
    """Whether the client's commands are awaited. None: it does not show.

    Its own class decides if it is one of redis-py's (those of fakeredis are subclasses), because instrumentation may
    have replaced ``execute_command`` by a plain function that returns a coroutine.
    """
    if isinstance(client, _SYNC_CLIENTS):
        return False
    if isinstance(client, _ASYNC_CLIENTS):
        return True
    candidates = (execute, inspect.unwrap(execute), getattr(type(client), "execute_command", None))
    if any(map(inspect.iscoroutinefunction, candidates)):
        return True
    return next((issubclass(each, _ASYNC) for each in classes if issubclass(each, (*_SYNC, *_ASYNC))), None)

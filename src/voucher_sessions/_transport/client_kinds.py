"""What kind of client an engine was given: one of redis-py or not, sync or asyncio."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio as aioredis

from voucher_sessions.errors import InvalidRequest


def check_client(client: Any, *, asynchronous: bool) -> Any:
    """The client. ``InvalidRequest`` if it is none of redis-py, or sync instead of asyncio, or the reverse."""
    execute, is_async, of_valkey = None, False, False
    try:
        execute = getattr(client, "execute_command", None)
        is_async = execute is not None and _is_async(client, execute)
        of_valkey = any(each.__module__.partition(".")[0] == "valkey" for each in type(client).__mro__)
    except Exception:  # raised by the object that was given as a client
        execute = None
    if execute is None:
        raise InvalidRequest("client", "must be a client of redis-py; for a URL there is from_url")
    if of_valkey:
        raise InvalidRequest(
            "client",
            "is one of valkey-py, whose errors are not those of redis-py. redis-py speaks to Valkey as well: give "
            'redis.Redis(...) or redis.asyncio.Redis(...), or use from_url("redis://...")',
        )
    if is_async != asynchronous:
        kind, other = ("a sync", "VoucherSessions") if asynchronous else ("an asyncio", "AsyncVoucherSessions")
        raise InvalidRequest("client", f"is {kind} client: use {other}")
    return client


def _is_async(client: object, execute: Callable[..., Any]) -> bool:
    """Whether the client's commands are awaited.

    Its class decides if it is one of redis-py's (those of fakeredis are subclasses), because instrumentation may have
    replaced ``execute_command`` by a plain function that returns a coroutine.
    """
    if isinstance(client, redis.Redis | redis.RedisCluster):
        return False
    if isinstance(client, aioredis.Redis | aioredis.RedisCluster):
        return True
    candidates = (execute, inspect.unwrap(execute), getattr(type(client), "execute_command", None))
    return any(map(inspect.iscoroutinefunction, candidates))

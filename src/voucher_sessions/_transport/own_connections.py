"""Decides whether an engine opens connections of its own, and makes them with the settings of the client's connections.

They have the client's address, TLS, credentials, database, RESP version, timeouts and name, and do not count against the
limit of its pool. They do not retry: the engine repeats calls itself, so that it knows what was sent.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, Final
from weakref import WeakSet

import redis
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import StreamingCredentialProvider
from redis.retry import Retry

from voucher_sessions._transport.numbers_as_text import packing_as_text

# Named at import: a test of the application may replace redis.Redis by a mock.
_CLIENTS: Final = (redis.Redis, aioredis.Redis)
_CLUSTER: Final = redis.RedisCluster
_ASYNC_CLUSTER: Final = aioredis.RedisCluster
_REDIS: Final = f"{Path(redis.__file__).parent}{os.sep}"
# The methods of a connection that the engine or the client calls. If a class overrides one of them, as those of
# fakeredis do, the engine does not use that class: calls go through the client.
_USED: Final = ("connect", "disconnect", "pack_command", "send_packed_command", "send_command", "read_response")
# Options that connect a connection with the client's pool. With them, a maintenance notification that the server sends
# on an engine's connection would change the client's pool.
_OF_THE_POOL: Final = (
    "maint_notifications_config",
    "maint_notifications_pool_handler",
    "oss_cluster_maint_notifications_handler",
)
_RENEWALS: Final = "_voucher_sessions_renewals"


def are_allowed(client: Any) -> bool:
    """Whether the engine may open connections of its own, instead of sending calls through the client.

    Not if the client has a single connection, or if the application or instrumentation has overridden or wrapped
    ``execute_command``, ``pipeline``, or a method of the pool or of the connections: what these do for each command
    would not happen. For an asyncio cluster, not with a credential provider that renews tokens by itself either.
    """
    if not _sends_as_redis_py(client):
        return False
    if isinstance(client, _ASYNC_CLUSTER):
        nodes = client.nodes_manager.startup_nodes.values()
        # A token that a provider renews by itself would not reach connections to the nodes.
        is_renewed = any(map(_has_tokens_that_are_renewed, nodes))
        return _are_made_by_redis_py(nodes) and not is_renewed
    if isinstance(client, _CLUSTER):
        return True
    if not isinstance(client, _CLIENTS) or _has_one_connection(client):
        return False
    return is_pool_of_redis_py(client.connection_pool)


def _has_one_connection(client: Any) -> bool:
    """Whether it was given one connection. A client of redis.asyncio opens it only with its first command."""
    return getattr(client, "connection", None) is not None or getattr(client, "single_connection_client", False)


def is_pool_of_redis_py(pool: Any) -> bool:
    """Whether a pool and its connections are those of redis-py."""
    methods = (getattr(type(pool), name, None) for name in ("get_connection", "make_connection"))
    return all(map(_is_of_redis_py, methods)) and _are_made_by_redis_py([pool])


def _sends_as_redis_py(client: Any) -> bool:
    return all(
        _is_of_redis_py(getattr(type(client), name, None)) and name not in getattr(client, "__dict__", {})
        for name in ("execute_command", "pipeline")
    )


def _are_made_by_redis_py(pools: Any) -> bool:
    return all(_is_of_redis_py(getattr(pool.connection_class, name, None)) for pool in pools for name in _USED)


def _is_of_redis_py(function: object) -> bool:
    """By its type, not by ``isinstance``: the wrappers of wrapt say that they are the function inside."""
    return type(function) is FunctionType and function.__code__.co_filename.startswith(_REDIS)


def new_connection(pool: Any) -> Any:
    """A connection for a sync engine; it is not open yet."""
    return packing_as_text(pool.connection_class(**{**_kwargs(pool), "retry": Retry(NoBackoff(), 0)}))


def new_async_connection(pool: Any) -> Any:
    """A connection for an asyncio engine; it is not open yet. ``pool`` can be a node of a cluster."""
    return pool.connection_class(**{**_kwargs(pool), "retry": AsyncRetry(NoBackoff(), 0)})


def _kwargs(pool: Any) -> dict[str, Any]:
    return {name: value for name, value in pool.connection_kwargs.items() if name not in _OF_THE_POOL}


def retry_of(pool: Any) -> Any:
    """The ``Retry`` that the connections of a pool have: how often a call is sent again, and after which errors."""
    return copy.deepcopy(pool.connection_class(**_kwargs(pool)).retry)


def on_new_token(pool: Any, renewed: Any) -> None:
    """Have ``renewed.renew()`` called when a credential provider that renews tokens by itself has a new one.

    redis-py passes such a token to the connections of the pool alone.
    """
    if not _has_tokens_that_are_renewed(pool):
        return
    if _RENEWALS not in vars(pool):
        vars(pool)[_RENEWALS] = WeakSet()
        vars(pool)["re_auth_callback"] = _ReAuth(pool.re_auth_callback, vars(pool)[_RENEWALS])
    vars(pool)[_RENEWALS].add(renewed)


def _has_tokens_that_are_renewed(pool: Any) -> bool:
    return isinstance(pool.connection_kwargs.get("credential_provider"), StreamingCredentialProvider)


class _ReAuth:
    """Replaces the method ``re_auth_callback`` of one pool: renews the engines' connections, then calls that method."""

    def __init__(self, of_pool: Callable[[object], Any], renewals: WeakSet[Any]) -> None:
        self._of_pool = of_pool
        self._renewals = renewals

    def __call__(self, token: object) -> Any:
        for each in list(self._renewals):
            each.renew()
        return self._of_pool(token)

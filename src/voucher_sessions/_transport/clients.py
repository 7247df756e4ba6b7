"""Facts about the client that an engine was given: its kind, its primaries, its timeouts, and its connections."""

from __future__ import annotations

import inspect
from itertools import count
from typing import Any, NamedTuple

import redis
import redis.asyncio as aioredis
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.connection import Connection
from redis.crc import key_slot
from redis.sentinel import SentinelConnectionPool

from voucher_sessions.errors import InvalidRequest


class Primary(NamedTuple):
    """One server: its address, the options of ``execute_command`` that select it, and a hash tag that it serves."""

    address: str
    options: dict[str, Any]
    tag: str


def check_client(client: Any, *, asynchronous: bool) -> Any:
    """The client; ``InvalidRequest`` if it is no client of redis-py, or if it is sync where an asyncio one is needed, or the reverse."""
    try:
        execute = getattr(client, "execute_command", None)
    except Exception:  # raised by the object that was given as a client
        execute = None
    if execute is None:
        raise InvalidRequest("client", "must be a client of redis-py; for a URL there is from_url")
    if inspect.iscoroutinefunction(execute) != asynchronous:
        kind, other = ("a sync", "VoucherSessions") if asynchronous else ("an asyncio", "AsyncVoucherSessions")
        raise InvalidRequest("client", f"is {kind} client: use {other}")
    return client


def is_cluster(client: object) -> bool:
    """Whether it is a client of a Redis Cluster."""
    return isinstance(client, redis.RedisCluster | aioredis.RedisCluster)


def primaries(client: Any) -> list[Primary]:
    """The one server, or every primary that serves slots according to the cluster client's slot table."""
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


def retry_period_seconds(client: Any) -> float:
    """How long a failed call is retried: 30 s on clusters and with Sentinel, where a failover takes 20 s by default.

    0 for a single server, which no other server replaces; there, only the client's own retries apply.
    """
    pool = getattr(client, "connection_pool", None)
    return 30 if is_cluster(client) or isinstance(pool, SentinelConnectionPool | AsyncSentinelConnectionPool) else 0


def reply_timeout_ms(client: Any) -> float | None:
    """The client's ``socket_timeout`` in ms: how long it waits for a reply. None: without limit, or unknown."""
    if not hasattr(client, "get_connection_kwargs"):  # not a client of redis-py itself: its timeout is unknown
        return None
    default = Connection().socket_timeout  # this object never connects
    seconds: object = client.get_connection_kwargs().get("socket_timeout", default)
    return seconds * 1000 if isinstance(seconds, (int, float)) else None  # a mock of a client has no number here


def is_one_connection(client: Any) -> bool:
    """Whether all calls use one connection (``single_connection_client``) instead of a pool."""
    return getattr(client, "connection", None) is not None


def disconnect(client: Any) -> None:
    """Close all connections that no call is using. The client opens new ones when it needs them."""
    nodes = [node.redis_connection for node in client.get_nodes()] if is_cluster(client) else [client]
    for node in filter(None, nodes):
        if is_one_connection(node):
            node.connection.disconnect()
        elif pool := getattr(node, "connection_pool", None):
            pool.disconnect(inuse_connections=False)

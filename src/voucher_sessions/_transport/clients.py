"""Facts about the client that an engine was given: its primaries, its timeouts, and its connections."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from contextlib import suppress
from itertools import count
from queue import Empty
from typing import Any, NamedTuple

from redis.asyncio.cluster import NodesManager as AsyncNodesManager
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.cluster import NodesManager
from redis.connection import Connection
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, TryAgainError
from redis.sentinel import SentinelConnectionPool

from voucher_sessions._core import client_errors
from voucher_sessions._transport.numbers_as_text import send_numbers_as_text
from voucher_sessions.errors import CLIENT_ERRORS


class Primary(NamedTuple):
    """One server: its address, the options of ``execute_command`` that select it, and a hash tag that it serves."""

    address: str
    options: dict[str, Any]
    tag: str


def is_cluster(client: object) -> bool:
    """Whether it is a client of a Redis Cluster, or an object that passes on the attributes of one."""
    return isinstance(getattr(client, "nodes_manager", None), NodesManager | AsyncNodesManager)


def primaries(client: Any, open_slots: Collection[int] = ()) -> list[Primary]:
    """The one server, or every primary that serves slots according to the cluster client's slot table.

    The tags are not those of open slots, if a primary has any other: from an open slot, a call about a key that does not
    exist is redirected to the server to which the slot is being moved.
    """
    if not is_cluster(client):
        return [Primary("", {}, "0")]
    owners = {slot: nodes[0] for slot, nodes in client.nodes_manager.slots_cache.items()}
    with_closed_slots = {node.name for slot, node in owners.items() if slot not in open_slots}
    unknown = {node.name for node in owners.values()}
    found: list[Primary] = []
    tags = map(str, count())
    while unknown:
        tag = next(tags)
        slot = key_slot(tag.encode())
        node = owners.get(slot)
        if node is None or node.name not in unknown or (slot in open_slots and node.name in with_closed_slots):
            continue
        unknown.remove(node.name)
        found.append(Primary(node.name, {"target_nodes": node}, tag))
    return sorted(found, key=lambda primary: primary.address)


def refresh_slots(client: Any) -> None:
    """Make a cluster's client read the slot table again. By itself it does so only after errors of single commands.

    If it cannot, the error that made this necessary says more, unless the user may not read the table.
    """
    if is_cluster(client):
        try:
            client.nodes_manager.initialize()
        except CLIENT_ERRORS as error:
            if client_errors.is_cluster_view_forbidden(error):
                raise


def check_knows_target(client: Any, redirection: AskError) -> None:
    """Raise ``TryAgainError`` if a slot is moving to a server that a cluster's client does not know yet.

    The client knows the servers that have slots. A new one has none until its first slot has moved, and if redis-py
    follows a redirection to a server that it does not know, it fails with an ``AttributeError``.
    """
    if not isinstance(redirection, MovedError) and client.get_node(redirection.host, redirection.port) is None:
        raise TryAgainError("the voucher's slot is moving to a server that has no slot yet") from redirection


def read_slot_owners(client: Any) -> dict[int, str]:
    """The primary of each slot of a cluster, by its slot table, which is read anew; empty for a single server."""
    if not is_cluster(client):
        return {}
    refresh_slots(client)
    return {slot: nodes[0].name for slot, nodes in client.nodes_manager.slots_cache.items()}


async def refresh_slots_async(client: Any) -> None:
    """``refresh_slots`` for a client of ``redis.asyncio``."""
    if is_cluster(client):
        try:
            await client.nodes_manager.initialize()
        except (AttributeError, RuntimeError, *CLIENT_ERRORS) as error:  # RuntimeError: it is of another event loop
            if client_errors.is_cluster_view_forbidden(error):
                raise


def retry_period_seconds(client: Any) -> float:
    """How long a failed call is retried: 30 s on clusters and with Sentinel, where a failover takes 20 s by default.

    0 for a single server, which no other server replaces; there, only the client's own retries apply.
    """
    pool = getattr(client, "connection_pool", None)
    return 30 if is_cluster(client) or isinstance(pool, SentinelConnectionPool | AsyncSentinelConnectionPool) else 0


def reply_timeout_ms(client: Any) -> float | None:
    """The client's ``socket_timeout`` in ms: how long it waits for a reply. None: without limit, or unknown."""
    options = getattr(client, "get_connection_kwargs", None)
    if options is None or inspect.iscoroutinefunction(options):  # not a client of redis-py itself; an AsyncMock has one
        return None
    default = Connection().socket_timeout  # this object never connects
    seconds: object = options().get("socket_timeout", default)
    return seconds * 1000 if isinstance(seconds, (int, float)) else None  # a mock of a client has no number here


def is_one_connection(client: Any) -> bool:
    """Whether all calls use one connection (``single_connection_client``) instead of a pool."""
    return getattr(client, "connection", None) is not None


async def disconnect_async(client: Any) -> None:
    """``disconnect`` for a client of ``redis.asyncio``."""
    if is_cluster(client):
        for node in client.get_nodes():
            for connection in list(node._free):  # redis-py before 7 has no method for it
                await connection.disconnect()
        return
    if is_one_connection(client):
        await client.connection.disconnect()
    if pool := getattr(client, "connection_pool", None):
        await pool.disconnect(inuse_connections=False)


def nodes(client: Any) -> list[Any]:
    """The clients of the servers to which a sync client of a cluster is connected; any other client itself."""
    if not is_cluster(client):
        return [client]
    return [node.redis_connection for node in client.get_nodes() if node.redis_connection is not None]


def disconnect(client: Any) -> None:
    """Close all connections that no call is using. The client opens new ones when it needs them.

    A client with one connection has a pool as well, for pipelines.
    """
    for node in nodes(client):
        send_numbers_as_text(node)
        if is_one_connection(node):
            node.connection.disconnect()
        if pool := getattr(node, "connection_pool", None):
            _disconnect_idle(pool)


def _disconnect_idle(pool: Any) -> None:
    if "inuse_connections" in inspect.signature(pool.disconnect).parameters:
        pool.disconnect(inuse_connections=False)
        return
    idle: list[Any] = []  # BlockingConnectionPool of redis-py before 7 closes all or none
    with suppress(Empty):
        while True:
            idle.append(pool.pool.get_nowait())
    for connection in reversed(idle):
        if connection is not None:
            connection.disconnect()
        pool.pool.put_nowait(connection)

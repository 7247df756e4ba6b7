"""Sends calls over connections that tasks share; the counterpart of ``sync_connections.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import AskError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError

from voucher_sessions._core import batch, client_errors
from voucher_sessions._core.call import Call
from voucher_sessions._transport import clients, own_connections
from voucher_sessions._transport.aio_client import AsyncClientSender
from voucher_sessions._transport.group_commit import GroupCommit
from voucher_sessions._transport.shared_connection import SharedConnection
from voucher_sessions.errors import CLIENT_ERRORS
from voucher_sessions.models import Durability

T = TypeVar("T")


class _Server:
    """The connections of one event loop to one server.

    Changes that must be confirmed have a connection of their own: until WAIT or WAITAOF is answered, the server runs no
    other command of that connection.
    """

    def __init__(self, pool: Any, durability: Durability | None) -> None:
        open_ = partial(own_connections.new_async_connection, pool)
        self.shared = SharedConnection(open_)
        self.confirmed = None if durability is None else GroupCommit(SharedConnection(open_), durability)

    def connection(self, *, changes: bool) -> SharedConnection:
        """The connection for a call that changes something, or only reads."""
        return self.confirmed.connection if self.confirmed is not None and changes else self.shared

    async def end(self) -> None:
        await self.shared.end()
        if self.confirmed is not None:
            await self.confirmed.connection.end()

    def calls(self) -> list[Call[Any]]:
        """The calls that have no result yet."""
        return self.shared.calls() + (self.confirmed.calls() if self.confirmed else [])

    def renew(self) -> None:
        self.shared.renew()
        if self.confirmed is not None:
            self.confirmed.connection.renew()


class AsyncConnectionSender:
    """Sends commands to one server, or to the nodes of a cluster; each event loop has connections of its own."""

    def __init__(self, client: Any, durability: Durability | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._with_sentinel = isinstance(getattr(client, "connection_pool", None), SentinelConnectionPool)
        self._durability = durability
        self._through_client = AsyncClientSender(client, durability)
        self._servers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Server]] = WeakKeyDictionary()

    async def reconnect(self) -> None:
        """Close the idle connections of a cluster's client.

        The engine's own connection was closed when it was found to be out of step. It is not closed here: other tasks
        may use the connection that has replaced it.
        """
        if self._clustered:
            await self._through_client.reconnect()

    async def close(self) -> None:
        """Close the connections of this event loop."""
        for server in list(self._servers.get(asyncio.get_running_loop(), {}).values()):
            await server.end()

    def retry(self) -> Any:
        """The ``Retry`` of the client, as it is set now."""
        return own_connections.retry_of(self._client.connection_pool)

    async def ping(self) -> None:
        """Ask every server to answer; raises its error, or the client's if it does not."""
        if self._clustered:
            await self._through_client.ping()
            return
        (reply,), _ = await self._server_of_pool(self._client.connection_pool).shared.exchange((), [("PING",)])
        if isinstance(reply, Exception):
            raise reply

    def evaluate(self, call: Call[T], *, reconnected: bool) -> Coroutine[Any, Any, list[Any]]:
        """The script's reply, and the replies to the commands that confirm durability, if they are sent.

        A server that does not have the script replies with an error, and EVAL loads it. Any other error does not begin
        with the call id, so the reply to ECHO must prove that the connection is in step; if ECHO does not work, the
        error counts only on a new connection (``reconnected``).
        """
        if self._clustered:
            return self._evaluate_on_cluster(call, reconnected=reconnected)
        return self._evaluate(self._server_of_pool(self._client.connection_pool), call, reconnected=reconnected)

    async def _evaluate_on_cluster(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """As ``_evaluate``. A call whose slot is moving goes through the client, which follows the slot.

        If a node does not answer, the client reads the slot table again.
        """
        try:
            server = await self._server_of(call.keys[0])
            return await self._evaluate(server, call, reconnected=reconnected)
        except CLIENT_ERRORS as error:
            if isinstance(error, AskError):  # MovedError is a subclass
                clients.check_knows_target(self._client, error)
                return await self._through_client.evaluate(call, reconnected=reconnected)
            if client_errors.is_transient(error):
                await clients.refresh_slots_async(self._client)
            raise

    async def _evaluate(self, server: _Server, call: Call[T], *, reconnected: bool) -> list[Any]:
        link = server.connection(changes=call.changes)
        send = link.exchange if server.confirmed is None or not call.changes else server.confirmed.exchange
        replies, connection = await send((call,), (call.evalsha_command(),))
        if isinstance(replies[0], Exception) and client_errors.is_unknown_script(replies[0]):
            replies, connection = await send((call,), (call.eval_command(),))
            await _close_if_behind(link, call, connection)
        if not isinstance(replies[0], Exception):
            if not call.is_own(replies[0]):
                await link.close(connection)
                raise client_errors.OutOfStep(f"{call.verb}: the connection gave the reply to another command")
            return replies
        try:
            (echo,), _ = await link.exchange((), [("ECHO", call.id)], connection)
            call.check_in_step(replies[:1], echo, reconnected=reconnected)
        except BaseException as error:
            # The reply may be the one to another command.
            call.may_have_run = call.may_have_run or client_errors.leaves_unknown(error)
            if isinstance(error, client_errors.OutOfStep):
                await link.close(connection)
            else:
                client_errors.raise_if_ended_half_way(replies, error)
            raise
        if self._with_sentinel and isinstance(replies[0], ReadOnlyError):
            await link.close(connection)  # a new one asks Sentinel for the primary
            raise _no_primary()
        raise replies[0]

    async def send_batch(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The replies to the commands of a batch, errors included. All calls have the same node.

        Raises the error of a server that is loading its data, as a client's pipeline does.
        """
        server = await self._server_of(calls[0].keys[0])
        link = server.connection(changes=any(call.changes for call in calls))
        try:
            replies, connection = await link.exchange(calls, list(batch.commands(calls, self._durability)))
            batch.raise_if_loading(calls, replies)
        except CLIENT_ERRORS as error:
            if client_errors.is_transient(error):
                await clients.refresh_slots_async(self._client)
            raise
        if batch.is_out_of_step(calls, replies):
            await link.close(connection)
        elif self._with_sentinel and any(isinstance(reply, ReadOnlyError) for reply in replies):
            await link.close(connection)  # a new one asks Sentinel for the primary
            replies = [_no_primary() if isinstance(reply, ReadOnlyError) else reply for reply in replies]
        if any(isinstance(reply, AskError) for reply in replies):
            await clients.refresh_slots_async(self._client)
        return replies

    async def _server_of(self, key: bytes) -> _Server:
        """The server of a key. Raises ``SlotNotCoveredError`` if a slot of a cluster has no node at the moment."""
        if not self._clustered:
            return self._server_of_pool(self._client.connection_pool)
        await self._client.initialize()
        return self._server_of_pool(self._client.get_node_from_key(key))

    def _server_of_pool(self, pool: Any) -> _Server:
        """The connections of this event loop to the server of a pool or node of the client."""
        loop = asyncio.get_running_loop()
        servers = self._servers.get(loop)
        if servers is None:
            self.calls_of_closed_loops()
            servers = self._servers.setdefault(loop, {})
        name = pool.name if self._clustered else ""
        server = servers.get(name)
        if server is None:
            server = servers[name] = _Server(pool, self._durability)
            if not self._clustered:
                own_connections.on_new_token(pool, server)
        return server

    def calls_of_closed_loops(self) -> list[Call[Any]]:
        """The calls that had no result when their event loop was closed. Removes the servers of those loops.

        Their connections keep such a loop alive, weak key or not.
        """
        calls: list[Call[Any]] = []
        for reference in self._servers.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                for server in self._servers.pop(loop, {}).values():
                    calls += server.calls()
        return calls


async def _close_if_behind(link: SharedConnection, call: Call[Any], connection: object) -> None:
    """Close the connection if the unknown script was another command's: then EVAL has the reply to the first try."""
    try:
        (echo,), _ = await link.exchange((), [("ECHO", call.id)], connection)
    except CLIENT_ERRORS:  # it is closed
        return
    if not (client_errors.proves_in_step(call.id, echo) or client_errors.is_echo_forbidden(echo)):
        await link.close(connection)


def _no_primary() -> Exception:
    return RedisConnectionError("the server is no primary any more")

"""Shared clients whose connection is behind: a command of the application was sent over it, and its reply not read.

That is what a signal handler leaves that raises between the sending of a command and the reading of its reply. Here it
is done without a signal, so that it happens at every try.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import redis
import redis.asyncio
from conftest import BlockingAsync
from pydantic import BaseModel

from faults.test_cancelled_calls import UnnoticedReplyConnection as AsyncUnnoticedReplyConnection
from faults.test_interrupted_calls import UnnoticedReplyConnection
from voucher_sessions import AsyncVoucherSessions, NotDurable, VoucherSessions, VoucherSessionsError

Command = tuple[str, ...]

# The application's own user; it may not run CONFIG.
USER: Final = ["ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all", "-config"]


class SharedClient(NamedTuple):
    """One client that the application and an engine use, and how to use it from a test."""

    kind: str
    client: Any
    loop: asyncio.AbstractEventLoop
    transport: str
    engines: list[Any]

    def engine(self, **options: Any) -> Any:
        if self.kind == "sync":
            engine: Any = VoucherSessions(self.client, **options)
        else:
            engine = BlockingAsync(AsyncVoucherSessions(self.client, **options), self.loop)
        self.engines.append(engine)
        return engine

    def close_engines(self) -> None:
        """Close their own connections."""
        for engine in self.engines:
            engine.close() if self.kind == "sync" else engine.aclose()

    def execute(self, *command: str) -> Any:
        """A command of the application's, as it should be: sent, and its reply read."""
        result = self.client.execute_command(*command)
        return result if self.kind == "sync" else self.loop.run_until_complete(result)

    def send_unread(self, *commands: Command, of_pool: bool = False) -> int:
        """Send commands over a connection and do not read the replies. Returns the connection's number at the server.

        ``of_pool``: even if the client has one connection for all single commands, one of the pool that it also has.
        """
        connection = None if of_pool else self.client.connection
        if self.kind == "sync":
            return self._send_unread(connection, commands)
        return self.loop.run_until_complete(self._send_unread_async(connection, commands))

    def send_unread_of(self, engine: Any, *commands: Command) -> list[int]:
        """The same over the connections that an engine uses: its own, or one of the client. Returns their numbers."""
        if self.transport == "client":
            return [self.send_unread(*commands)]
        if self.kind == "async":
            return self.loop.run_until_complete(self._send_unread_of_tasks(engine._transport._sender, commands))
        stack = engine._transport._sender._only
        connection = stack.take()
        connection.send_command("CLIENT", "ID")
        number: int = connection.read_response()
        for command in commands:
            connection.send_packed_command(connection.pack_command(*command))
        stack.put_back(connection)
        return [number]

    async def _send_unread_of_tasks(self, sender: Any, commands: Sequence[Command]) -> list[int]:
        server = sender._server_of_pool(self.client.connection_pool)
        shared = [server.shared, *([server.confirmed.connection] if server.confirmed else [])]
        numbers = []
        for each in shared:
            await each.close()  # of two connections, the last call may have used one
            (number,), connection = await each.exchange((), [("CLIENT", "ID")])
            connection._writer.writelines(part for command in commands for part in connection.pack_command(*command))
            numbers.append(number)
        return numbers

    def _send_unread(self, single: Any, commands: Sequence[Command]) -> int:
        connection = single or self.client.connection_pool.get_connection()
        connection.send_command("CLIENT", "ID")
        number: int = connection.read_response()
        for command in commands:
            connection.send_packed_command(connection.pack_command(*command))
        if not single:
            self.client.connection_pool.release(connection)
        return number

    async def _send_unread_async(self, single: Any, commands: Sequence[Command]) -> int:
        connection = single or await self.client.connection_pool.get_connection()
        await connection.send_command("CLIENT", "ID")
        number: int = await connection.read_response()
        for command in commands:
            await connection.send_packed_command(connection.pack_command(*command))
        if not single:
            await self.client.connection_pool.release(connection)
        return number


@contextmanager
def shared_client(
    kind: str,
    socket: str,
    loop: asyncio.AbstractEventLoop,
    *,
    transport: str = "client",
    single: bool = False,
    **options: Any,
) -> Iterator[SharedClient]:
    """A client that does not notice by itself that a connection is behind, as if the reply were still on its way.

    redis-py looks for unread data when it takes a connection from the pool, but not with RESP3 and default settings.
    ``transport``: as that class of connections is not redis-py's, an engine opens its own only with redis-py's.
    """
    own = transport != "client"
    if kind == "sync":
        connection_class = redis.UnixDomainSocketConnection if own else UnnoticedReplyConnection
        pool = redis.ConnectionPool(connection_class=connection_class, path=socket, **options)
        with redis.Redis(connection_pool=pool, single_connection_client=single) as client:
            shared = SharedClient(kind, client, loop, transport, [])
            yield shared
            shared.close_engines()
        pool.disconnect()
        return
    async_class = redis.asyncio.UnixDomainSocketConnection if own else AsyncUnnoticedReplyConnection
    async_pool = redis.asyncio.ConnectionPool(connection_class=async_class, path=socket, **options)
    async_client = redis.asyncio.Redis(connection_pool=async_pool, single_connection_client=single)
    loop.run_until_complete(async_client.ping())  # so that the connection of a single-connection client is there
    shared = SharedClient(kind, async_client, loop, transport, [])
    yield shared
    shared.close_engines()
    loop.run_until_complete(async_client.aclose())
    loop.run_until_complete(async_pool.disconnect())


def replies_with(error: str) -> Command:
    """A command to which the server replies with this error."""
    return "EVAL", "return redis.error_reply(ARGV[1])", "0", error


def replies_like(*reply: str) -> Command:
    """A command to which the server replies with this list of texts."""
    return "EVAL", "return ARGV", "0", *reply


# --- What two calls on like vouchers have in common ------------------------------------------------------------------

_TIMES: Final = {"expires_at", "remaining_ms", "redeemed_at", "rolled_back_at", "retry_after_ms"}
_GENERATED: Final = re.compile("(ssn|rdm)_[A-Za-z0-9]{32}")


def facts(outcome: Any) -> Any:
    """All of a result or an error but its times and generated texts."""
    if isinstance(outcome, NotDurable):
        return type(outcome), outcome.verb, outcome.problem, facts(outcome.result)
    if isinstance(outcome, Exception):
        return type(outcome), re.sub(r"in \d+ ms", "in … ms", _GENERATED.sub("…", str(outcome)))
    if isinstance(outcome, BaseModel):
        return facts(dict(outcome))
    if isinstance(outcome, dict):
        return {name: facts(value) for name, value in outcome.items() if name not in _TIMES}
    if isinstance(outcome, list | tuple):
        return list(map(facts, outcome))
    return _GENERATED.sub("…", outcome) if isinstance(outcome, str) else outcome


def outcome_of(call: Any, engine: Any) -> Any:
    """The result of a call, or the error of this library that it raises."""
    try:
        return call(engine)
    except VoucherSessionsError as error:
        return error


def is_one_closed(admin: redis.Redis, *numbers: int) -> bool:
    """Whether the server has closed at least one of these connections."""
    connected: Any = admin.client_list()
    return not set(numbers) <= {int(each["id"]) for each in connected}

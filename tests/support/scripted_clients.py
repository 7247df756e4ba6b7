"""Clients that return given replies instead of asking a server, and clients through which an engine sends its calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import redis
import redis.asyncio

SCRIPTS: Final = {"EVAL", "EVALSHA"}
NO_REPLY_LEFT: Final = [b"no reply is left"]


def call_id_of(command: Sequence[Any]) -> bytes:
    """The call id of a command that runs a script: its first argument."""
    call_id: str = command[3 + int(command[2])]
    return call_id.encode()


class ScriptedClient:
    """A client that returns the given replies, one for each command, and keeps the commands in ``sent``.

    A list is what a script's reply has behind the call id of its command. An exception is raised; the last one again
    and again. ECHO works.
    """

    def __init__(self, *replies: Any) -> None:
        self._replies = list(replies)
        self.sent: list[tuple[Any, ...]] = []

    def reply(self, command: tuple[Any, ...]) -> Any:
        self.sent.append(command)
        if command[0] == "ECHO":
            return command[1].encode()
        reply = self._replies.pop(0) if self._replies else NO_REPLY_LEFT
        if isinstance(reply, BaseException) and not isinstance(reply, Exception):
            raise reply  # also in a pipeline
        if isinstance(reply, Exception) and not self._replies:
            self._replies = [reply]
        return [call_id_of(command), *reply] if command[0] in SCRIPTS and type(reply) is list else reply

    def execute_command(self, *command: Any, **_: Any) -> Any:
        reply = self.reply(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, **_: Any) -> ScriptedPipeline:
        return ScriptedPipeline(self)


class ScriptedPipeline:
    """The replies to several commands of a ``ScriptedClient``, with their errors."""

    def __init__(self, client: ScriptedClient) -> None:
        self._client = client
        self._commands: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def execute_command(self, *command: Any, **_: Any) -> None:
        self._commands.append(command)

    def execute(self, **_: Any) -> Any:
        return list(map(self._client.reply, self._commands))


class AsyncScriptedClient(ScriptedClient):
    """The same for asyncio."""

    async def execute_command(self, *command: Any, **_: Any) -> Any:
        return super().execute_command(*command)

    def pipeline(self, **_: Any) -> Any:
        return AsyncScriptedPipeline(self)


class AsyncScriptedPipeline(ScriptedPipeline):
    """The same for asyncio."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def execute(self, **_: Any) -> Any:
        return super().execute()


# --- Clients of real servers ---------------------------------------------------------------------------------------


class ThroughClient(redis.Redis):
    """A class of an application's that stands in for ``execute_command``: an engine opens no connections of its own."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return redis.Redis.execute_command(self, *args, **options)


class AsyncThroughClient(redis.asyncio.Redis):
    """The same for asyncio."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await redis.asyncio.Redis.execute_command(self, *args, **options)


class ThroughClusterClient(redis.RedisCluster):
    """The same of a cluster."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return redis.RedisCluster.execute_command(self, *args, **options)


class AsyncThroughClusterClient(redis.asyncio.RedisCluster):
    """The same of a cluster, for asyncio."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await super().execute_command(*args, **options)


TRANSPORTS: Final = ("own connections", "client")


def client_class(kind: str, transport: str) -> Any:
    """The class of a client, ``sync`` or ``async``, whose engine uses connections of its own, or the client alone."""
    if kind == "sync":
        return ThroughClient if transport == "client" else redis.Redis
    return AsyncThroughClient if transport == "client" else redis.asyncio.Redis

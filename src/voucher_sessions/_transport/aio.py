"""How calls travel over a client of redis.asyncio: the sync sender's ways, awaited."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from redis.asyncio.cluster import PipelineCommand
from redis.exceptions import AskError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from voucher_sessions._core import batch, confirmation
from voucher_sessions._core.call import Again, Arg, Call, Patience
from voucher_sessions._core.server_check import Answer
from voucher_sessions._transport import clients
from voucher_sessions.errors import CLIENT_ERRORS, InvalidRequest
from voucher_sessions.models import Durability

T = TypeVar("T")


class AsyncTransport:
    """Sends the calls of one engine. ``agreement`` is the call that goes before all others, if there is one."""

    def __init__(self, client: Any, durability: Durability | None, agreement: Call[None] | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._patience_seconds = clients.patience_seconds(client)
        self._durability = durability
        self._agreement = agreement
        self._process: int | None = None  # in which it was first used

    async def run(self, call: Call[T]) -> T:
        """The result of a call; raises what its failure means."""
        await self._agree()
        return await self._answer(call)

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that travel together, the exceptions of those that failed in their places."""
        await self._agree()
        outcomes: list[Any] = [batch.ALONE] * len(calls)
        for places in await self._by_node(calls):
            together = [calls[at] for at in places]
            try:
                commands = batch.commands(together, self._durability)
                replies = await self._send_together(together[0].keys[0], commands)
            except CLIENT_ERRORS as error:
                replies = [error] * len(together)
            for at, outcome in zip(places, batch.settle(together, replies, self._durability), strict=True):
                outcomes[at] = outcome
        for at, call in enumerate(calls):
            if outcomes[at] is batch.ALONE:
                outcomes[at] = await self._answer_alone(call)
        return outcomes

    async def ask(self, question: tuple[Arg, ...], options: dict[str, Any]) -> Answer:
        """What one server says to a question, or why it does not."""
        asked_at = time.time()
        try:
            said = await self._client.execute_command(*question, NEVER_DECODE=True, **options)
        except ResponseError as error:
            said = error
        return Answer(said, asked_at, time.time())

    async def _agree(self) -> None:
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise InvalidRequest("client", "has connections of the parent's: make a new client after a fork")
        if self._agreement is not None:
            await self._answer(self._agreement)
            self._agreement = None

    async def _answer(self, call: Call[T]) -> T:
        """Send a call until it is answered: once, but for the moments of a mass expiry, a failover, a resharding."""
        patience: Patience | None = None
        while True:
            try:
                reply, *confirmations = await self._evaluate(call)
            except CLIENT_ERRORS as error:
                patience = patience or Patience(self._patience_seconds)
                await asyncio.sleep(call.pause_after(error, patience))
                continue
            try:
                result = call.result(reply)
            except Again:
                continue
            return confirmation.confirmed(self._durability, call, result, confirmations)

    async def _answer_alone(self, call: Call[Any]) -> Any:
        try:
            return await self._answer(call)
        except Exception as error:
            return error

    async def _evaluate(self, call: Call[T]) -> list[Any]:
        numbered = len(call.keys), *call.keys, *call.args
        try:
            return await self._send(call, "EVALSHA", call.script.sha, *numbered)
        except NoScriptError:  # a restart, SCRIPT FLUSH, a new replica: EVAL loads it again
            return await self._send(call, "EVAL", call.script.text, *numbered)

    async def _send(self, call: Call[T], *command: Arg) -> list[Any]:
        """The script's reply, and what the server says of its durability.

        Undecoded, whatever the host's client does: codes and keys are bytes here, and never somebody's encoding.
        """
        if self._durability is None or not call.changes:
            try:
                return [await self._client.execute_command(*command, NEVER_DECODE=True)]
            except (AttributeError, RuntimeError) as error:
                # When a cluster is down, redis-py closes its connections; a task about to write to one fails like this.
                # And so does a connection of another event loop.
                raise RedisConnectionError("the connection was closed, or is of another event loop") from error
        replies = await self._send_together(
            call.keys[0], [command, *confirmation.commands(self._durability, call.keys[0])]
        )
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    async def _by_node(self, calls: Sequence[Call[Any]]) -> list[list[int]]:
        """The places of the calls that travel together: all of them, or on a cluster those of each node."""
        if not self._clustered:
            return [list(range(len(calls)))] if calls else []
        try:
            await self._client.initialize()
            return batch.grouped(self._client.get_node_from_key(call.keys[0]).name for call in calls)
        except CLIENT_ERRORS:  # a slot without a node: it may have one when the call is sent by itself
            return []

    async def _send_together(self, key: bytes, commands: Iterable[tuple[Arg, ...]]) -> list[Any]:
        """The replies, and errors, to commands that go over one connection, on a cluster to the node of the key."""
        try:
            if self._clustered:
                replies = await self._send_to_node(key, commands)
            else:
                async with self._client.pipeline(transaction=False) as pipeline:
                    for command in commands:
                        pipeline.execute_command(*command, NEVER_DECODE=True)
                    replies = await pipeline.execute(raise_on_error=False)
        except CLIENT_ERRORS:
            await self._look_again()
            raise
        if any(isinstance(reply, AskError | RedisConnectionError) for reply in replies):
            await self._look_again()
        return replies

    async def _send_to_node(self, key: bytes, commands: Iterable[tuple[Arg, ...]]) -> list[Any]:
        await self._client.initialize()
        batch = [PipelineCommand(at, *command, NEVER_DECODE=True) for at, command in enumerate(commands)]
        await self._client.get_node_from_key(key).execute_pipeline(batch)
        return [command.result for command in batch]

    async def _look_again(self) -> None:
        """Have a cluster's client ask who serves what, which it does by itself for single commands only."""
        if self._clustered:
            await self._client.nodes_manager.initialize()

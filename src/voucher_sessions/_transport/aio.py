"""Sends calls and batches over a client of redis.asyncio; the counterpart of ``sync.py``."""

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
from voucher_sessions._core.call import Arg, Call, CallAgain, RetryPeriod
from voucher_sessions._core.server_check import Answer
from voucher_sessions._transport import clients
from voucher_sessions.errors import CLIENT_ERRORS, InvalidRequest
from voucher_sessions.models import Durability

T = TypeVar("T")


class AsyncTransport:
    """Sends the calls of one engine. ``first_call``, if any, is sent before all others."""

    def __init__(self, client: Any, durability: Durability | None, first_call: Call[None] | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._retry_seconds = clients.retry_period_seconds(client)
        self._durability = durability
        self._first_call = first_call
        self._process: int | None = None  # the id of the process that first used it

    async def run(self, call: Call[T]) -> T:
        """The result of a call; raises the error of its refusal or failure."""
        await self._prepare()
        return await self._answer(call)

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that are sent together; for a call that failed, its exception."""
        await self._prepare()
        outcomes: list[Any] = [batch.SEND_ALONE] * len(calls)
        for positions in await self._by_node(calls):
            together = [calls[at] for at in positions]
            try:
                commands = batch.commands(together, self._durability)
                replies = await self._send_together(together[0].keys[0], commands)
            except CLIENT_ERRORS as error:
                replies = [error] * len(together)
            for at, outcome in zip(positions, batch.outcomes(together, replies, self._durability), strict=True):
                outcomes[at] = outcome
        for at, call in enumerate(calls):
            if outcomes[at] is batch.SEND_ALONE:
                outcomes[at] = await self._answer_alone(call)
        return outcomes

    async def ask(self, question: tuple[Arg, ...], options: dict[str, Any]) -> Answer:
        """The answer of one server to a command of ``check_server``."""
        asked_at = time.time()
        try:
            reply = await self._client.execute_command(*question, NEVER_DECODE=True, **options)
        except ResponseError as error:
            reply = error
        return Answer(reply, asked_at, time.time())

    async def _prepare(self) -> None:
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise InvalidRequest(
                "client",
                "was used before a fork, and its connections belong to the parent process: make a new client and a new "
                "engine in the child",
            )
        if self._first_call is not None:
            await self._answer(self._first_call)
            self._first_call = None

    async def _answer(self, call: Call[T]) -> T:
        """Send a call until it has a result.

        Once is enough, unless very many locks have expired, or a failover or the move of a slot is under way.
        """
        retry_period: RetryPeriod | None = None
        while True:
            try:
                reply, *confirmations = await self._evaluate(call)
            except CLIENT_ERRORS as error:
                retry_period = retry_period or RetryPeriod(self._retry_seconds)
                await asyncio.sleep(call.pause_before_retry(error, retry_period))
                continue
            try:
                result = call.result(reply)
            except CallAgain:
                continue
            return confirmation.confirmed(self._durability, call, result, confirmations)

    async def _answer_alone(self, call: Call[Any]) -> Any:
        try:
            return await self._answer(call)
        except Exception as error:
            return error

    async def _evaluate(self, call: Call[T]) -> list[Any]:
        try:
            return await self._send(call, call.evalsha_command())
        except NoScriptError:  # after a restart, SCRIPT FLUSH or a failover; EVAL loads the script
            return await self._send(call, call.eval_command())

    async def _send(self, call: Call[T], command: tuple[Arg, ...]) -> list[Any]:
        """The script's reply, and the replies to the commands that confirm durability, if they are sent.

        Replies are not decoded, whatever the client's ``decode_responses`` is: the readers take bytes.
        """
        if self._durability is None or not call.changes:
            try:
                return [await self._client.execute_command(*command, NEVER_DECODE=True)]
            except (AttributeError, RuntimeError) as error:
                # redis-py raises these if another task has closed the connection because the cluster is down, and if
                # the connection belongs to another event loop.
                raise RedisConnectionError("the connection was closed, or is of another event loop") from error
        replies = await self._send_together(
            call.keys[0], [command, *confirmation.commands(self._durability, call.keys[0])]
        )
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    async def _by_node(self, calls: Sequence[Call[Any]]) -> list[list[int]]:
        """The positions of the calls that are sent together: all of them; on a cluster, one list per node."""
        if not self._clustered:
            return [list(range(len(calls)))] if calls else []
        try:
            await self._client.initialize()
            return batch.group_by_node(self._client.get_node_from_key(call.keys[0]).name for call in calls)
        except CLIENT_ERRORS:  # a slot has no node at the moment; each call is then sent alone, and retried
            return []

    async def _send_together(self, key: bytes, commands: Iterable[tuple[Arg, ...]]) -> list[Any]:
        """Send commands over one connection, on a cluster to the node of the key; their replies, errors included."""
        try:
            if self._clustered:
                replies = await self._send_to_node(key, commands)
            else:
                async with self._client.pipeline(transaction=False) as pipeline:
                    for command in commands:
                        pipeline.execute_command(*command, NEVER_DECODE=True)
                    replies = await pipeline.execute(raise_on_error=False)
        except CLIENT_ERRORS:
            await self._refresh_slots()
            raise
        if any(isinstance(reply, AskError | RedisConnectionError) for reply in replies):
            await self._refresh_slots()
        return replies

    async def _send_to_node(self, key: bytes, commands: Iterable[tuple[Arg, ...]]) -> list[Any]:
        await self._client.initialize()
        pipeline = [PipelineCommand(at, *command, NEVER_DECODE=True) for at, command in enumerate(commands)]
        await self._client.get_node_from_key(key).execute_pipeline(pipeline)
        return [command.result for command in pipeline]

    async def _refresh_slots(self) -> None:
        """Make a cluster client read the slot table again. By itself it does so only after errors of single commands."""
        if self._clustered:
            await self._client.nodes_manager.initialize()

"""Sends calls through a client of redis.asyncio; the counterpart of ``sync_client.py``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from redis.asyncio.cluster import PipelineCommand
from redis.crc import key_slot
from redis.exceptions import AskError, ResponseError, SlotNotCoveredError
from redis.exceptions import ConnectionError as RedisConnectionError

from voucher_sessions._core import batch, client_errors, confirmation
from voucher_sessions._core.call import Arg, Call, sent_by_a_client
from voucher_sessions._core.client_errors import OutOfStep, Unproven
from voucher_sessions._transport import clients
from voucher_sessions._transport.closed_connections import closed_connection
from voucher_sessions.errors import CLIENT_ERRORS
from voucher_sessions.models import Durability

T = TypeVar("T")


class AsyncClientSender:
    """Sends commands through the client that the application gave, for one server or a cluster."""

    def __init__(self, client: Any, durability: Durability | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._durability = durability

    async def reconnect(self) -> None:
        """Close the idle connections, so that what is sent next goes over new ones, which are in step."""
        await clients.disconnect_async(self._client)

    def calls_of_closed_loops(self) -> list[Call[Any]]:
        """None are known: the client has them."""
        return []

    def retry(self) -> None:
        """None: the client repeats what has failed by itself."""

    async def close(self) -> None:
        """Nothing to close: all connections are the client's."""

    async def ping(self) -> None:
        """Ask every server to answer; raises the client's error if one does not."""
        if self._clustered:
            await self._client.initialize()
        for node in clients.primaries(self._client):
            await self._client.execute_command("PING", **node.options)

    async def evaluate(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The script's reply, and the replies to the commands that confirm durability, if they are sent.

        If ECHO does not work, an error counts once the connection is a new one (``reconnected``).
        """
        with sent_by_a_client([call], clustered=self._clustered):
            return await self._evaluate(call, reconnected=reconnected)

    async def send_batch(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The replies to the commands of a batch, errors included."""
        with sent_by_a_client(calls):
            replies = await self._send_together(calls[0].keys[0], batch.commands(calls, self._durability))
        if batch.is_out_of_step(calls, replies):
            await clients.disconnect_async(self._client)
        return replies

    async def _evaluate(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The replies.

        A server that does not have the script (after a restart, SCRIPT FLUSH or a failover) replies with an error, and
        EVAL loads it; on a cluster that EVAL is sent alone, so that the client can follow a slot that is moving. Any
        other error might be the reply to another command, since it does not begin with the call id. So the call is
        sent again with ECHO behind it, which shows whether the connection is in step.
        A script that has ended with an error is not run again: ECHO alone proves that error.
        """
        try:
            return await self._send(call, call.evalsha_command())
        except CLIENT_ERRORS as error:
            unproven: Exception = error
        if self._clustered and client_errors.is_unknown_script(unproven):
            try:  # alone: so the client follows the slot of the call, should it be moving
                return await self._send(call, call.eval_command())
            except CLIENT_ERRORS as error:
                unproven = error
        if client_errors.is_proven_by_itself(unproven):
            raise unproven
        if client_errors.is_inside_a_script(unproven):
            try:
                await self._prove_in_step(call)
            except CLIENT_ERRORS as error:
                if not isinstance(error, OutOfStep):
                    client_errors.raise_if_ended_half_way([unproven], error)
                raise
            raise unproven
        replies = await self._evaluate_with_proof(call, reconnected=reconnected)
        if isinstance(replies[0], AskError):  # its slot is moving: the error came from the server that now serves it
            raise unproven
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    async def _prove_in_step(self, call: Call[T]) -> None:
        """Raise ``OutOfStep`` if the connection that was used last gives another reply to ECHO than the call's id."""
        echo: object
        try:
            if clients.is_one_connection(self._client):
                echo = await self._client.execute_command("ECHO", call.id, NEVER_DECODE=True)
            else:
                (echo,) = await self._send_together(call.keys[0], [("ECHO", call.id)])
        except ResponseError as error:
            echo = error
        if not (client_errors.proves_in_step(call.id, echo) or client_errors.is_echo_forbidden(echo)):
            raise OutOfStep("ECHO got the reply to another command")

    async def _evaluate_with_proof(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The replies, errors included, once it is proven that they are those to this call."""
        if clients.is_one_connection(self._client):  # then pipelines use another, and this one may be out of step
            await clients.disconnect_async(self._client)
        checked = [call.eval_command(), *confirmation.commands_behind(call, self._durability), ("ECHO", call.id)]
        try:
            *replies, echo = await self._send_together(call.keys[0], checked)
        except CLIENT_ERRORS as error:
            if client_errors.is_refused_login(error) and not reconnected:
                raise Unproven("a refused login can be the reply to another command") from error
            raise
        if not call.check_in_step(replies, echo, reconnected=reconnected):
            await clients.disconnect_async(self._client)
        return list(replies)

    async def _send(self, call: Call[T], command: tuple[Arg, ...]) -> list[Any]:
        """Replies are not decoded, whatever the client's ``decode_responses`` is: the readers take bytes."""
        commands = [command, *confirmation.commands_behind(call, self._durability)]
        if len(commands) == 1:
            try:
                return [await self._client.execute_command(*command, NEVER_DECODE=True)]
            except KeyError as error:
                slot = key_slot(call.keys[0])
                if self._clustered and error.args == (slot,):  # redis-py (6.0 to 8.1) looks it up in its slot table
                    raise SlotNotCoveredError(f"slot {slot} has no node") from None
                raise
            except (AttributeError, RuntimeError, RedisConnectionError) as error:
                if lost := closed_connection(error):
                    raise lost from error
                raise
        replies = await self._send_together(call.keys[0], commands)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

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
        except (AttributeError, RuntimeError, *CLIENT_ERRORS) as error:
            lost = closed_connection(error)
            if lost or isinstance(error, CLIENT_ERRORS):
                await clients.refresh_slots_async(self._client)
            if lost:
                raise lost from error
            raise
        if any(isinstance(reply, AskError | RedisConnectionError) for reply in replies):
            await clients.refresh_slots_async(self._client)
        return replies

    async def _send_to_node(self, key: bytes, commands: Iterable[tuple[Arg, ...]]) -> list[Any]:
        await self._client.initialize()
        pipeline = [PipelineCommand(at, *command, NEVER_DECODE=True) for at, command in enumerate(commands)]
        await self._client.get_node_from_key(key).execute_pipeline(pipeline)
        # A reply to one command can be any error that was raised while it was read.
        return [closed_connection(each.result) or each.result for each in pipeline]

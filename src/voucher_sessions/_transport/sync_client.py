"""Sends calls through a sync client of redis-py, which repeats them by itself and follows the slots of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import AskError, ResponseError

from voucher_sessions._core import batch, client_errors, confirmation
from voucher_sessions._core.call import Arg, Call, sent_by_a_client
from voucher_sessions._core.client_errors import OutOfStep, Unproven
from voucher_sessions._transport import clients
from voucher_sessions._transport.client_kinds import check_reply
from voucher_sessions._transport.closed_connections import is_of_interrupted_opening
from voucher_sessions._transport.numbers_as_text import send_numbers_as_text
from voucher_sessions.errors import CLIENT_ERRORS, InvalidRequest
from voucher_sessions.models import Durability

T = TypeVar("T")


class ClientSender:
    """Sends commands through the client that the application gave, for one server or a cluster."""

    def __init__(self, client: Any, durability: Durability | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._durability = durability
        for node in clients.nodes(client):
            send_numbers_as_text(node)
        # Only for a client with one connection: after a fork, parent and child would read each other's replies from it.
        self._process = os.getpid() if clients.is_one_connection(client) else None

    def check_process(self) -> None:
        """Raise ``InvalidRequest`` if the client has a single connection, and was made before a fork."""
        if self._process is not None and self._process != os.getpid():
            raise InvalidRequest(
                "client",
                "was opened before a fork, and its only connection belongs to the parent process: make a new client and "
                "a new engine in the child",
            )

    def reconnect(self) -> None:
        """Close the idle connections, so that what is sent next goes over new ones, which are in step."""
        clients.disconnect(self._client)

    def retry(self) -> None:
        """None: the client repeats what has failed by itself."""

    def close(self) -> None:
        """Nothing to close: all connections are the client's."""

    def after_interruption(self) -> None:
        """Close the idle connections. redis-py keeps one whose call was interrupted, although a reply may be left in it."""
        with suppress(Exception):  # it must not replace the exception that is being raised
            clients.disconnect(self._client)

    def ping(self) -> None:
        """Ask every server to answer; raises the client's error if one does not."""
        for node in clients.primaries(self._client):
            check_reply(self._client.execute_command("PING", **node.options))

    def evaluate(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The script's reply, and the replies to the commands that confirm durability, if they are sent.

        If ECHO does not work, an error counts once the connection is a new one (``reconnected``).
        """
        with sent_by_a_client([call], clustered=self._clustered):
            return self._evaluate(call, reconnected=reconnected)

    def send_batch(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The replies to the commands of a batch, errors included."""
        with sent_by_a_client(calls):
            replies = self._send_together(calls[0].keys[0], batch.commands(calls, self._durability))
        if batch.is_out_of_step(calls, replies):
            clients.disconnect(self._client)
        return replies

    def _evaluate(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The replies.

        A server that does not have the script (after a restart, SCRIPT FLUSH or a failover) replies with an error, and
        EVAL loads it; on a cluster that EVAL is sent alone, so that the client can follow a slot that is moving. Any
        other error might be the reply to another command, since it does not begin with the call id. So the call is
        sent again with ECHO behind it, which shows whether the connection is in step.
        A script that has ended with an error is not run again: ECHO alone proves that error.
        """
        try:
            return self._send(call, call.evalsha_command())
        except CLIENT_ERRORS as error:
            unproven: Exception = error
        if self._clustered and client_errors.is_unknown_script(unproven):
            try:  # alone: so the client follows the slot of the call, should it be moving
                return self._send(call, call.eval_command())
            except CLIENT_ERRORS as error:
                unproven = error
        if client_errors.is_proven_by_itself(unproven):
            raise unproven
        if client_errors.is_inside_a_script(unproven):
            try:
                self._prove_in_step(call)
            except CLIENT_ERRORS as error:
                if not isinstance(error, OutOfStep):
                    client_errors.raise_if_ended_half_way([unproven], error)
                raise
            raise unproven
        replies = self._evaluate_with_proof(call, reconnected=reconnected)
        if isinstance(replies[0], AskError):  # its slot is moving: the error came from the server that now serves it
            raise unproven
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    def _prove_in_step(self, call: Call[T]) -> None:
        """Raise ``OutOfStep`` if the connection that was used last gives another reply to ECHO than the call's id."""
        echo: object
        try:
            if clients.is_one_connection(self._client):
                echo = self._client.execute_command("ECHO", call.id, NEVER_DECODE=True)
            else:
                (echo,) = self._send_together(call.keys[0], [("ECHO", call.id)])
        except ResponseError as error:
            echo = error
        if not (client_errors.proves_in_step(call.id, echo) or client_errors.is_echo_forbidden(echo)):
            raise OutOfStep("ECHO got the reply to another command")

    def _evaluate_with_proof(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The replies, errors included, once it is proven that they are those to this call."""
        if clients.is_one_connection(self._client):  # then pipelines use another, and this one may be out of step
            clients.disconnect(self._client)
        checked = [call.eval_command(), *confirmation.commands_behind(call, self._durability), ("ECHO", call.id)]
        try:
            *replies, echo = self._send_together(call.keys[0], checked)
        except CLIENT_ERRORS as error:
            if client_errors.is_refused_login(error) and not reconnected:
                raise Unproven("a refused login can be the reply to another command") from error
            raise
        if not call.check_in_step(replies, echo, reconnected=reconnected):
            clients.disconnect(self._client)
        return list(replies)

    def _send(self, call: Call[T], command: tuple[Arg, ...]) -> list[Any]:
        """Replies are not decoded, whatever the client's ``decode_responses`` is: the readers take bytes."""
        commands = [command, *confirmation.commands_behind(call, self._durability)]
        if len(commands) == 1:
            try:
                return [check_reply(self._client.execute_command(*command, NEVER_DECODE=True))]
            except AttributeError as error:
                if is_of_interrupted_opening(error):
                    raise OutOfStep("the opening of the connection was interrupted") from error
                raise
        replies = self._send_together(call.keys[0], commands)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    def _send_together(self, key: bytes, commands: Iterable[tuple[Arg, ...]]) -> list[Any]:
        """Send commands over one connection, on a cluster to the node of the key; their replies, errors included."""
        try:
            node = self._client
            if self._clustered:
                node = node.get_redis_connection(node.get_node_from_key(key))
            with node.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command, NEVER_DECODE=True)
                replies: list[Any] = pipeline.execute(raise_on_error=False)
        except CLIENT_ERRORS:
            clients.refresh_slots(self._client)
            raise
        except AttributeError as error:
            if is_of_interrupted_opening(error):
                raise OutOfStep("the opening of the connection was interrupted") from error
            raise
        if any(isinstance(reply, AskError) for reply in replies):
            clients.refresh_slots(self._client)
        return replies

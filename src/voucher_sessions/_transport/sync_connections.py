"""Sends calls over connections of the engine's own; on a cluster, calls whose slot is moving go through the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from redis.exceptions import AskError

from voucher_sessions._core import batch, client_errors, confirmation
from voucher_sessions._core.call import Arg, Call
from voucher_sessions._transport import clients, own_connections
from voucher_sessions._transport.connection_stack import ConnectionStack, exchange
from voucher_sessions._transport.sync_client import ClientSender
from voucher_sessions.errors import CLIENT_ERRORS
from voucher_sessions.models import Durability

T = TypeVar("T")


class ConnectionSender:
    """Sends commands to one server, or to the nodes of a cluster, over one stack of connections for each."""

    def __init__(self, client: Any, durability: Durability | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._durability = durability
        self._through_client = ClientSender(client, durability)
        self._stacks: dict[str, ConnectionStack] = {}  # by the name of the node
        self._only = None if self._clustered else ConnectionStack(client.connection_pool)

    def check_process(self) -> None:
        """Nothing to check: after a fork, a stack opens new connections."""

    def reconnect(self) -> None:
        """Close the idle connections, so that what is sent next goes over new ones, which are in step."""
        if self._clustered:
            self._through_client.reconnect()
        for stack in self._all_stacks():
            stack.renew()

    def after_interruption(self) -> None:
        """Close the idle connections of a cluster's client: one may have an unread reply.

        The engine's own connection was closed when the call was interrupted.
        """
        if self._clustered:
            self._through_client.after_interruption()

    def close(self) -> None:
        """Close the idle connections now, and the others when they are put back."""
        for stack in self._all_stacks():
            stack.end()

    def _all_stacks(self) -> list[ConnectionStack]:
        return [self._only] if self._only else list(self._stacks.values())

    def retry(self) -> Any:
        """The ``Retry`` of the client, as it is set now."""
        return own_connections.retry_of(self._client.connection_pool)

    def ping(self) -> None:
        """Ask every server to answer; raises its error, or the client's if it does not."""
        if self._only is None:
            self._through_client.ping()
            return
        (reply,) = self._exchanged(self._only, (), [("PING",)])
        if isinstance(reply, Exception):
            raise reply

    def evaluate(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The script's reply, and the replies to the commands that confirm durability, if they are sent.

        A server that does not have the script replies with an error, and EVAL loads it. Any other error does not begin
        with the call id, so the reply to ECHO must prove that the connection is in step; if ECHO does not work, the
        error counts only on a new connection (``reconnected``).
        """
        if self._only is None:
            return self._evaluate_on_cluster(call, reconnected=reconnected)
        return self._evaluate(self._only, call, reconnected=reconnected)

    def _evaluate_on_cluster(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """As ``_evaluate``. A call whose slot is moving goes through the client, which follows the slot.

        If a node does not answer, the client reads the slot table again.
        """
        try:
            stack = self._stack_of(call.keys[0])
            if stack is None:
                return self._through_client.evaluate(call, reconnected=reconnected)
            return self._evaluate(stack, call, reconnected=reconnected)
        except CLIENT_ERRORS as error:
            if isinstance(error, AskError):  # MovedError is a subclass
                clients.check_knows_target(self._client, error)
                return self._through_client.evaluate(call, reconnected=reconnected)
            if client_errors.is_transient(error):
                clients.refresh_slots(self._client)
            raise

    def _evaluate(self, stack: ConnectionStack, call: Call[T], *, reconnected: bool) -> list[Any]:
        confirming = confirmation.commands_behind(call, self._durability)
        connection = stack.take()
        in_step = True
        try:
            replies = exchange(connection, (call,), (call.evalsha_command(), *confirming))
            if isinstance(replies[0], Exception) and client_errors.is_unknown_script(replies[0]):
                # If that was the reply to another command, the next one is the reply to the first try, not to EVAL.
                *replies, echo = exchange(connection, (call,), (call.eval_command(), *confirming, ("ECHO", call.id)))
                in_step = client_errors.proves_in_step(call.id, echo) or client_errors.is_echo_forbidden(echo)
            if isinstance(replies[0], Exception):
                _prove_in_step(connection, call, replies[0], reconnected=reconnected)
            elif not call.is_own(replies[0]):
                raise client_errors.OutOfStep(f"{call.verb}: the connection gave the reply to another command")
        except BaseException:
            stack.close(connection)
            raise
        if in_step:
            stack.put_back(connection)
        else:
            stack.close(connection)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    def send_batch(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The replies to the commands of a batch, errors included. All calls have the same node.

        Raises the error of a server that is loading its data, as a client's pipeline does.
        """
        stack = self._only or self._stack_of(calls[0].keys[0])
        if stack is None:
            return self._through_client.send_batch(calls)
        try:
            replies = self._exchanged(stack, calls, list(batch.commands(calls, self._durability)))
            batch.raise_if_loading(calls, replies)
        except CLIENT_ERRORS as error:
            if client_errors.is_transient(error):
                clients.refresh_slots(self._client)
            raise
        if any(isinstance(reply, AskError) for reply in replies):
            clients.refresh_slots(self._client)
        return replies

    def _exchanged(
        self, stack: ConnectionStack, calls: Sequence[Call[Any]], commands: Sequence[tuple[Arg, ...]]
    ) -> list[Any]:
        """The replies to commands, errors included. The connection stays open if they are in step."""
        connection = stack.take()
        try:
            replies = exchange(connection, calls, commands)
        except BaseException:
            stack.close(connection)
            raise
        if calls and batch.is_out_of_step(calls, replies):
            stack.close(connection)
        else:
            stack.put_back(connection)
        return replies

    def _stack_of(self, key: bytes) -> ConnectionStack | None:
        """The stack of the node that serves a key. None if the node's pool or connections are not redis-py's own: the
        client sends the call then.
        """
        node = self._client.get_node_from_key(key)
        if node.name not in self._stacks:
            pool = self._client.get_redis_connection(node).connection_pool
            if not own_connections.is_pool_of_redis_py(pool):
                return None
            self._stacks.setdefault(node.name, ConnectionStack(pool))
        return self._stacks[node.name]


def _prove_in_step(connection: Any, call: Call[T], reply: Exception, *, reconnected: bool) -> None:
    """Raise ``OutOfStep`` if ``reply`` may be the one to another command: then the call may have run."""
    try:
        (echo,) = exchange(connection, (), [("ECHO", call.id)])
        call.check_in_step([reply], echo, reconnected=reconnected)
    except client_errors.Unproven:
        raise
    except BaseException as error:
        call.may_have_run = True
        if not isinstance(error, client_errors.OutOfStep):
            client_errors.raise_if_ended_half_way([reply], error)
        raise

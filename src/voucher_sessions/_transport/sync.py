"""Sends calls and batches over a sync client of redis-py, with retries and with confirmation of durability."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import AskError, ResponseError

from voucher_sessions._core import batch, client_errors, confirmation
from voucher_sessions._core.call import (
    FIRST_CALL_PAUSE_FACTOR,
    FIRST_CALL_PAUSE_SECONDS,
    Arg,
    Call,
    CallAgain,
    RetryPeriod,
)
from voucher_sessions._core.client_errors import MAX_OUT_OF_STEP, OutOfStep
from voucher_sessions._core.server_check import Answer
from voucher_sessions._transport import clients
from voucher_sessions._transport.closed_connections import is_of_interrupted_opening
from voucher_sessions._transport.numbers_as_text import send_numbers_as_text
from voucher_sessions.errors import CLIENT_ERRORS, InvalidRequest, ServerRefused, VoucherSessionsError
from voucher_sessions.models import Durability

S = TypeVar("S")
T = TypeVar("T")


class SyncTransport:
    """Sends the calls of one engine. ``first_call``, if any, is sent before all others."""

    def __init__(self, client: Any, durability: Durability | None, first_call: Call[None] | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._retry_seconds = clients.retry_period_seconds(client)
        self._durability = durability
        self._first_call = first_call
        self._first_call_due_at = 0.0
        for node in clients.nodes(client):
            send_numbers_as_text(node)
        # Only for a client with one connection: after a fork, parent and child would read each other's replies from it.
        self._process = os.getpid() if clients.is_one_connection(client) else None

    def run(self, call: Call[T]) -> T:
        """The result of a call; raises the error of its refusal or failure."""
        return self._send_guarded(self._result_of, call, [call])

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that are sent together; for a call that failed, its exception."""
        return self._send_guarded(self._results_of, calls, calls)

    def _send_guarded(self, send: Callable[[S], T], argument: S, calls: Sequence[Call[Any]]) -> T:
        """The result of ``send``. If a signal handler raises in the meantime, connections are closed.

        redis-py keeps such a connection, although it may hold a reply that was not read.
        """
        try:
            self._prepare(calls)
            return send(argument)
        except (VoucherSessionsError, *CLIENT_ERRORS):
            raise
        except BaseException:
            with suppress(Exception):  # it must not replace the exception that is being raised
                clients.disconnect(self._client)
            raise

    def _results_of(self, calls: Sequence[Call[Any]]) -> list[Any]:
        outcomes: list[Any] = [batch.SEND_ALONE] * len(calls)
        retry_period = RetryPeriod(self._retry_seconds)  # of all calls together
        for positions in self._by_node(calls):
            for part in batch.split([calls[at] for at in positions]):
                places = [positions[at] for at in part]
                outcomes_of_part = self._outcomes([calls[at] for at in places])
                for at, outcome in zip(places, outcomes_of_part, strict=True):
                    again = outcome is batch.SEND_ALONE  # before the next part, whose calls come after it
                    outcomes[at] = self._outcome_of(calls[at], retry_period) if again else outcome
        for at, call in enumerate(calls):
            if outcomes[at] is batch.SEND_ALONE:
                outcomes[at] = self._outcome_of(call, retry_period)
        return outcomes

    def _outcomes(self, together: Sequence[Call[Any]]) -> list[Any]:
        """The outcomes of calls that are sent in one batch, to one node."""
        try:
            commands = batch.commands(together, self._durability)
            replies = self._send_together(together[0].keys[0], commands)
        except CLIENT_ERRORS as error:
            replies = [error] * len(together)
        outcomes = batch.outcomes(together, replies, self._durability, retried=self._retry_seconds > 0)
        if batch.is_out_of_step(together, replies):
            clients.disconnect(self._client)
        return outcomes

    def reconnect(self) -> None:
        """Close the idle connections, so that what is sent next goes over new ones, which are in step."""
        clients.disconnect(self._client)

    def ask(self, question: tuple[Arg, ...], options: dict[str, Any]) -> Answer:
        """The answer of one server to a command of ``check_server``."""
        asked_at = time.time()
        try:
            reply = self._client.execute_command(*question, NEVER_DECODE=True, **options)
        except ResponseError as error:
            reply = error
        return Answer(reply, asked_at, time.time())

    def _prepare(self, calls: Sequence[Call[Any]]) -> None:
        if self._process is not None and self._process != os.getpid():
            raise InvalidRequest(
                "client",
                "was opened before a fork, and its only connection belongs to the parent process: make a new client and "
                "a new engine in the child",
            )
        if self._first_call is not None:
            self._make_first_call(self._first_call, calls)

    def _make_first_call(self, first: Call[None], calls: Sequence[Call[Any]]) -> None:
        """Make it before ``calls``, but not let them depend on a server of a cluster that they do not need.

        While that server is down, others can serve calls: the first call is then made later.
        """
        shared = not self._clustered or self._is_served_with(first, calls)
        if not shared and self._first_call_due_at:
            if time.monotonic() < self._first_call_due_at:
                return
            # Before the try, so that only one caller waits for it.
            self._first_call_due_at = time.monotonic() + FIRST_CALL_PAUSE_SECONDS
        begun = time.monotonic()
        try:
            self._result_of(first, RetryPeriod(self._retry_seconds if shared else 0))
        except (ServerRefused, *CLIENT_ERRORS) as error:
            if shared or client_errors.is_cluster_view_forbidden(error):
                raise
            pause = max(FIRST_CALL_PAUSE_SECONDS, FIRST_CALL_PAUSE_FACTOR * (time.monotonic() - begun))
            self._first_call_due_at = time.monotonic() + pause
        except VoucherSessionsError:  # the engine cannot be used
            self._first_call_due_at = 0.0
            raise
        else:
            self._first_call = None

    def _is_served_with(self, first: Call[None], calls: Sequence[Call[Any]]) -> bool:
        """Whether the server of the first call serves one of the others too, by the slot table of the cluster."""
        try:
            node = self._client.get_node_from_key(first.keys[0]).name
            return node in {self._client.get_node_from_key(call.keys[0]).name for call in calls}
        except CLIENT_ERRORS:  # a slot has no node at the moment
            return False

    def _result_of(self, call: Call[T], retry_period: RetryPeriod | None = None) -> T:
        """Send a call until it has a result.

        Usually once; more often if many locks expire at once, in a failover, while a slot moves, or if a connection was
        out of step.
        """
        retry_period = retry_period or RetryPeriod(self._retry_seconds)
        out_of_step = 0
        while True:
            try:
                reply, *confirmations = self._evaluate(call, reconnected=out_of_step > 0)
                result = call.result(reply)
            except CallAgain:
                continue
            except OutOfStep as error:
                clients.disconnect(self._client)
                out_of_step += 1
                if out_of_step > MAX_OUT_OF_STEP:
                    raise call.error_for(error) from None
            except CLIENT_ERRORS as error:
                time.sleep(call.pause_before_retry(error, retry_period))
            else:
                return confirmation.confirmed(self._durability, call, result, confirmations)

    def _outcome_of(self, call: Call[Any], retry_period: RetryPeriod) -> Any:
        try:
            return self._result_of(call, retry_period)
        except (VoucherSessionsError, *CLIENT_ERRORS) as error:
            return error

    def _evaluate(self, call: Call[T], *, reconnected: bool) -> list[Any]:
        """The script's reply, and the replies to the commands that confirm durability, if they are sent.

        A server that does not have the script (after a restart, SCRIPT FLUSH or a failover) replies with an error, and
        EVAL loads it; on a cluster that EVAL is sent alone, so that the client can follow a slot that is moving. Any
        other error might be the reply to another command, since it does not begin with the call id. So the call is
        sent again with ECHO behind it, which shows whether the connection is in step.
        If ECHO does not work, an error counts once the connection is a new one (``reconnected``). A script that has ended
        with an error is not run again: ECHO alone proves that error.
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
            self._prove_in_step(call)
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
        checked = [*self._commands(call, call.eval_command()), ("ECHO", call.id)]
        try:
            *replies, echo = self._send_together(call.keys[0], checked)
        except CLIENT_ERRORS as error:
            if client_errors.is_refused_login(error) and not reconnected:
                raise OutOfStep("a refused login can be the reply to another command") from error
            raise
        if not call.check_in_step(replies, echo, reconnected=reconnected):
            clients.disconnect(self._client)
        return list(replies)

    def _send(self, call: Call[T], command: tuple[Arg, ...]) -> list[Any]:
        """Replies are not decoded, whatever the client's ``decode_responses`` is: the readers take bytes."""
        commands = self._commands(call, command)
        if len(commands) == 1:
            try:
                return [self._client.execute_command(*command, NEVER_DECODE=True)]
            except AttributeError as error:
                if is_of_interrupted_opening(error):
                    raise OutOfStep("the connection is half open") from error
                raise
        replies = self._send_together(call.keys[0], commands)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    def _commands(self, call: Call[T], command: tuple[Arg, ...]) -> list[tuple[Arg, ...]]:
        """The command of a call, and those that confirm its durability, if it needs them."""
        if self._durability is None or not call.changes:
            return [command]
        return [command, *confirmation.commands(self._durability, call.keys[0])]

    def _by_node(self, calls: Sequence[Call[Any]]) -> list[list[int]]:
        """The positions of the calls that are sent together: all of them; on a cluster, one list per node."""
        if not self._clustered:
            return [list(range(len(calls)))] if calls else []
        try:
            return batch.group_by_node(self._client.get_node_from_key(call.keys[0]).name for call in calls)
        except CLIENT_ERRORS:  # a slot has no node at the moment; each call is then sent alone, and retried
            return []

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
            self._refresh_slots()
            raise
        except AttributeError as error:
            if is_of_interrupted_opening(error):
                raise OutOfStep("the connection is half open") from error
            raise
        if any(isinstance(reply, AskError) for reply in replies):
            self._refresh_slots()
        return replies

    def _refresh_slots(self) -> None:
        """Make a cluster client read the slot table again. By itself it does so only after errors of single commands."""
        if self._clustered:
            self._client.nodes_manager.initialize()

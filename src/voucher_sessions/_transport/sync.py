"""Sends calls and batches over a sync client of redis-py, with retries and with confirmation of durability."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from redis.exceptions import AskError, NoScriptError, ResponseError

from voucher_sessions._core import batch, confirmation
from voucher_sessions._core.call import Arg, Call, CallAgain, RetryPeriod
from voucher_sessions._core.server_check import Answer
from voucher_sessions._transport import clients
from voucher_sessions.errors import CLIENT_ERRORS, InvalidRequest, VoucherSessionsError
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
        # Only for a client with one connection: after a fork, parent and child would read each other's replies from it.
        self._process = os.getpid() if clients.is_one_connection(client) else None

    def run(self, call: Call[T]) -> T:
        """The result of a call; raises the error of its refusal or failure."""
        return self._send_guarded(self._answer, call)

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that are sent together; for a call that failed, its exception."""
        return self._send_guarded(self._answer_all, calls)

    def _send_guarded(self, send: Callable[[S], T], argument: S) -> T:
        """The result of ``send``. If a signal handler raises in the meantime, connections are closed.

        redis-py keeps such a connection, although it may hold a reply that was not read.
        """
        try:
            self._prepare()
            return send(argument)
        except (VoucherSessionsError, *CLIENT_ERRORS):
            raise
        except BaseException:
            clients.disconnect(self._client)
            raise

    def _answer_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        outcomes: list[Any] = [batch.SEND_ALONE] * len(calls)
        for positions in self._by_node(calls):
            together = [calls[at] for at in positions]
            try:
                commands = batch.commands(together, self._durability)
                replies = self._send_together(together[0].keys[0], commands)
            except CLIENT_ERRORS as error:
                replies = [error] * len(together)
            for at, outcome in zip(positions, batch.outcomes(together, replies, self._durability), strict=True):
                outcomes[at] = outcome
        for at, call in enumerate(calls):
            if outcomes[at] is batch.SEND_ALONE:
                outcomes[at] = self._answer_alone(call)
        return outcomes

    def ask(self, question: tuple[Arg, ...], options: dict[str, Any]) -> Answer:
        """The answer of one server to a command of ``check_server``."""
        asked_at = time.time()
        try:
            reply = self._client.execute_command(*question, NEVER_DECODE=True, **options)
        except ResponseError as error:
            reply = error
        return Answer(reply, asked_at, time.time())

    def _prepare(self) -> None:
        if self._process is not None and self._process != os.getpid():
            raise InvalidRequest(
                "client",
                "was opened before a fork, and its only connection belongs to the parent process: make a new client and "
                "a new engine in the child",
            )
        if self._first_call is not None:
            self._answer(self._first_call)
            self._first_call = None

    def _answer(self, call: Call[T]) -> T:
        """Send a call until it has a result.

        Once is enough, unless very many locks have expired, or a failover or the move of a slot is under way.
        """
        retry_period: RetryPeriod | None = None
        while True:
            try:
                reply, *confirmations = self._evaluate(call)
            except CLIENT_ERRORS as error:
                retry_period = retry_period or RetryPeriod(self._retry_seconds)
                time.sleep(call.pause_before_retry(error, retry_period))
                continue
            try:
                result = call.result(reply)
            except CallAgain:
                continue
            return confirmation.confirmed(self._durability, call, result, confirmations)

    def _answer_alone(self, call: Call[Any]) -> Any:
        try:
            return self._answer(call)
        except Exception as error:
            return error

    def _evaluate(self, call: Call[T]) -> list[Any]:
        try:
            return self._send(call, call.evalsha_command())
        except NoScriptError:  # after a restart, SCRIPT FLUSH or a failover; EVAL loads the script
            return self._send(call, call.eval_command())

    def _send(self, call: Call[T], command: tuple[Arg, ...]) -> list[Any]:
        """The script's reply, and the replies to the commands that confirm durability, if they are sent.

        Replies are not decoded, whatever the client's ``decode_responses`` is: the readers take bytes.
        """
        if self._durability is None or not call.changes:
            return [self._client.execute_command(*command, NEVER_DECODE=True)]
        replies = self._send_together(call.keys[0], [command, *confirmation.commands(self._durability, call.keys[0])])
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

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
        if any(isinstance(reply, AskError) for reply in replies):
            self._refresh_slots()
        return replies

    def _refresh_slots(self) -> None:
        """Make a cluster client read the slot table again. By itself it does so only after errors of single commands."""
        if self._clustered:
            self._client.nodes_manager.initialize()

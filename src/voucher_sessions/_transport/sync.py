"""How calls travel over a client of redis-py: sent until they are answered, confirmed, one by one or in batches."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from redis.exceptions import AskError, NoScriptError, ResponseError

from voucher_sessions._core import batch, confirmation
from voucher_sessions._core.call import Again, Arg, Call, Patience
from voucher_sessions._core.server_check import Answer
from voucher_sessions._transport import clients
from voucher_sessions.errors import CLIENT_ERRORS, InvalidRequest, VoucherSessionsError
from voucher_sessions.models import Durability

T = TypeVar("T")


class SyncTransport:
    """Sends the calls of one engine. ``agreement`` is the call that goes before all others, if there is one."""

    def __init__(self, client: Any, durability: Durability | None, agreement: Call[None] | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._patience_seconds = clients.patience_seconds(client)
        self._durability = durability
        self._agreement = agreement
        # Whose connection it is, where all calls share one: after a fork parent and child would read each other's replies.
        self._process = os.getpid() if clients.is_one_connection(client) else None

    def run(self, call: Call[T]) -> T:
        """The result of a call; raises what its failure means."""
        try:
            self._agree()
            return self._answer(call)
        except (VoucherSessionsError, *CLIENT_ERRORS):
            raise
        except BaseException:
            self._interrupted()
            raise

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that travel together, the exceptions of those that failed in their places."""
        try:
            return self._answer_all(calls)
        except (VoucherSessionsError, *CLIENT_ERRORS):
            raise
        except BaseException:
            self._interrupted()
            raise

    def _answer_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        self._agree()
        outcomes: list[Any] = [batch.ALONE] * len(calls)
        for places in self._by_node(calls):
            together = [calls[at] for at in places]
            try:
                commands = batch.commands(together, self._durability)
                replies = self._send_together(together[0].keys[0], commands)
            except CLIENT_ERRORS as error:
                replies = [error] * len(together)
            for at, outcome in zip(places, batch.settle(together, replies, self._durability), strict=True):
                outcomes[at] = outcome
        for at, call in enumerate(calls):
            if outcomes[at] is batch.ALONE:
                outcomes[at] = self._answer_alone(call)
        return outcomes

    def ask(self, question: tuple[Arg, ...], options: dict[str, Any]) -> Answer:
        """What one server says to a question, or why it does not."""
        asked_at = time.time()
        try:
            said = self._client.execute_command(*question, NEVER_DECODE=True, **options)
        except ResponseError as error:
            said = error
        return Answer(said, asked_at, time.time())

    def _interrupted(self) -> None:
        """A signal came in the middle of a call: redis-py keeps the connection, with a reply that nobody has read."""
        clients.disconnect(self._client)

    def _agree(self) -> None:
        if self._process is not None and self._process != os.getpid():
            raise InvalidRequest("client", "has one connection, which is the parent's: make a new client after a fork")
        if self._agreement is not None:
            self._answer(self._agreement)
            self._agreement = None

    def _answer(self, call: Call[T]) -> T:
        """Send a call until it is answered: once, but for the moments of a mass expiry, a failover, a resharding."""
        patience: Patience | None = None
        while True:
            try:
                reply, *confirmations = self._evaluate(call)
            except CLIENT_ERRORS as error:
                patience = patience or Patience(self._patience_seconds)
                time.sleep(call.pause_after(error, patience))
                continue
            try:
                result = call.result(reply)
            except Again:
                continue
            return confirmation.confirmed(self._durability, call, result, confirmations)

    def _answer_alone(self, call: Call[Any]) -> Any:
        try:
            return self._answer(call)
        except Exception as error:
            return error

    def _evaluate(self, call: Call[T]) -> list[Any]:
        numbered = len(call.keys), *call.keys, *call.args
        try:
            return self._send(call, "EVALSHA", call.script.sha, *numbered)
        except NoScriptError:  # a restart, SCRIPT FLUSH, a new replica: EVAL loads it again
            return self._send(call, "EVAL", call.script.text, *numbered)

    def _send(self, call: Call[T], *command: Arg) -> list[Any]:
        """The script's reply, and what the server says of its durability.

        Undecoded, whatever the host's client does: codes and keys are bytes here, and never somebody's encoding.
        """
        if self._durability is None or not call.changes:
            return [self._client.execute_command(*command, NEVER_DECODE=True)]
        replies = self._send_together(call.keys[0], [command, *confirmation.commands(self._durability, call.keys[0])])
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies

    def _by_node(self, calls: Sequence[Call[Any]]) -> list[list[int]]:
        """The places of the calls that travel together: all of them, or on a cluster those of each node."""
        if not self._clustered:
            return [list(range(len(calls)))] if calls else []
        try:
            return batch.grouped(self._client.get_node_from_key(call.keys[0]).name for call in calls)
        except CLIENT_ERRORS:  # a slot without a node: it may have one when the call is sent by itself
            return []

    def _send_together(self, key: bytes, commands: Iterable[tuple[Arg, ...]]) -> list[Any]:
        """The replies, and errors, to commands that go over one connection, on a cluster to the node of the key."""
        try:
            node = self._client
            if self._clustered:
                node = node.get_redis_connection(node.get_node_from_key(key))
            with node.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command, NEVER_DECODE=True)
                replies: list[Any] = pipeline.execute(raise_on_error=False)
        except CLIENT_ERRORS:
            self._look_again()
            raise
        if any(isinstance(reply, AskError) for reply in replies):
            self._look_again()
        return replies

    def _look_again(self) -> None:
        """Have a cluster's client ask who serves what, which it does by itself for single commands only."""
        if self._clustered:
            self._client.nodes_manager.initialize()

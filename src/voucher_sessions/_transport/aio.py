"""Sends calls and batches to the servers of a client of redis.asyncio; the counterpart of ``sync.py``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from voucher_sessions._core import batch, client_errors, confirmation
from voucher_sessions._core.call import (
    FIRST_CALL_PAUSE_FACTOR,
    FIRST_CALL_PAUSE_SECONDS,
    Arg,
    Call,
    CallAgain,
    RetryPeriod,
)
from voucher_sessions._core.client_errors import MAX_OUT_OF_STEP, OutOfStep, Overloaded
from voucher_sessions._core.server_check import Answer
from voucher_sessions._transport import clients, own_connections, retries
from voucher_sessions._transport.aio_client import AsyncClientSender
from voucher_sessions._transport.aio_connections import AsyncConnectionSender
from voucher_sessions._transport.keys_in_use import AsyncKeysInUse
from voucher_sessions.errors import (
    CLIENT_ERRORS,
    InvalidRequest,
    ServerRefused,
    ServerUnavailable,
    VoucherSessionsError,
)
from voucher_sessions.models import Durability

T = TypeVar("T")


class AsyncTransport:
    """Sends the calls of one engine. ``first_call``, if any, is sent before all others."""

    def __init__(self, client: Any, durability: Durability | None, first_call: Call[None] | None) -> None:
        self._client = client
        self._clustered = clients.is_cluster(client)
        self._retry_seconds = clients.retry_period_seconds(client)
        self._durability = durability
        own = own_connections.are_allowed(client)
        self._sender = (AsyncConnectionSender if own else AsyncClientSender)(client, durability)
        self._keys = AsyncKeysInUse(self._sender.calls_of_closed_loops)
        self._first_call = first_call
        self._first_call_due_at = 0.0
        self._process: int | None = None  # the id of the process that first used it

    async def run(self, call: Call[T]) -> T:
        """The result of a call; raises the error of its refusal or failure."""
        self._check_process()
        if self._first_call is not None:
            await self._make_first_call(self._first_call, [call])
        return await self._result_in_turn(call)

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that are sent together; for a call that failed, its exception."""
        self._check_process()
        if self._first_call is not None:
            await self._make_first_call(self._first_call, calls)
        outcomes: list[Any] = [batch.SEND_ALONE] * len(calls)
        retry_period = RetryPeriod(self._retry_seconds)  # of all calls together
        for positions in await self._by_node(calls):
            for part in batch.split([calls[at] for at in positions]):
                places = [positions[at] for at in part]
                together = [calls[at] for at in places]
                try:
                    outcomes_of_part = await self._outcomes(together)
                    for at, outcome in zip(places, outcomes_of_part, strict=True):
                        again = outcome is batch.SEND_ALONE  # before the next part, whose calls come after it
                        outcomes[at] = await self._outcome_of(calls[at], retry_period) if again else outcome
                finally:
                    self._give_back(together)
        for at, call in enumerate(calls):
            if outcomes[at] is batch.SEND_ALONE:
                try:
                    outcomes[at] = await self._result_in_turn(call, retry_period)
                except (VoucherSessionsError, *CLIENT_ERRORS) as error:
                    outcomes[at] = error
        return outcomes

    async def close(self) -> None:
        """Close the connections that the engine has for itself in this event loop."""
        await self._sender.close()

    def _check_process(self) -> None:
        process = os.getpid()
        if self._process is None:
            self._process = process
        if self._process != process:
            raise InvalidRequest(
                "client",
                "was used before a fork, by this engine, and the connections belong to the parent process: make a new "
                "client and a new engine in the child",
            )

    async def _outcomes(self, together: Sequence[Call[Any]]) -> list[Any]:
        """The outcomes of calls that are sent in one batch, to one node."""
        try:
            await self._keys.take([call for call in together if call.changes])
            try:
                replies = await self._sender.send_batch(together)
            except CLIENT_ERRORS as error:
                replies = await self._again(lambda: self._sender.send_batch(together), error)
        except CLIENT_ERRORS as error:
            replies = [error] * len(together)
        return batch.outcomes(together, replies, self._durability, retried=self._retry_seconds > 0)

    async def _again(self, attempt: Callable[[], Awaitable[T]], failed: Exception) -> T:
        """The result of ``attempt``. Its first call has raised ``failed``; the client's ``Retry`` says how many follow.

        Raises ``failed`` where another retry applies: the client's own for calls that go through it, and the retry
        period on clusters and with Sentinel.
        """
        retry = None if self._clustered or self._retry_seconds else self._sender.retry()
        if retry is None:
            raise failed
        return await retries.call_again_async(retry, attempt, failed)

    async def reconnect(self) -> None:
        """Close the client's idle connections, so that what ``ask`` sends goes over new ones, which are in step."""
        await clients.disconnect_async(self._client)

    async def ask(self, question: tuple[Arg, ...], options: dict[str, Any]) -> Answer:
        """The answer of one server to a command of ``check_server``."""
        asked_at = time.time()
        try:
            reply = await self._client.execute_command(*question, NEVER_DECODE=True, **options)
        except ResponseError as error:
            reply = error
        return Answer(reply, asked_at, time.time())

    async def ping(self) -> None:
        """Raise ``ServerUnavailable`` if a server does not answer, or is loading its data. Other errors are answers."""
        try:
            try:
                await self._sender.ping()
            except CLIENT_ERRORS as error:
                await self._again(self._sender.ping, error)
        except CLIENT_ERRORS as error:
            client_errors.remove_secrets(error)
            if client_errors.is_without_answer(error):
                raise ServerUnavailable("ping", (), str(error)) from error
            if not client_errors.is_refusal(error):
                raise

    async def _make_first_call(self, first: Call[None], calls: Sequence[Call[Any]]) -> None:
        """Make it before ``calls``, but not let them depend on a server of a cluster that they do not need.

        While that server is down, others can serve calls: the first call is then made later.
        """
        shared = not self._clustered or await self._is_served_with(first, calls)
        if not shared and self._first_call_due_at:
            if time.monotonic() < self._first_call_due_at:
                return
            # Before the try, so that only one caller waits for it.
            self._first_call_due_at = time.monotonic() + FIRST_CALL_PAUSE_SECONDS
        begun = time.monotonic()
        try:
            await self._result_of(first.before(calls), RetryPeriod(self._retry_seconds if shared else 0))
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

    async def _is_served_with(self, first: Call[None], calls: Sequence[Call[Any]]) -> bool:
        """Whether the server of the first call serves one of the others too, by the slot table of the cluster."""
        try:
            await self._client.initialize()
            node = self._client.get_node_from_key(first.keys[0]).name
            return node in {self._client.get_node_from_key(call.keys[0]).name for call in calls}
        except CLIENT_ERRORS:  # a slot has no node at the moment
            return False

    async def _result_in_turn(self, call: Call[T], retry_period: RetryPeriod | None = None) -> T:
        """The result of a call, which waits while too many others may change one of its keys."""
        if not call.changes:
            return await self._result_of(call, retry_period)
        calls = (call,)
        try:
            if not self._keys.take_at_once(calls):
                await self._keys.take(calls)
            return await self._result_of(call, retry_period)
        except Overloaded as error:
            raise call.error_for(error) from error
        finally:
            self._give_back(calls)

    def _give_back(self, calls: Sequence[Call[Any]]) -> None:
        """Give the keys of calls back; of calls that were cancelled, when their replies have come or are lost."""
        abandoned = next((call.abandoned for call in calls if call.abandoned is not None), None)
        if abandoned is None:
            self._keys.give_back(calls)
        else:
            abandoned.on_end = partial(self._keys.give_back, calls)

    async def _result_of(self, call: Call[T], retry_period: RetryPeriod | None = None) -> T:
        """Send a call until it has a result, or no retry can help."""
        while True:
            try:
                return await self._sent(call)
            except CLIENT_ERRORS as error:
                failed = error
            try:
                return await self._again(lambda: self._sent(call), failed)
            except VoucherSessionsError:
                raise
            except CLIENT_ERRORS as error:
                retry_period = retry_period or RetryPeriod(self._retry_seconds)
                await asyncio.sleep(call.pause_before_retry(error, retry_period))

    async def _sent(self, call: Call[T]) -> T:
        """The result of a call that is sent once; more often if many locks expire at once or a connection is out of step."""
        out_of_step = 0
        while True:
            try:
                reply, *confirmations = await self._sender.evaluate(call, reconnected=out_of_step > 0)
                return confirmation.confirmed(self._durability, call, call.result(reply), confirmations)
            except CallAgain:
                continue
            except OutOfStep as error:
                call.may_have_run = call.may_have_run or client_errors.leaves_unknown(error)
                await self._sender.reconnect()
                out_of_step += 1
                if out_of_step > MAX_OUT_OF_STEP:
                    raise call.error_for(error) from None

    async def _outcome_of(self, call: Call[Any], retry_period: RetryPeriod) -> Any:
        try:
            return await self._result_of(call, retry_period)
        except (VoucherSessionsError, *CLIENT_ERRORS) as error:
            return error

    async def _by_node(self, calls: Sequence[Call[Any]]) -> list[list[int]]:
        """The positions of the calls that are sent together: all of them; on a cluster, one list per node."""
        if not self._clustered:
            return [list(range(len(calls)))] if calls else []
        try:
            await self._client.initialize()
            return batch.group_by_node(self._client.get_node_from_key(call.keys[0]).name for call in calls)
        except CLIENT_ERRORS:  # a slot has no node at the moment; each call is then sent alone, and retried
            return []

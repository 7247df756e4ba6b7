"""Sends changes in groups, and has each group confirmed by one WAIT or WAITAOF."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from voucher_sessions._core import confirmation
from voucher_sessions._core.call import Arg, Call
from voucher_sessions._core.client_errors import ConnectionClosed, Overloaded
from voucher_sessions._transport.shared_connection import MAX_EXCHANGES, SharedConnection, copied
from voucher_sessions.models import Durability


@dataclass(slots=True, eq=False)
class _Change:
    """One call, its command, and the future of its replies."""

    calls: Sequence[Call[Any]]
    commands: Sequence[tuple[Arg, ...]]
    done: asyncio.Future[tuple[list[Any], object]]
    on_end: Callable[[], object] | None = None


class GroupCommit:
    """Sends changes over one connection, one group after the other.

    The changes that come while a group waits for its confirmation are the next group.
    """

    def __init__(self, connection: SharedConnection, durability: Durability) -> None:
        self.connection = connection
        self._durability = durability
        self._waiting: list[_Change] = []
        self._sending: asyncio.Task[None] | None = None

    async def exchange(
        self, calls: Sequence[Call[Any]], commands: Sequence[tuple[Arg, ...]]
    ) -> tuple[list[Any], object]:
        """The replies to the command of a call and to those that confirm it, and the connection on which they came."""
        if len(self._waiting) >= MAX_EXCHANGES:
            raise Overloaded(f"{MAX_EXCHANGES:,} calls wait for this server already: start fewer calls at once")
        change = _Change(calls, commands, asyncio.get_running_loop().create_future())
        self._waiting.append(change)
        self._start_sending()
        try:
            return await change.done
        except asyncio.CancelledError:
            if change not in self._waiting:  # it was sent
                for call in calls:
                    call.abandoned = change
            raise

    def calls(self) -> list[Call[Any]]:
        """The calls that have no result yet."""
        return [call for change in self._waiting for call in change.calls] + self.connection.calls()

    def _start_sending(self) -> None:
        if self._sending is None or self._sending.done():  # cancelled before it began, as at the end of an event loop
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._waiting:
                group = [change for change in self._waiting if not change.done.done()]
                self._waiting = []
                try:
                    if group:
                        await self._send_together(group)
                finally:
                    for change in group:
                        if change.on_end is not None:
                            change.on_end()
        finally:
            self._sending = None
            if self._waiting:  # it was cancelled
                self._start_sending()

    async def _send_together(self, group: list[_Change]) -> None:
        calls = [call for change in group for call in change.calls]
        commands = [command for change in group for command in change.commands]
        confirming = confirmation.commands(self._durability, calls[0].keys[0])
        try:
            replies, connection = await self.connection.exchange(calls, [*commands, *confirming])
        except BaseException as error:
            failed = error if isinstance(error, Exception) else ConnectionClosed("the event loop is closing")
            for call in calls if failed is not error else ():
                call.may_have_run = True
            for change in group:
                if not change.done.done():
                    change.done.set_exception(copied(failed))
            if failed is not error:
                raise
            return
        confirmations = replies[len(commands) :]
        done = [call for call, reply in zip(calls, replies, strict=False) if not isinstance(reply, Exception)]
        if done and confirmation.is_of_another_node(confirmations):
            confirming = confirmation.commands(self._durability, done[0].keys[0])
            confirmations, connection = await self.connection.exchange(done, confirming)
        for at, change in enumerate(group):
            if not change.done.done():
                change.done.set_result(([replies[at], *confirmations], connection))

"""A connection that all tasks of one event loop share: no call waits for the reply to another before it is sent.

The commands of all tasks are gathered until the next iteration of the event loop, and then written together. Replies
come in the order of the commands. A task reads them, and ends when none is missing; so at the end of an event loop, an
idle connection has no task that would have to be cancelled.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakSet, ref

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from voucher_sessions._core import client_errors
from voucher_sessions._core.call import Arg, Call
from voucher_sessions._core.client_errors import ConnectionClosed, OutOfStep, Overloaded
from voucher_sessions._transport.packing import pack

# The most calls and batches of an event loop that may wait for one server; further ones raise ``Overloaded``.
MAX_EXCHANGES: Final = 20_000
# As soon as this many have gathered, they are written without waiting for the next iteration of the event loop.
_WRITTEN_AT_ONCE: Final = 8
# After a longer pause, the event loop runs one iteration before the connection is used: if the server has closed it
# meanwhile, the event loop notices that then.
_IDLE_SECONDS: Final = 0.001


@dataclass(slots=True, eq=False)
class _Exchange:
    """Commands that follow each other on a connection, the calls that they run, and the replies so far."""

    calls: Sequence[Call[Any]]
    packed: bytes
    missing: int
    done: asyncio.Future[None]
    replies: list[Any] = field(default_factory=list)
    connection: Any = None
    on_end: Callable[[], object] | None = None

    def end(self, error: Exception | None) -> None:
        """All replies have come, or an error means that the others will not."""
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
        self.missing = 0
        if self.on_end is not None:
            self.on_end()


class SharedConnection:
    """A connection to one server, opened when it is first needed, and anew after it has failed."""

    def __init__(self, new_connection: Callable[[], Any]) -> None:
        self._new_connection = new_connection
        self._loop = asyncio.get_running_loop()
        self._connection: Any = None
        self._out_of_step: WeakSet[Any] = WeakSet()
        self._open_until_the_end: AsyncGenerator[None, None] | None = None
        self._unsent: deque[_Exchange] = deque()
        self._sent: deque[_Exchange] = deque()
        self._is_flush_due = False
        self._is_renewal_due = False
        self._is_ended = False
        self._is_loop_ending = False
        self._was_looked_at = False
        self._opening: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_progress = 0.0  # when it was opened, the last reply came, or the first command was written

    async def exchange(
        self, calls: Sequence[Call[Any]], commands: Sequence[tuple[Arg, ...]], connection: object = None
    ) -> tuple[list[Any], object]:
        """The replies to commands, errors included, and the connection on which they came.

        Sets ``may_have_run`` of the calls if their replies are lost. If the task is cancelled before its commands are
        written, they are not sent; after that, their replies are read and dropped. If ``connection`` is given and was
        replaced, raises ``OutOfStep`` if it was out of step, else ``ConnectionClosed``.
        """
        if len(self._unsent) + len(self._sent) >= MAX_EXCHANGES:
            raise Overloaded(f"{MAX_EXCHANGES:,} calls wait for this server already: start fewer calls at once")
        exchange = _Exchange(calls, pack(commands), len(commands), self._loop.create_future())
        self._unsent.append(exchange)
        if len(self._unsent) % _WRITTEN_AT_ONCE or not self._sent:
            self._schedule_flush()
        else:
            self._flush()  # so that the server begins while other tasks of this iteration are still running
        try:
            await exchange.done
        except asyncio.CancelledError:
            if exchange.connection is not None and exchange.missing:
                for call in calls:
                    call.abandoned = exchange
            raise
        if connection is not None and connection is not exchange.connection:
            kind = OutOfStep if connection in self._out_of_step else ConnectionClosed
            raise kind("the connection was replaced")
        return exchange.replies, exchange.connection

    async def close(self, connection: object = None) -> None:
        """Close the connection. Calls that wait for a reply do not get one.

        ``connection``: only if it is this one, which is out of step, and was not replaced meanwhile.
        """
        if connection is not None and connection is not self._connection:
            return
        if connection is not None:
            self._out_of_step.add(connection)
        self._lose(ConnectionClosed("the engine closed its connections"))
        if self._reading is not None:
            self._reading.cancel()
        await self._disconnect()

    async def end(self) -> None:
        """Close the connection, and from now on any later one as soon as nobody waits for a reply on it."""
        self._is_ended = True
        await self.close()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        open_until_the_end, self._open_until_the_end = self._open_until_the_end, None
        if open_until_the_end is not None:
            await open_until_the_end.aclose()
        elif connection is not None and self._is_loop_ending:
            await _abort(connection)

    def loop_is_ending(self) -> None:
        """The event loop closes its generators: later connections have none, and are closed after each use."""
        if self._open_until_the_end is not None:
            self._is_loop_ending = self._is_ended = True

    def calls(self) -> list[Call[Any]]:
        """The calls that have no result yet."""
        return [call for exchange in (*self._unsent, *self._sent) for call in exchange.calls]

    def renew(self) -> None:
        """Use a new connection for the calls to come, once those that were sent have their replies."""
        self._is_renewal_due = True

    def _schedule_flush(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has gathered. First open a connection, if there is none or it should not be used any more."""
        self._is_flush_due = False
        if self._sent and (self._is_renewal_due or _is_closing(self._connection)):
            return  # when the reading task ends, it schedules this method again
        if not (self._sent or self._was_looked_at) and self._loop.time() - self._last_progress > _IDLE_SECONDS:
            self._was_looked_at = True
            self._schedule_flush()  # the event loop reads from the connection first, if there is something to read
            return
        self._was_looked_at = False
        if not self._is_usable():
            if _is_over(self._opening) and self._unsent:
                self._opening = self._loop.create_task(self._open())
            return
        packed: list[bytes] = []
        for exchange in self._unsent:
            if not exchange.done.done():
                packed.append(exchange.packed)
                exchange.connection = self._connection
                self._sent.append(exchange)
        self._unsent.clear()
        if packed:
            self._connection._writer.write(b"".join(packed))
            if _is_over(self._reading):
                self._last_progress = self._loop.time()
                self._reading = self._loop.create_task(self._read(self._connection))

    def _is_usable(self) -> bool:
        connection = self._connection
        if connection is None or self._is_renewal_due:
            return False
        if self._sent:
            return True
        idle_too_long = (interval := connection.health_check_interval) and (
            self._loop.time() - self._last_progress > interval
        )
        return not (idle_too_long or _is_closing(connection) or connection._reader.at_eof())

    async def _open(self) -> None:
        connection = None
        try:
            await self._disconnect()
            self._is_renewal_due = False
            connection = self._new_connection()
            await connection.connect()
        except BaseException as error:
            failed = error if isinstance(error, Exception) else ConnectionClosed("the event loop is closing")
            _fail(self._unsent, failed)
            if connection is not None:
                await connection.disconnect(nowait=True)
            if failed is not error:
                raise
        else:
            self._connection = connection
            self._last_progress = self._loop.time()
            if not self._is_loop_ending:
                self._open_until_the_end = _open_until_the_end(connection, ref(self))
                await anext(self._open_until_the_end)
            self._flush()
        finally:
            self._opening = None
            if self._unsent:
                self._schedule_flush()

    async def _read(self, connection: Any) -> None:
        """Read replies for as long as some are missing."""
        try:
            if connection.socket_timeout and self._timer is None:
                self._set_timer(connection.socket_timeout)
            while self._sent:
                reply = await _reply(connection)
                self._last_progress = self._loop.time()
                exchange = self._sent[0]
                exchange.replies.append(reply)
                exchange.missing -= 1
                if not exchange.missing:
                    self._sent.popleft()
                    exchange.end(None)
        except BaseException as error:
            lost = error if isinstance(error, RedisError) else RedisConnectionError(f"no reply: {error!r}")
            self._lose(lost)
            if self._connection is connection:
                await self._disconnect()
            if not isinstance(error, Exception):
                raise
        finally:
            self._reading = None
            if self._unsent:
                self._schedule_flush()
            elif self._is_ended:
                await self._disconnect()

    def _set_timer(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, _check_progress, ref(self))

    def _check_progress(self) -> None:
        """Close the connection if no reply came on it for ``socket_timeout`` seconds; all its calls fail then."""
        self._timer = None
        if self._reading is None or self._connection is None:
            return
        timeout = self._connection.socket_timeout
        left = self._last_progress + timeout - self._loop.time()
        if left > 0:
            self._set_timer(left)
            return
        self._is_renewal_due = True  # commands that are about to be written use a new connection
        self._lose(RedisTimeoutError(f"no reply within {timeout:g} s"))
        self._reading.cancel()

    def _lose(self, error: Exception) -> None:
        """Fail all calls whose replies are missing: they may have run."""
        for exchange in self._sent:
            for call in exchange.calls:
                call.may_have_run = True
        _fail(self._sent, error)


def _check_progress(shared: Callable[[], SharedConnection | None]) -> None:
    """A weak reference, so that the timer does not keep the connection of an engine that was deleted."""
    if (connection := shared()) is not None:
        connection._check_progress()


async def _open_until_the_end(connection: Any, shared: ref[SharedConnection]) -> AsyncGenerator[None, None]:
    """A generator that closes the connection when the generator is closed or deleted, or when the event loop ends.

    ``asyncio.run`` closes all asynchronous generators that are still running (``loop.shutdown_asyncgens``).
    """
    try:
        yield
    finally:
        if (link := shared()) is not None:
            link.loop_is_ending()
        await _abort(connection)


async def _abort(connection: Any) -> None:
    writer = connection._writer
    await connection.disconnect(nowait=True)
    if writer is not None:
        writer.transport.abort()  # with TLS, close() waits for the server's answer, which may come too late


def _is_over(task: asyncio.Task[None] | None) -> bool:
    """Whether there is no such task, or it was cancelled before it began, as at the end of an event loop."""
    return task is None or task.done()


def _fail(exchanges: deque[_Exchange], error: Exception) -> None:
    while exchanges:
        exchange = exchanges.popleft()
        try:
            client_errors.raise_if_ended_half_way(exchange.replies, error)
            exchange.end(copied(error))
        except client_errors.EndedHalfWay as ended:
            exchange.end(ended)


def _is_closing(connection: Any) -> bool:
    return connection is not None and (connection._writer is None or connection._writer.transport.is_closing())


def copied(error: Exception) -> Exception:
    """A copy for each task that gets an error, since each adds its traceback to what it raises."""
    try:
        copied = copy.copy(error)
    except Exception:  # a class of the application's, whose constructor needs other arguments than it keeps
        return error
    copied.__cause__ = error.__cause__
    return copied


async def _reply(connection: Any) -> Any:
    try:
        return await connection._parser.read_response(disable_decoding=True)
    except RedisError as error:
        if client_errors.is_reply(error):
            return error
        raise

"""What the fixtures of the pytest plugin use: a server, engines, and a way to make Redis fail.

The engines send their calls through their client of redis-py, and ``RedisTrouble`` replaces the methods of that client
that send commands. So fakeredis and a real server fail in the same way, for the sync and the asyncio engine.
Each command is tried once: neither the client nor the engine repeats it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Lock
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError, NoScriptError

from voucher_sessions import AsyncVoucherSessions, VoucherSessions

__all__ = ["RedisTrouble"]

# An engine that sends commands through its client does not wait until one of the pool's connections, 100 by default, is
# put back. One that a shop opens by a URL does, so that the tests of a shop may make more calls at once.
_MAX_CONNECTIONS: Final = 2**31


class Server(NamedTuple):
    """Where the vouchers of a test are: a URL, and the options of the clients that connect to it."""

    url: str
    client_options: dict[str, Any]


class RedisTrouble:
    """Makes the Redis of a test's engines fail, for as long as the test says.

    Each method takes effect at once and lasts until ``end()``, or until the end of the test. Used in a ``with``
    statement, it lasts until the end of the block. It affects the engines of the fixtures ``voucher_sessions`` and
    ``async_voucher_sessions``, and everything else that uses their ``client``. It does not affect engines that the shop
    itself opens, with a URL.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._is_down = False
        self._replies_to_lose = 0
        self._delay_seconds = 0.0

    @property
    def replies_to_lose(self) -> int:
        """The number of replies that are still to be lost; 0 once all that ``lose_replies`` named are lost."""
        return self._replies_to_lose

    def down(self) -> ExitStack:
        """The server is down: no command reaches it.

        Each call of an engine raises ``ServerUnavailable``, and nothing changes. What the server stores is there again
        afterwards.
        """
        self._is_down = True
        return self._until(self._restart)

    def lose_replies(self, n: int = 1) -> ExitStack:
        """The server runs the next ``n`` commands, and their replies are lost.

        A call that changes something has done so and raises ``OutcomeUnknown``; a call that only reads raises
        ``ServerUnavailable``. One execution of a pipeline counts as one command. The calls after them get their replies.
        """
        with self._lock:
            self._replies_to_lose = n
        return self._until(self._lose_none)

    def slow(self, ms: float) -> ExitStack:
        """The server runs each command at once, and its reply comes ``ms`` milliseconds later.

        No reply is lost, however late it comes: for a reply that comes after the client's timeout, use ``lose_replies``.
        The delay takes real time, even if the test has stopped its clock; in a coroutine, freezegun must not stop the
        clock of the event loop (``real_asyncio=True``).
        """
        self._delay_seconds = ms / 1000
        return self._until(self._end_delay)

    def end(self) -> None:
        """End all trouble."""
        self._restart()
        self._lose_none()
        self._end_delay()

    def _restart(self) -> None:
        self._is_down = False

    def _lose_none(self) -> None:
        with self._lock:
            self._replies_to_lose = 0

    def _end_delay(self) -> None:
        self._delay_seconds = 0.0

    @staticmethod
    def _until(end: Callable[[], None]) -> ExitStack:
        """A context manager that calls ``end`` at the end of a ``with`` block. Not used as one, it does nothing."""
        block = ExitStack()
        block.callback(end)
        return block

    def _connect(self) -> None:
        if self._is_down:
            # The error after which an engine knows that its client has sent nothing.
            raise MaxConnectionsError("redis_trouble.down(): the server is down")

    def _receive(self, reply: Any) -> Any:
        """The reply, unless it is to be lost. A server that does not know a script has not run it yet."""
        if any(isinstance(each, NoScriptError) for each in (reply if isinstance(reply, list) else ())):
            return reply
        with self._lock:
            if self._replies_to_lose <= 0:
                return reply
            self._replies_to_lose -= 1
        raise RedisConnectionError("redis_trouble.lose_replies(): the reply was lost")

    def _send(self, send: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(send)
        def troubled(*args: Any, **options: Any) -> Any:
            self._connect()
            reply = send(*args, **options)
            time.sleep(self._delay_seconds)
            return self._receive(reply)

        return troubled

    def _send_async(self, send: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(send)
        async def troubled(*args: Any, **options: Any) -> Any:
            self._connect()
            reply = await send(*args, **options)
            await asyncio.sleep(self._delay_seconds)
            return self._receive(reply)

        return troubled


def memory_server() -> Server:
    """A server of fakeredis, for one test."""
    with VoucherSessions.from_url("memory://"):  # if fakeredis is not installed, its error says how to install it
        from fakeredis import FakeServer

    return Server("memory://", {"server": FakeServer()})


@contextmanager
def embedded_server() -> Iterator[Server]:
    """A real server that is started for all tests of a process."""
    with VoucherSessions.from_url("embedded://") as engine:
        path = engine.client.get_connection_kwargs()["path"]
        yield Server(f"unix://{quote(path)}", {})


@contextmanager
def sync_engine(server: Server, trouble: RedisTrouble, options: Mapping[str, Any]) -> Iterator[VoucherSessions]:
    """An engine whose Redis ``trouble`` can make fail."""
    with VoucherSessions.from_url(server.url, max_connections=_MAX_CONNECTIONS, **server.client_options) as opened:
        client = opened.client
        _replace(client, trouble._send)
        with VoucherSessions(client, **options) as engine:
            yield engine


def async_engine(server: Server, trouble: RedisTrouble, options: Mapping[str, Any]) -> AsyncVoucherSessions:
    """The same for asyncio. Nothing needs to be closed: it keeps no connection open between two calls."""
    client = AsyncVoucherSessions.from_url(server.url, max_connections=_MAX_CONNECTIONS, **server.client_options).client
    _replace(client, trouble._send_async)
    _close_each_connection(client)
    return AsyncVoucherSessions(client, **options)


def _close_each_connection(client: Any) -> None:
    """Close each connection after its command: the next call may be made in another event loop."""
    release = client.connection_pool.release

    async def close_and_release(connection: Any) -> None:
        await connection.disconnect()
        await release(connection)

    client.connection_pool.release = close_and_release


def _replace(client: Any, troubled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the methods of a client, and of its pipelines, that send commands."""
    new_pipeline = client.pipeline

    def pipeline(*args: Any, **options: Any) -> Any:
        made = new_pipeline(*args, **options)
        made.execute = troubled(made.execute)
        return made

    client.execute_command = troubled(client.execute_command)
    client.pipeline = pipeline

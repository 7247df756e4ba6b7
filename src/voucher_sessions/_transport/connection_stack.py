"""The connections that a sync engine has for itself: to each server a stack, the connection that was used last on top."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

from redis import BlockingConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from voucher_sessions._core import client_errors
from voucher_sessions._core.call import Arg, Call
from voucher_sessions._core.client_errors import Overloaded
from voucher_sessions._transport import own_connections
from voucher_sessions._transport.packing import pack

# A connection that was idle for longer is checked before it is used: the server may have closed it.
_IDLE_SECONDS: Final = 1.0
# The most connections to a server, and how long a call waits for one, where the client's pool sets no limit.
MAX_CONNECTIONS: Final = 100
MAX_WAIT_SECONDS: Final = 20.0
# A waiting thread checks at this interval whether the thread that should serve it was interrupted by a signal handler.
_LOOK_SECONDS: Final = 0.1


class _Turn:
    """A thread that waits. It is served with an idle connection, or with room for another one (None).

    Its lock is free when it has been served. An Event would not do: the handler of a signal that raises inside one can
    leave it locked.
    """

    def __init__(self) -> None:
        self.served = threading.Lock()
        self.served.acquire()
        self.connection: Any = None


class ConnectionStack:
    """Connections to the server of one pool of the client.

    Threads can share it. A call takes a connection and puts it back, or closes it if a reply may be left in it. After a
    fork, the child opens connections of its own.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        limit = pool.max_connections
        self._max_connections = limit if limit < 2**31 else MAX_CONNECTIONS
        self._max_wait: float = MAX_WAIT_SECONDS
        if isinstance(pool, BlockingConnectionPool):
            self._max_wait = math.inf if pool.timeout is None else pool.timeout
        self._idle_seconds = min(_IDLE_SECONDS, pool.connection_kwargs.get("health_check_interval") or _IDLE_SECONDS)
        self._reset()
        own_connections.on_new_token(pool, self)

    def _reset(self) -> None:
        self._idle: deque[tuple[Any, float]] = deque()
        self._lock = threading.RLock()  # for what follows; a signal handler may call, too
        # Connections, and turns that are about to open one. The references are weak, so that a connection that an
        # interrupted call has lost does not count.
        self._open: WeakSet[Any] = WeakSet()
        self._outdated: WeakSet[Any] = WeakSet()  # in use since before the last renewal
        self._waiting: deque[_Turn] = deque()  # the first is served first
        self._doubted_at = 0.0  # connections that are idle since before then may be closed, too
        self._is_ended = False
        self._process = os.getpid()

    def take(self) -> Any:
        """An open connection. Errors: nothing was sent."""
        if self._process != os.getpid():
            self._reset()
        if self._waiting:
            return self._opened(self._new_or_awaited())
        try:
            connection, since = self._idle.pop()
        except IndexError:
            return self._opened(self._new_or_awaited())
        if monotonic() - since > self._idle_seconds or since <= self._doubted_at:
            return self._looked_at(connection)
        return connection

    def put_back(self, connection: Any) -> None:
        """Keep a connection for the next call."""
        if connection.pid != self._process:  # of the parent process
            return
        if self._is_ended or (self._outdated and connection in self._outdated):
            self.close(connection)
            return
        self._idle.append((connection, monotonic()))
        if self._waiting:
            with self._lock:
                self._serve()

    def close(self, connection: Any) -> None:
        """Close a connection that was taken."""
        self._doubted_at = monotonic()
        connection.disconnect()
        if connection.pid == self._process:
            with self._lock:
                self._open.discard(connection)
                self._serve()

    def renew(self) -> None:
        """Close the idle connections, and the others when they are put back, so that new ones log in again."""
        with self._lock:
            self._outdated.update(self._open)
        while True:
            try:
                connection, _ = self._idle.pop()
            except IndexError:
                return
            self.close(connection)

    def end(self) -> None:
        """Close the idle connections, and from now on any other as soon as it is put back."""
        self._is_ended = True
        self.renew()

    def _new_or_awaited(self) -> Any:
        """A new connection, or at the limit one that a thread puts back. Raises ``Overloaded`` if it takes too long."""
        turn = _Turn()
        try:
            with self._lock:
                self._waiting.append(turn)
                self._serve()
            self._wait(turn)
            if turn.connection is None and turn in self._open:
                turn.connection = own_connections.new_connection(self._pool)
                with self._lock:
                    self._open.add(turn.connection)
            with self._lock:
                connection, turn.connection = turn.connection, None
        finally:
            self._end(turn)
        if connection is None:
            raise Overloaded(
                f"all {self._max_connections} connections were in use for {self._max_wait:g} s: "
                "use fewer threads, or a client with a higher max_connections"
            )
        return connection

    def _wait(self, turn: _Turn) -> None:
        ends = monotonic() + self._max_wait
        while (left := ends - monotonic()) > 0 and not turn.served.acquire(timeout=min(left, _LOOK_SECONDS)):
            with self._lock:
                if turn not in self._waiting and turn.served.locked():  # the thread that removed it was interrupted
                    self._waiting.appendleft(turn)
                self._serve()

    def _end(self, turn: _Turn) -> None:
        """Remove a turn, and give to others what it still has: a connection, or the right to open one."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            self._open.discard(turn)
            self._serve()
        if turn.connection is not None:
            self.put_back(turn.connection)

    def _serve(self) -> None:
        """Give idle connections and room to the threads that wait. The caller has the lock."""
        while self._waiting:
            try:
                connection = self._idle.pop()[0]
            except IndexError:
                if len(self._open) >= self._max_connections:
                    return
                connection = None
            turn = self._waiting.popleft()
            turn.connection = connection
            if connection is None:
                self._open.add(turn)
            turn.served.release()

    def _opened(self, connection: Any) -> Any:
        try:
            connection.connect()
        except BaseException:
            self.close(connection)
            raise
        return connection

    def _looked_at(self, connection: Any) -> Any:
        """The connection; opened anew if the server has closed it, or if it has data that nobody has read."""
        try:
            if connection.can_read():
                connection.disconnect()
            else:
                connection.check_health()
        except (RedisError, OSError):
            connection.disconnect()
        except BaseException:
            self.close(connection)
            raise
        return self._opened(connection)


def exchange(connection: Any, calls: Sequence[Call[Any]], commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
    """The replies to commands, errors included. Sets ``may_have_run`` of the calls if their replies may be lost."""
    packed = pack(commands)
    sent = len(commands) > 1
    replies: list[Any] = []
    try:
        connection.send_packed_command([packed], check_health=False)
        sent = True
        replies.extend(_reply(connection) for _ in commands)
    except BaseException as error:
        # A single command whose sending failed was sent in part at most, so the server does not run it. But any other
        # exception, such as that of a signal handler, may have been raised after all was sent.
        if sent or not isinstance(error, RedisConnectionError):
            for call in calls:
                call.may_have_run = True
        client_errors.raise_if_ended_half_way(replies, error)
        raise
    return replies


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except RedisError as error:
        if client_errors.is_reply(error):
            return error
        raise

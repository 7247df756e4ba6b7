"""Lets no more calls change a key at once than the key remembers call ids, so that a retry is recognised."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from voucher_sessions._core.call import Call
from voucher_sessions._core.client_errors import Overloaded

# As many call ids as book.lua remembers for each key.
MAX_CHANGES: Final = 4
# The most tasks of one engine that may wait for keys, whichever keys; further ones raise ``Overloaded``.
MAX_WAITING: Final = 20_000
# A waiting thread checks its key again after this time: the thread that should have woken it may have been interrupted
# by a signal handler.
_LOOK_SECONDS: Final = 0.1

Turn = TypeVar("Turn")


class _Users(Generic[Turn]):
    """The calls that may change each key at the moment, and the turns of those that wait for a key."""

    def __init__(self, tell: Callable[[Turn], bool]) -> None:
        self._tell = tell
        self._reset()

    def _reset(self) -> None:
        self._users: dict[bytes, set[Call[Any]]] = {}
        self._waiting: dict[bytes, deque[Turn]] = {}
        self.waiting = 0  # how many turns there are
        self._lock = threading.RLock()  # a signal handler may call, too
        self._process = os.getpid()

    def enter(self, calls: Sequence[Call[Any]]) -> bytes | None:
        """Add the calls to the users of their keys. If a key has no place left, add none, and return that key."""
        self._check_process()
        users = self._users
        with self._lock:
            for call in calls:
                for key in call.changed_keys:
                    if key in users and len(users[key]) >= MAX_CHANGES:
                        return key
            for call in calls:
                for key in call.changed_keys:
                    users.setdefault(key, set()).add(call)
        return None

    def enter_or_wait(self, calls: Sequence[Call[Any]], new_turn: Callable[[], Turn]) -> tuple[bytes, Turn] | None:
        """As ``enter``. If a key has no place left, it is returned with a new turn, for which the caller waits."""
        self._check_process()
        with self._lock:
            key = self.enter(calls)
            if key is None:
                return None
            turn = new_turn()
            self._waiting.setdefault(key, deque()).append(turn)
            self.waiting += 1
            return key, turn

    def leave(self, calls: Sequence[Call[Any]]) -> None:
        """Remove the calls, and wake one waiting caller for each of their keys. Ignore calls that have not entered."""
        with self._lock:
            for call in calls:
                for key in call.changed_keys:
                    users = self._users.get(key)
                    if users and call in users:
                        users.remove(call)
                        if not users:
                            del self._users[key]
                        if self._waiting:
                            self.tell_one(key)

    def tell_one(self, key: bytes) -> None:
        """Wake the caller that has waited longest for a key, so that it tries to enter again."""
        with self._lock:
            turns = self._waiting.get(key)
            while turns:
                self.waiting -= 1
                if self._tell(turns.popleft()):
                    return

    def end(self, key: bytes, turn: Turn) -> bool:
        """Remove a turn: its caller waits no longer. False if ``tell_one`` has removed it already."""
        with self._lock:
            turns = self._waiting.get(key, deque())
            try:
                turns.remove(turn)
                self.waiting -= 1
            except ValueError:
                return False
            finally:
                if not turns:
                    self._waiting.pop(key, None)
        return True

    def _check_process(self) -> None:
        """After a fork, begin anew: the other threads continue in the parent process alone."""
        if self._process != os.getpid():
            self._reset()


class KeysInUse:
    """For threads. Calls take their keys before they are sent, and give them back when they have ended."""

    def __init__(self) -> None:
        self._users: _Users[threading.Lock] = _Users(_release)

    def take(self, calls: Sequence[Call[Any]]) -> None:
        """Wait until the calls may change their keys. A call that is interrupted in here must give them back, too."""
        told: bytes | None = None
        while (full := self._users.enter_or_wait(calls, _locked)) is not None:
            key, turn = full
            if told is not None and told != key:
                self._users.tell_one(told)
            turn.acquire(timeout=_LOOK_SECONDS)
            self._users.end(key, turn)
            told = key

    def give_back(self, calls: Sequence[Call[Any]]) -> None:
        """The calls have ended."""
        self._users.leave(calls)


class AsyncKeysInUse:
    """The same for tasks, also for those of several event loops in threads."""

    def __init__(self, calls_of_closed_loops: Callable[[], Sequence[Call[Any]]] = list) -> None:
        self._users: _Users[asyncio.Future[None]] = _Users(_tell)
        self._calls_of_closed_loops = calls_of_closed_loops

    def take_at_once(self, calls: Sequence[Call[Any]]) -> bool:
        """Whether the calls may change their keys now. ``take`` waits until they may."""
        return self._users.enter(calls) is None

    async def take(self, calls: Sequence[Call[Any]]) -> None:
        """Wait until the calls may change their keys; raises ``Overloaded`` if too many tasks wait already."""
        self._users.leave(self._calls_of_closed_loops())
        told: bytes | None = None
        while (full := self._users.enter_or_wait(calls, _new_future)) is not None:
            key, turn = full
            if told is not None and told != key:
                self._users.tell_one(told)
            if self._users.waiting > MAX_WAITING:
                self._users.end(key, turn)
                raise Overloaded(
                    f"{MAX_WAITING:,} calls wait for earlier calls that change the same keys: start fewer calls at once"
                )
            try:
                await turn
            except BaseException:
                if not self._users.end(key, turn):
                    self._users.tell_one(key)
                raise
            told = key

    def give_back(self, calls: Sequence[Call[Any]]) -> None:
        """The calls have ended."""
        self._users.leave(calls)


def _release(turn: threading.Lock) -> bool:
    turn.release()
    return True


def _locked() -> threading.Lock:
    turn = threading.Lock()
    turn.acquire()
    return turn


def _new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def _tell(turn: asyncio.Future[None]) -> bool:
    """Wake a task. False if its event loop is closed."""
    try:
        turn.get_loop().call_soon_threadsafe(_come, turn)
    except RuntimeError:
        return False
    return True


def _come(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)

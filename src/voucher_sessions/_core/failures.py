"""What the errors of a client mean: whether the script ran, whether time helps, and what a reader should do.

The one module without I/O that knows redis-py's exceptions; all others ask it.
"""

from __future__ import annotations

from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

# The script did not run: its slot has moved or is about to, has no primary for now, or the server loads its data.
_NOT_RUN: Final = (TryAgainError, ClusterError, SlotNotCoveredError, BusyLoadingError, AskError)
# The reply did not come; before RedisClusterException, nor did the news of who is primary now.
_LOST: Final = (RedisConnectionError, RedisTimeoutError, RedisClusterException)
# redis-py counts a refused password among the failed connections, but nothing can have run then.
_NO_ACCESS: Final = (AuthenticationError, AuthorizationError)
# The script did not run, for a reason that goes away when it is sent by itself; MOVED is a kind of ASK to redis-py.
_RUNS_WHEN_SENT_ALONE: Final = (AskError, NoScriptError, TryAgainError)

# What an error of a server's is known by, its kind in redis-py or words of its own, and what helps.
_REMEDIES: Final = {
    ("OutOfMemoryError", "OOM "): "Its memory is full: raise maxmemory, or delete what is not needed",
    ("ReadOnlyError", "READONLY "): "It is a replica: connect to the primary",
    ("NoPermissionError", "NOPERM ", "can't run this command", "permissions"): (
        "The user lacks a permission: docs/server.md has the ACL rule, check_server() tells what is missing"
    ),
    ("BUSY ",): "Another script keeps it busy: SCRIPT KILL ends that one",
    ("MISCONF ",): "It cannot write to its disk: its log says why",
    ("NOREPLICAS ",): "Too few replicas are in step for its min-replicas-to-write",
}


def is_passing(error: Exception) -> bool:
    """Whether a failure is one of the moment: of a connection, of servers that change roles or places."""
    if isinstance(error, _NO_ACCESS) or isinstance(error.__cause__, _NO_ACCESS):  # redis.asyncio wraps it in another
        return False
    return isinstance(error, _LOST + _NOT_RUN)


def is_forbidden(error: BaseException) -> bool:
    """Whether a cluster's client may not ask who serves what: no time helps, though the call's first try may have run."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NoPermissionError):
        cause = cause.__cause__ or cause.__context__  # redis.asyncio names no cause
    return cause is not None


def is_refusal(error: BaseException) -> bool:
    """Whether a server has answered that it would not run a command."""
    return isinstance(error, ResponseError)


def is_unknown_script(error: object) -> bool:
    """Whether a server does not have the script that EVALSHA named."""
    return isinstance(error, NoScriptError)


def runs_when_sent_alone(error: Exception) -> bool:
    """Whether a script did not run in a batch, for a reason that goes away when it is sent by itself."""
    return isinstance(error, _RUNS_WHEN_SENT_ALONE)


def remedy(error: Exception) -> str:
    """What helps against an error of a server."""
    told = f"{type(error).__name__} {error}"
    found = [remedy for signs, remedy in _REMEDIES.items() if any(sign in told for sign in signs)]
    return found[0] if found else "check_server() tells what a server lacks"

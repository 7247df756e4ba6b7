"""Classifies the exceptions of redis-py: whether the script may have run, whether a retry can help, and the remedy.

No other module of ``_core`` imports the exceptions of redis-py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    InvalidResponse,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from voucher_sessions.errors import without_secrets


class OutOfStep(RedisConnectionError):
    """A connection gave the reply to another command. It must be closed, and the reply to this call is lost.

    This happens if a command was interrupted between its sending and its reply, by a signal handler that raises, say,
    and the connection was used again.
    """


class Unproven(OutOfStep):
    """The server refused ECHO and the call alike, which proves nothing about a connection that was used before."""


class ConnectionClosed(RedisConnectionError):
    """Another task closed the connection that a command was using, or it is of another event loop: no reply comes."""


class Overloaded(RedisConnectionError):
    """Too many calls of the engine are waiting, or no connection was put back in time. This try was not sent."""


class EndedHalfWay(RedisConnectionError):
    """A script ended with an error, perhaps half-way, and then the connection failed. It must not be run again."""


# How often a call is sent again because a connection was out of step. Each time, the idle connections are closed.
MAX_OUT_OF_STEP: Final = 10
# The script did not run: its slot moves or has moved, its slot has no primary at the moment, or the server is loading.
_NOT_RUN: Final = (TryAgainError, ClusterError, SlotNotCoveredError, BusyLoadingError, AskError)
# No reply was received. RedisClusterException: the client could not read the slot table either.
_NO_REPLY: Final = (RedisConnectionError, RedisTimeoutError, RedisClusterException, InvalidResponse)
# Subclasses of ConnectionError in redis-py, but after a refused login nothing can have run.
_NO_ACCESS: Final = (AuthenticationError, AuthorizationError)
# Mistakes in the code of the application, in a credential provider, say.
_MISTAKES: Final = (AttributeError, TypeError, NameError, LookupError, AssertionError, RuntimeError)
# The script did not run in a batch, but will when it is sent alone: the client then follows redirections, or sends the
# text. redis-py's MovedError is a subclass of AskError.
_RUNS_WHEN_SENT_ALONE: Final = (AskError, NoScriptError, TryAgainError, OutOfStep)

# The remedy for an error of the server, by the name of its class in redis-py or by parts of its text.
_REMEDIES: Final = {
    ("OutOfMemoryError", "OOM "): "Its memory is full: raise maxmemory, or delete keys that are not needed",
    ("ReadOnlyError", "READONLY "): "It is a replica: connect to the primary",
    ("NoPermissionError", "NOPERM ", "can't run this command", "permissions"): (
        "The user lacks a permission: docs/server.md has the ACL rule, check_server() lists what is missing"
    ),
    ("unknown command",): "It does not have this command: check what the client is connected to, a Sentinel perhaps",
    ("BUSY ",): "Another script blocks it: SCRIPT KILL ends that script if it has not written anything",
    ("MISCONF ",): "It cannot write to its disk: see the log of the server",
    ("NOREPLICAS ",): (
        "Fewer replicas are in sync than its min-replicas-to-write requires: reconnect or add replicas, or lower it"
    ),
}


def remove_secrets(error: BaseException) -> None:
    """Remove session keys and passwords from the text of a client's error, and of those that it was raised from."""
    seen: set[int] = set()
    behind: list[BaseException | None] = [error]
    while behind:
        each = behind.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            behind += [each.__cause__, each.__context__]
            with suppress(Exception):  # an exception of the application may have args that cannot be changed
                each.args = tuple(without_secrets(arg) if isinstance(arg, str) else arg for arg in each.args)
            if isinstance(each, OSError) and isinstance(each.strerror, str):  # its text does not come from its args
                each.strerror = without_secrets(each.strerror)


def is_transient(error: Exception) -> bool:
    """Whether a later try may succeed: the connection failed, a failover is under way, or a slot is moving."""
    if isinstance(error, OutOfStep | ConnectionClosed):
        return True
    if isinstance(error, Overloaded | EndedHalfWay):
        return False
    # redis.asyncio raises every error while it connects as a ConnectionError that is chained to it.
    if isinstance(error, _NO_ACCESS) or isinstance(error.__cause__, _NO_ACCESS + _MISTAKES):
        return False
    return isinstance(error, _NO_REPLY + _NOT_RUN)


def may_be_repeated(error: Exception) -> bool:
    """Whether a call may be sent again after this error, if the application's ``Retry`` asks for it."""
    return is_transient(error) or (is_refusal(error) and not is_inside_a_script(error))


def is_without_answer(error: Exception) -> bool:
    """Whether a call ended without an answer about it, so that it has changed nothing unless it has run."""
    return is_transient(error) or isinstance(error, Overloaded | EndedHalfWay)


def is_refused_before_it_ran(error: BaseException) -> bool:
    """Whether the server refused the last try before a script ran. It says nothing about an earlier try."""
    return is_refused_login(error) or (is_refusal(error) and not is_inside_a_script(error))


def is_loading(error: object) -> bool:
    """Whether the server refused a command because it is loading its data."""
    return isinstance(error, BusyLoadingError)


def leaves_unknown(error: BaseException) -> bool:
    """Whether a call may have run that ended with this error."""
    return not isinstance(error, Unproven) and (isinstance(error, _NOT_RUN) or not is_refused_before_it_ran(error))


def is_pool_exhausted(error: BaseException) -> bool:
    """Whether the client's pool had no free connection: a client of one server has sent nothing then."""
    return isinstance(error, MaxConnectionsError)


def is_reply(error: Exception) -> bool:
    """Whether an error that was raised while a reply was read is that reply.

    redis-py has subclasses of ConnectionError for some replies, such as LOADING; a failure of the connection is a
    ConnectionError itself.
    """
    return isinstance(error, ResponseError) or (
        isinstance(error, RedisConnectionError) and type(error) is not RedisConnectionError
    )


def is_cluster_view_forbidden(error: BaseException) -> bool:
    """Whether the user may not run CLUSTER SLOTS, which a cluster's client needs after a failure.

    No retry can succeed then, although the first try of the call may have run.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NoPermissionError):
        cause = cause.__cause__ or cause.__context__  # redis.asyncio sets no __cause__
    return cause is not None


def is_refusal(error: BaseException) -> bool:
    """Whether the server replied that it does not run the command: a ``ResponseError``."""
    return isinstance(error, ResponseError)


def is_proven_by_itself(error: Exception) -> bool:
    """Whether an error needs no proof that it is about this call: it does not come from a reply, or is retried anyway.

    A refused login is raised for a new connection, but it can also be the reply to another command, AUTH.
    """
    return is_transient(error) or not isinstance(error, (ResponseError, *_NO_ACCESS))


def proves_in_step(call_id: str, echo: object) -> bool:
    """Whether the reply to ``ECHO <call id>``, sent last, shows that each reply belongs to its own command."""
    return echo == call_id.encode()


def may_be_in_step(replies: Sequence[object], echo: object) -> bool:
    """Whether the replies can belong to the commands and the ECHO behind them, although ECHO was refused.

    The user may not run ECHO, or the server refuses all commands alike, since it is busy, say. Several replies to other
    commands can look the same, so this counts only on a new connection.
    """
    if is_echo_forbidden(echo):
        return True
    kinds = {(type(each), str(each).split(" ")[0]) for each in (*replies, echo)}
    return isinstance(echo, Exception) and len(kinds) == 1


def is_echo_forbidden(echo: object) -> bool:
    """Whether the user may not run ECHO."""
    return isinstance(echo, NoPermissionError) and "'echo'" in str(echo).lower()


def is_inside_a_script(error: BaseException) -> bool:
    """Whether a script was running when the error occurred. It may have ended half-way, so it must not run again.

    A second run would find the call id of the first one, and report that all was done.
    """
    return "@user_script" in str(error)


def raise_if_ended_half_way(replies: Iterable[object], lost: BaseException) -> None:
    """Raise ``EndedHalfWay`` if one of the replies is the error of a script, and those behind it were ``lost``."""
    for reply in replies if isinstance(lost, RedisError) else ():
        if isinstance(reply, Exception) and is_inside_a_script(reply):
            raise EndedHalfWay(str(reply)) from lost


def is_refused_login(error: BaseException) -> bool:
    """Whether the server did not accept the user or the password."""
    return isinstance(error, _NO_ACCESS)


def is_unknown_script(error: object) -> bool:
    """Whether the server does not have the script that EVALSHA names."""
    return isinstance(error, NoScriptError)


def is_about_slots(error: Exception) -> bool:
    """Whether a node of a cluster does not serve a slot, or not all of it."""
    return isinstance(error, (AskError, TryAgainError, ClusterError))


def runs_when_sent_alone(error: Exception) -> bool:
    """Whether a script that did not run in a batch will run when it is sent alone."""
    return isinstance(error, _RUNS_WHEN_SENT_ALONE)


def remedy(error: Exception) -> str:
    """What the operator can do about an error of the server."""
    description = f"{type(error).__name__} {error}"
    found = [remedy for signs, remedy in _REMEDIES.items() if any(sign in description for sign in signs)]
    return found[0] if found else "check_server() lists the problems of a server"

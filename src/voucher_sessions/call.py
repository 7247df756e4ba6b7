"""One call of one verb: what to send, and what its reply, or its failure, means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import uniform
from time import monotonic
from typing import Final, Generic, TypeVar

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from voucher_sessions.errors import (
    CorruptState,
    InvalidRequest,
    OutcomeUnknown,
    RedemptionConflict,
    RedemptionNotFound,
    ServerRefused,
    SessionNotFound,
    VoucherNotFound,
)
from voucher_sessions.replies import Reply
from voucher_sessions.scripts import Script

T = TypeVar("T")
Arg = bytes | int | str


# What a client raises for a command that failed; RedisClusterException is none of redis-py's RedisErrors.
CLIENT_ERRORS: Final = (RedisError, RedisClusterException)
_REPLY_TYPES: Final = frozenset((bytes, int))  # and no subclass: True is no figure
_NO_RESULT: Final = frozenset((b"again", b"voucher_missing", b"session_missing", b"redemption_missing", b"conflict"))
# The script did not run: its slot has moved or is about to, has no primary for now, or the server loads its data.
_NOT_RUN: Final = (TryAgainError, ClusterError, SlotNotCoveredError, BusyLoadingError, AskError)
# The reply did not come; before RedisClusterException, nor did the news of who is primary now.
_LOST: Final = (RedisConnectionError, RedisTimeoutError, RedisClusterException)
# redis-py counts a refused password among the failed connections, but nothing can have run then.
_NO_ACCESS: Final = (AuthenticationError, AuthorizationError)


class Patience:
    """How long a call is sent again, counted from its first failure."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: float | None = None

    def is_over(self) -> bool:
        """Whether the call must end now."""
        if self._ends is None:
            self._ends = monotonic() + self._seconds
        return monotonic() >= self._ends


class Again(Exception):
    """No error: more locks had expired than one script call reclaims, so the script asks to be called again."""


# Not frozen: that would cost as much as all the rest of it.
@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Call(Generic[T]):
    """Made ready by ``Calls``, sent by the engines. It can be sent again: a second run has no second effect.

    ``changes``: it can have an effect, so a lost reply matters.
    """

    verb: str
    codes: tuple[str, ...]
    script: Script
    keys: list[bytes]
    args: list[Arg]
    read: Callable[[Reply], T]
    changes: bool = True
    session_key: str | None = None
    redemption_id: str | None = None

    def __repr__(self) -> str:
        """Without keys and arguments: a session key is a capability."""
        return f"<{self.verb} of {', '.join(map(repr, self.codes))}>"

    def result(self, reply: Reply) -> T:
        """What the reply stands for; raises the domain's errors, ``Again``, or ``CorruptState``."""
        try:
            if type(reply) is not list or not _REPLY_TYPES.issuperset(map(type, reply)):
                raise TypeError("not a list of bytes and integers")
            if reply[0] in _NO_RESULT:
                raise self._no_result(reply)
            return self.read(reply)
        except InvalidRequest:  # a ValueError, but not one of the reply's
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError):
            pass  # what it says may quote the reply, and with it a session key: it must not be this error's context
        raise CorruptState(f"{self.verb}: the server's reply is not one of {self.script.name}.lua")

    def _no_result(self, reply: Reply) -> Exception:
        match reply[0]:
            case b"again":
                return Again()
            case b"voucher_missing":
                return VoucherNotFound(*self._told(reply))
            case b"session_missing":
                return SessionNotFound(*self._told(reply), session_key=self.session_key or "")
            case b"redemption_missing":
                return RedemptionNotFound(self._told(reply)[0], self.redemption_id or "")
            case _:
                return RedemptionConflict(self._told(reply)[0], self.redemption_id or "")

    def pause_after(self, error: RedisError | RedisClusterException, patience: Patience) -> float:
        """Seconds until the call is to be sent again; where that does not help, raises what its failure means."""
        if _is_passing(error) and not _is_forbidden(error) and not patience.is_over():
            return uniform(0.02, 0.08)
        raise self.meaning(error)

    def meaning(self, error: Exception) -> Exception:
        """What a failed command means for this call: an error of ours, or the client's own where that says it best."""
        meant = error
        # A client may have sent it several times: that the last try did not run says nothing of the first.
        if _is_passing(error):
            if self.changes:
                meant = OutcomeUnknown(
                    self.verb, self.codes, session_key=self.session_key, redemption_id=self.redemption_id
                )
        elif isinstance(error, ResponseError):
            if any(word in str(error) for word in ("CORRUPT ", "WRONGTYPE ")):
                codes = ", ".join(map(repr, self.codes))
                meant = CorruptState(f"{self.verb}: a key of {codes} holds what this library never wrote")
            else:
                meant = ServerRefused(self.verb, self.codes, str(error), _remedy(error))
        if meant is not error:
            meant.__cause__ = error
        return meant

    def _told(self, reply: Reply) -> list[str]:
        """The vouchers that a status speaks of, which counts from 1."""
        numbers = list(map(int, reply[1:]))
        if min(numbers) < 1:
            raise LookupError(f"voucher {min(numbers)}")
        return [self.codes[number - 1] for number in numbers]


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


def _remedy(error: ResponseError) -> str:
    told = f"{type(error).__name__} {error}"
    found = [remedy for signs, remedy in _REMEDIES.items() if any(sign in told for sign in signs)]
    return found[0] if found else "check_server() tells what a server lacks"


def _is_passing(error: Exception) -> bool:
    """Whether a failure is one of the moment: of a connection, of servers that change roles or places."""
    if isinstance(error, _NO_ACCESS) or isinstance(error.__cause__, _NO_ACCESS):  # redis.asyncio wraps it in another
        return False
    return isinstance(error, _LOST + _NOT_RUN)


def _is_forbidden(error: BaseException) -> bool:
    """Whether a cluster's client may not ask who serves what: no time helps, though the call's first try may have run."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NoPermissionError):
        cause = cause.__cause__ or cause.__context__  # redis.asyncio names no cause
    return cause is not None

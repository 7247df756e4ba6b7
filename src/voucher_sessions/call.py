"""One call of one verb: what to send, and what its reply, or its failure, means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import uniform
from time import monotonic
from typing import Final, Generic, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
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
    SessionNotFound,
    VoucherNotFound,
)
from voucher_sessions.replies import Reply
from voucher_sessions.scripts import Script

T = TypeVar("T")
Arg = bytes | int | str


# What a client raises for a command that failed; RedisClusterException is none of redis-py's RedisErrors.
CLIENT_ERRORS: Final = (RedisError, RedisClusterException)
# The script did not run: its slot is on its way to another node, has no primary for now, or the server loads its data.
_NOT_RUN: Final = (TryAgainError, ClusterError, SlotNotCoveredError, BusyLoadingError)
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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call(Generic[T]):
    """Made ready by ``Calls``, sent by the engines.

    ``changes``: it can have an effect, so a lost reply matters. ``repeatable``: where a first try took effect, a second
    has none and is answered alike.
    """

    verb: str
    codes: tuple[str, ...]
    script: Script
    keys: list[bytes]
    args: list[Arg]
    read: Callable[[Reply], T]
    changes: bool = True
    repeatable: bool = True
    session_key: str | None = None
    redemption_id: str | None = None

    def __repr__(self) -> str:
        """Without keys and arguments: a session key is a capability."""
        return f"<{self.verb} of {', '.join(map(repr, self.codes))}>"

    def result(self, reply: Reply) -> T:
        """What the reply stands for; raises the domain's errors, ``Again``, or ``CorruptState``."""
        try:
            match reply[0]:
                case b"again":
                    raise Again
                case b"voucher_missing":
                    raise VoucherNotFound(*self._told(reply))
                case b"session_missing":
                    raise SessionNotFound(*self._told(reply), session_key=self.session_key or "")
                case b"redemption_missing":
                    raise RedemptionNotFound(self._told(reply)[0], self.redemption_id or "")
                case b"conflict":
                    raise RedemptionConflict(self._told(reply)[0], self.redemption_id or "")
                case _:
                    return self.read(reply)
        except InvalidRequest:  # a ValueError, but not one of the reply's
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError):
            pass  # what it says may quote the reply, and with it a session key: it must not be this error's context
        raise CorruptState(f"{self.verb}: the server's reply is not one of {self.script.name}.lua")

    def pause_after(self, error: RedisError | RedisClusterException, patience: Patience) -> float:
        """Seconds until the call is to be sent again; where that does not help, raises what its failure means."""
        helps = self.repeatable or isinstance(error, _NOT_RUN)
        if _is_passing(error) and helps and not patience.is_over():
            return uniform(0.02, 0.08)
        self._raise_from(error)
        raise error

    def _raise_from(self, error: RedisError | RedisClusterException) -> None:
        """Raise what a failed command means for this call; return where the client's own error says it best."""
        # A client may have sent it several times: that the last try did not run says nothing of the first.
        if self.changes and _is_passing(error):
            raise OutcomeUnknown(
                self.verb, self.codes, session_key=self.session_key, redemption_id=self.redemption_id
            ) from error
        if isinstance(error, ResponseError) and any(word in str(error) for word in ("CORRUPT ", "WRONGTYPE ")):
            raise CorruptState(
                f"{self.verb}: a key of {', '.join(map(repr, self.codes))} holds what this library never wrote"
            ) from error

    def _told(self, reply: Reply) -> list[str]:
        """The vouchers that a status speaks of, which counts from 1."""
        return [self.codes[int(number) - 1] for number in reply[1:]]


def _is_passing(error: Exception) -> bool:
    """Whether a failure is one of the moment: of a connection, of servers that change roles or places."""
    return isinstance(error, _LOST + _NOT_RUN) and not isinstance(error, _NO_ACCESS)

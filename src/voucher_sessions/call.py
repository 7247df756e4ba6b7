"""One call of one verb: what to send, and what its reply, or its failure, means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError
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


class Again(Exception):
    """No error: more locks had expired than one script call reclaims, so the script asks to be called again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """Made ready by ``Calls``, sent by the engines. ``changes``: it can have an effect, so a lost reply matters."""

    verb: str
    codes: tuple[str, ...]
    script: Script
    keys: list[bytes]
    args: list[Arg]
    read: Callable[[Reply], T]
    changes: bool = True
    session_key: str | None = None
    redemption_id: str | None = None

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
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise CorruptState(f"{self.verb}: the server's reply is not one of {self.script.name}.lua") from error

    def raise_from(self, error: RedisError) -> None:
        """Raise what a failed command means for this call; return where the client's own error says it best."""
        lost = isinstance(error, RedisConnectionError | RedisTimeoutError)
        # redis-py counts a refused password among the failed connections, but nothing can have run then.
        if self.changes and lost and not isinstance(error, AuthenticationError | AuthorizationError):
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

"""One call of one verb: what to send, and what its reply, or its failure, means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import uniform
from time import monotonic
from typing import Final, Generic, TypeVar

from voucher_sessions._core import failures
from voucher_sessions._core.replies import Reply
from voucher_sessions._core.scripts import Script
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

T = TypeVar("T")
Arg = bytes | int | str


_REPLY_TYPES: Final = frozenset((bytes, int))  # and no subclass: True is no figure
_NO_RESULT: Final = frozenset((b"again", b"voucher_missing", b"session_missing", b"redemption_missing", b"conflict"))


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
    """Made ready by ``Verbs``, sent by the engines. It can be sent again: a second run has no second effect.

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

    def pause_after(self, error: Exception, patience: Patience) -> float:
        """Seconds until the call is to be sent again; where that does not help, raises what its failure means."""
        if failures.is_passing(error) and not failures.is_forbidden(error) and not patience.is_over():
            return uniform(0.02, 0.08)
        raise self.meaning(error)

    def meaning(self, error: Exception) -> Exception:
        """What a failed command means for this call: an error of ours, or the client's own where that says it best."""
        meant = error
        # A client may have sent it several times: that the last try did not run says nothing of the first.
        if failures.is_passing(error):
            if self.changes:
                meant = OutcomeUnknown(
                    self.verb, self.codes, session_key=self.session_key, redemption_id=self.redemption_id
                )
        elif failures.is_refusal(error):
            if any(word in str(error) for word in ("CORRUPT ", "WRONGTYPE ")):
                codes = ", ".join(map(repr, self.codes))
                meant = CorruptState(f"{self.verb}: a key of {codes} holds what this library never wrote")
            else:
                meant = ServerRefused(self.verb, self.codes, str(error), failures.remedy(error))
        if meant is not error:
            meant.__cause__ = error
        return meant

    def _told(self, reply: Reply) -> list[str]:
        """The vouchers that a status speaks of, which counts from 1."""
        numbers = list(map(int, reply[1:]))
        if min(numbers) < 1:
            raise LookupError(f"voucher {min(numbers)}")
        return [self.codes[number - 1] for number in numbers]

"""One call of a verb: the script and arguments to send, and the result or error for its reply or failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import uniform
from time import monotonic
from typing import Final, Generic, TypeVar

from voucher_sessions._core import client_errors
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


_REPLY_TYPES: Final = frozenset((bytes, int))  # exactly these types: bool is a subclass of int, and not valid here
_STATUSES_WITHOUT_RESULT: Final = frozenset(
    (b"again", b"voucher_missing", b"session_missing", b"redemption_missing", b"conflict")
)


class RetryPeriod:
    """The time for which a call that fails is sent again. It begins with the first failure."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: float | None = None

    def is_over(self) -> bool:
        """Whether the time has passed. The first call of this method starts it."""
        if self._ends is None:
            self._ends = monotonic() + self._seconds
        return monotonic() >= self._ends


class CallAgain(Exception):
    """Not a failure: more locks had expired than one script call reclaims, so the same call must be sent again."""


# Not frozen: a frozen dataclass takes twice as long to make.
@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Call(Generic[T]):
    """Built by ``Verbs``, sent by a transport. It can be sent any number of times: only the first run has an effect.

    ``read`` turns the script's reply into the result. ``changes`` is False if the script only reads; a lost reply then
    leaves nothing unknown.
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
        """Without keys and arguments: they contain the session key, which must not appear in logs."""
        return f"<{self.verb} of {', '.join(map(repr, self.codes))}>"

    def evalsha_command(self) -> tuple[Arg, ...]:
        """The command that runs the script if the server has it; otherwise the server answers NOSCRIPT."""
        return "EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args

    def eval_command(self) -> tuple[Arg, ...]:
        """The command that carries the script's text, so that the server has the script afterwards."""
        return "EVAL", self.script.text, len(self.keys), *self.keys, *self.args

    def result(self, reply: Reply) -> T:
        """The result that the reply stands for.

        Raises the error of a refusal (such as ``VoucherNotFound``), ``CallAgain``, or ``CorruptState`` for a reply that
        the script cannot have given.
        """
        try:
            if type(reply) is not list or not _REPLY_TYPES.issuperset(map(type, reply)):
                raise TypeError("not a list of bytes and integers")
            if reply[0] in _STATUSES_WITHOUT_RESULT:
                raise self._error_of_status(reply)
            return self.read(reply)
        except InvalidRequest:  # a ValueError as well, but not about the form of the reply
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError):
            # Raised below, so that this error is not its __context__: its text may quote the reply and a session key.
            pass
        raise CorruptState(
            f"{self.verb}: the reply does not have the form that {self.script.name}.lua returns: check which server the "
            "client is connected to, and whether a proxy or a wrapper of the client changes replies"
        )

    def _error_of_status(self, reply: Reply) -> Exception:
        match reply[0]:
            case b"again":
                return CallAgain()
            case b"voucher_missing":
                return VoucherNotFound(*self._codes_in(reply))
            case b"session_missing":
                return SessionNotFound(*self._codes_in(reply), session_key=self.session_key or "")
            case b"redemption_missing":
                return RedemptionNotFound(self._codes_in(reply)[0], self.redemption_id or "")
            case _:
                return RedemptionConflict(self._codes_in(reply)[0], self.redemption_id or "")

    def pause_before_retry(self, error: Exception, period: RetryPeriod) -> float:
        """Seconds to wait before the call is sent again; raises the call's error if no retry can help."""
        if (
            client_errors.is_transient(error)
            and not client_errors.is_cluster_view_forbidden(error)
            and not period.is_over()
        ):
            return uniform(0.02, 0.08)
        raise self.error_for(error)

    def error_for(self, error: Exception) -> Exception:
        """The error that this call raises when the client raised ``error``.

        A failure of the connection is ``OutcomeUnknown`` for a call that changes something, even if the server says
        that the script did not run: the client may have sent it before, and that run may have succeeded. A refusal is
        ``CorruptState`` or ``ServerRefused``. Any other error is returned as it is.
        """
        raised = error
        if client_errors.is_transient(error):
            if self.changes:
                raised = OutcomeUnknown(
                    self.verb, self.codes, session_key=self.session_key, redemption_id=self.redemption_id
                )
        elif client_errors.is_refusal(error):
            if any(word in str(error) for word in ("CORRUPT ", "WRONGTYPE ")):
                codes = ", ".join(map(repr, self.codes))
                raised = CorruptState(
                    f"{self.verb}: a key of {codes} contains a value that this library did not write: "
                    "find out what else writes under the prefix"
                )
            else:
                raised = ServerRefused(self.verb, self.codes, str(error), client_errors.remedy(error))
        if raised is not error:
            raised.__cause__ = error
        return raised

    def _codes_in(self, reply: Reply) -> list[str]:
        """The codes of the vouchers that follow a status. The script numbers them from 1."""
        numbers = list(map(int, reply[1:]))
        if min(numbers) < 1:
            raise LookupError(f"voucher {min(numbers)}")
        return [self.codes[number - 1] for number in numbers]

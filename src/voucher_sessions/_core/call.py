"""One call of a verb: the script and arguments to send, and the result or error for its reply or failure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import uniform
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from voucher_sessions._core import client_errors
from voucher_sessions._core.replies import UNREADABLE, ForeignValue, Item, Reply
from voucher_sessions._core.requests import VoucherRequest, new_call_id
from voucher_sessions._core.scripts import Script
from voucher_sessions.errors import (
    AmountRequired,
    CorruptState,
    InvalidRequest,
    OutcomeUnknown,
    RedemptionConflict,
    RedemptionNotFound,
    ServerRefused,
    ServerUnavailable,
    SessionNotFound,
    UnknownFormat,
    VoucherExists,
    VoucherNotFound,
    call_in_text,
)

T = TypeVar("T")
# Numbers are sent as text: hiredis can crash the process if a signal handler raises while it packs an int.
Arg = bytes | str


_REPLY_TYPES: Final = frozenset((bytes, int))  # exactly these types: bool is a subclass of int, and not valid here
_STATUSES_WITHOUT_RESULT: Final = frozenset(
    (
        b"again",
        b"exists",
        b"voucher_missing",
        b"session_missing",
        b"redemption_missing",
        b"amount_required",
        b"conflict",
    )
)


# How the scripts, and Redis for a key of another type, say that a stored value cannot be read.
_STORED_VALUE: Final = re.compile(r"CORRUPT |WRONGTYPE |FORMAT (?P<format>\d+) ")


# How long after a failure the first call of an engine is tried again: at least so long, and so many times as long as
# the try took.
FIRST_CALL_PAUSE_SECONDS: Final = 10
FIRST_CALL_PAUSE_FACTOR: Final = 20


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


@contextmanager
def sent_by_a_client(calls: Sequence[Call[Any]], *, clustered: bool = False) -> Iterator[None]:
    """Set ``may_have_run`` of the calls if a client fails to send them, unless it is known that it sent nothing.

    ``clustered``: the client repeats a call on its own, so what it raises says nothing about earlier tries.
    """
    try:
        yield
    except BaseException as error:
        sent = client_errors.leaves_unknown(error) and (clustered or not client_errors.is_pool_exhausted(error))
        for call in calls if sent else ():
            call.may_have_run = True
        raise


class CallAgain(Exception):
    """Not a failure: more locks had expired than one script call reclaims, so the same call must be sent again."""


class Abandoned(Protocol):
    """What was sent for a call that was cancelled: ``on_end`` is called when its reply has come or is lost."""

    on_end: Callable[[], object] | None


# Not frozen: a frozen dataclass takes twice as long to make.
@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Call(Generic[T]):
    """Built by ``Verbs``, sent by a transport. It can be sent any number of times: only the first run has an effect.

    ``verb`` is the name of the engine's method; ``requested`` has the amounts that the call names for each voucher.
    ``read`` turns the script's reply, without the call id at its beginning, into the result. ``changes`` is False if the
    script only reads; a lost reply then leaves nothing unknown. ``changed_keys`` are those keys that may keep its id.
    ``key_in_text`` is the name of the call's only key, for texts, if it is not a key of a voucher.
    ``may_have_run`` becomes True when a try may have reached the server and its reply was not read. ``abandoned`` is set
    when the task of the call was cancelled while it waited for a reply.
    """

    verb: str
    codes: tuple[str, ...]
    script: Script
    keys: list[bytes]
    args: list[Arg]
    read: Callable[[Reply], T]
    changes: bool = True
    requested: Sequence[VoucherRequest] = ()
    session_key: str | None = None
    redemption_id: str | None = None
    rollback_id: str | None = None
    adjustment_id: str | None = None
    changed_keys: Sequence[bytes] = ()
    key_in_text: str | None = None
    id: str = field(default_factory=new_call_id)
    may_have_run: bool = False
    abandoned: Abandoned | None = None

    def __repr__(self) -> str:
        """Without keys and arguments: they contain the session key, which must not appear in logs."""
        return f"<{call_in_text(self.verb, self.codes)}>"

    def before(self, calls: Sequence[Call[Any]]) -> Call[T]:
        """This call, to be sent before others. Its errors name the first of them, which is the one that users know."""
        return replace(self, verb=calls[0].verb, codes=calls[0].codes) if calls else self

    def evalsha_command(self) -> tuple[Arg, ...]:
        """The command that runs the script if the server has it; otherwise the server answers NOSCRIPT."""
        return "EVALSHA", self.script.sha, str(len(self.keys)), *self.keys, self.id, *self.args

    def eval_command(self) -> tuple[Arg, ...]:
        """The command that carries the script's text, so that the server has the script afterwards."""
        return "EVAL", self.script.text, str(len(self.keys)), *self.keys, self.id, *self.args

    def result(self, reply: Reply) -> T:
        """The result that the reply stands for.

        Raises ``OutOfStep`` if it is not the reply to this call; the error of a refusal (such as ``VoucherNotFound``),
        ``CallAgain``; ``CorruptState`` for a reply that the script cannot have given, or that contains a stored value
        which this library did not write.
        """
        if not self.is_own(reply):
            raise client_errors.OutOfStep(f"{self.verb}: the connection gave the reply to another command")
        reply = reply[1:]
        foreign_format: int | None = None
        is_foreign = False
        try:
            if not _REPLY_TYPES.issuperset(map(type, reply)):
                raise TypeError("not a list of bytes and integers")
            if reply[0] in _STATUSES_WITHOUT_RESULT:
                raise self._error_of_status(reply)
            return self.read(reply)
        except InvalidRequest:  # a ValueError as well, but not about the form of the reply
            raise
        except ForeignValue as error:
            foreign_format = error.format
            is_foreign = not self._has_written(reply)
        except UNREADABLE:
            pass
        # Raised here, so that the errors above are not its __context__: a text may quote the reply and a session key.
        if is_foreign:
            raise self._error_of_stored_value(foreign_format)
        unknown = ", so the change may have happened" if self.changes else ""
        raise CorruptState(
            f"{self.verb}: the reply does not have the form that {self.script.name}.lua returns{unknown}: check which "
            "server the client is connected to, whether a proxy or a wrapper of the client changes replies, and what "
            "else writes under the prefix"
        )

    def _has_written(self, reply: Reply) -> bool:
        """Whether a stored value in the reply has the id of this call, which the script stores with each change."""
        return any(isinstance(item, bytes) and self.id.encode() in item for item in reply)

    def _error_of_stored_value(self, newer_format: int | None) -> CorruptState:
        """The error for a stored value in a newer format; None: in a form that this library does not write."""
        if newer_format is not None:
            at_key = f", at the key {self.key_in_text!r}" if self.key_in_text else ""
            return UnknownFormat(call_in_text(self.verb, self.codes) + at_key, newer_format)
        call, keys = self.verb, f"a key of {', '.join(map(repr, self.codes))}"
        if self.key_in_text:
            call, keys = call_in_text(self.verb, self.codes), f"the key {self.key_in_text!r}"
        earlier = self.changes and self.may_have_run
        nothing_changed = "this try changed nothing, but an earlier one may have" if earlier else "nothing was changed"
        return CorruptState(
            f"{call}: {keys} contains a value that this library did not write, so {nothing_changed}: find out what else "
            "writes under the prefix"
        )

    def is_own(self, reply: object) -> bool:
        """Whether a reply is the one to this call: it begins with the call id."""
        return type(reply) is list and len(reply) > 0 and reply[0] == self.id.encode()

    def check_in_step(self, replies: Sequence[object], echo: object, *, reconnected: bool) -> bool:
        """Whether the connection is in step, by the replies to the call and to the ECHO of its id behind it.

        Raises ``OutOfStep`` if the first of ``replies`` is not proven to be the one to this call. ``reconnected``: the
        connection is new. False: the reply is the one to an earlier try of this call, and others follow it.
        """
        if client_errors.proves_in_step(self.id, echo):
            return True
        may_be_in_step = client_errors.may_be_in_step(replies, echo)
        if not (self.is_own(replies[0]) or (may_be_in_step and reconnected)):
            kind = client_errors.Unproven if may_be_in_step else client_errors.OutOfStep
            raise kind(f"{self.verb}: ECHO got the reply to another command")
        return may_be_in_step

    def _error_of_status(self, reply: Reply) -> Exception:
        if reply[0] == b"again":
            return CallAgain()
        codes = self._codes_in(reply)
        errors: dict[Item, Callable[[], Exception]] = {
            b"exists": lambda: VoucherExists(codes[0]),
            b"voucher_missing": lambda: VoucherNotFound(*codes),
            b"session_missing": lambda: SessionNotFound(self.session_key or "", *codes),
            b"amount_required": lambda: AmountRequired(*codes),
            b"redemption_missing": lambda: RedemptionNotFound(codes[0], self.redemption_id or ""),
            b"conflict": lambda: RedemptionConflict(codes[0], self.redemption_id or ""),
        }
        return errors[reply[0]]()

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

        A failure of the connection, or too many waiting calls, is ``OutcomeUnknown`` for a call that changes something
        and may have run, even if the last try did not run: an earlier one may have. Otherwise it is
        ``ServerUnavailable``. A refusal is ``CorruptState`` or ``ServerRefused``; it says nothing about an earlier try
        either. Any other error is returned as it is. No text of the client's errors has a session key or a password then.
        """
        client_errors.remove_secrets(error)
        raised = error
        without_answer = client_errors.is_without_answer(error)
        if self.changes and self.may_have_run and (without_answer or client_errors.is_refused_before_it_ran(error)):
            raised = OutcomeUnknown(
                self.verb,
                self.codes,
                session_key=self.session_key,
                redemption_id=self.redemption_id,
                rollback_id=self.rollback_id,
                adjustment_id=self.adjustment_id,
            )
        elif without_answer:
            raised = ServerUnavailable(self.verb, self.codes, self._problem(error))
        elif client_errors.is_refusal(error):
            problem = _STORED_VALUE.search(str(error))
            if problem:
                raised = self._error_of_stored_value(int(problem["format"]) if problem["format"] else None)
            else:
                raised = ServerRefused(self.verb, self.codes, self._problem(error), client_errors.remedy(error))
        if raised is not error:
            raised.__cause__ = error
        return raised

    def _problem(self, error: Exception) -> str:
        """What the client raised, with the key of the call if it is not one of a voucher."""
        return f"{error} (at the key {self.key_in_text!r})" if self.key_in_text else str(error)

    def _codes_in(self, reply: Reply) -> list[str]:
        """The codes of the vouchers that follow a status. The script numbers them from 1."""
        numbers = list(map(int, reply[1:]))
        if min(numbers) < 1:
            raise LookupError(f"voucher {min(numbers)}")
        return [self.codes[number - 1] for number in numbers]

"""Calls that observers are notified of: what each was, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, TypeVar

from voucher_sessions import errors, results
from voucher_sessions._core.call import Call
from voucher_sessions._core.requests import check_text
from voucher_sessions.events import CallEvent, Outcome
from voucher_sessions.models import Redeemable, Voucher, is_a

T = TypeVar("T")

# The outcome of each error. A subclass stands before its base class.
_OUTCOMES: Final[dict[type[Exception], Outcome]] = {
    errors.InvalidRequest: "invalid",
    errors.VoucherNotFound: "not_found",
    errors.SessionNotFound: "not_found",
    errors.RedemptionNotFound: "not_found",
    errors.VoucherExists: "exists",
    errors.AmountRequired: "amount_required",
    errors.AdjustmentRefused: "refused",
    errors.RollbackExceeded: "refused",
    errors.AdjustmentConflict: "conflict",
    errors.RedemptionRolledBack: "rolled_back",
    errors.RedemptionConflict: "conflict",
    errors.NotDurable: "not_durable",
    errors.OutcomeUnknown: "unknown",
    errors.ServerUnavailable: "unavailable",
    errors.ServerRefused: "server_refused",
    errors.CorruptState: "corrupt",
}


class Observed:
    """A call of which observers are notified when it ends. ``call`` is None until its parameters have been checked."""

    def __init__(self, verb: str, given: Sequence[object] = (), call: Call[Any] | None = None) -> None:
        self.call = call
        self._verb = verb
        self._given = given
        self._seconds = 0.0
        self._begun: float | None = perf_counter()

    def begin(self, call: Call[T]) -> Call[T]:
        """The parameters have been checked, and this is the call."""
        self.call = call
        return call

    def stop(self) -> None:
        """Stop the clock: what happens now is not a part of the call."""
        if self._begun is not None:
            self._seconds += perf_counter() - self._begun
            self._begun = None

    def resume(self) -> None:
        """Start the clock again."""
        self._begun = perf_counter()

    def event(self, ended: object) -> CallEvent:
        """The event for the observers; ``ended`` is the result of the call, or the error that it raised."""
        self.stop()
        call = self.call
        refusal = _first_refusal(ended)
        credits, points = _amounts(call, ended)
        return CallEvent(
            verb=self._verb,
            codes=call.codes if call else tuple(_codes(self._given)),
            outcome=self._outcome(ended),
            reason=refusal.reason if refusal else "not_found" if isinstance(ended, errors.VoucherNotFound) else None,
            locked_by_others=refusal is not None and refusal.locked_by_others,
            credits=credits,
            points=points,
            redemption_id=call.redemption_id if call else None,
            session_key=errors.shortened(call.session_key) if call and call.session_key else None,
            seconds=self._seconds,
            error=ended if isinstance(ended, BaseException) else None,
        )

    def _outcome(self, ended: object) -> Outcome:
        if not isinstance(ended, BaseException):
            return _outcome_of_result(ended)
        if isinstance(ended, errors.LimitExceeded):
            return _outcome_of_refusal(ended)
        for kind, outcome in _OUTCOMES.items():
            if isinstance(ended, kind):
                return outcome
        changes = self.call.changes if self.call else self._verb == "repair"
        may_have_run = not isinstance(ended, Exception) or (self.call is not None and self.call.may_have_run)
        return "unknown" if changes and may_have_run else "unavailable"


def _parts(ended: object) -> Sequence[object]:
    """The results for each voucher of a call; if the call raised ``NotDurable``, of the result that it carries."""
    result = ended.result if isinstance(ended, errors.NotDurable) else ended
    if isinstance(result, results.StackRedemption):
        return result.redemptions
    if isinstance(result, results.StackValidation):
        return result.validations
    if isinstance(result, tuple):  # the result of an import: whether it is new, and what Redis has
        return result[1:]
    return result if isinstance(result, list) else [result]


def _first_refusal(ended: object) -> results.Validation | errors.LimitExceeded | None:
    """The first voucher that was refused."""
    if isinstance(ended, errors.LimitExceeded):
        return ended
    refused = (part for part in _parts(ended) if isinstance(part, results.Validation) and not part.valid)
    return next(refused, None)


def _outcome_of_refusal(refusal: results.Validation | errors.LimitExceeded) -> Outcome:
    return "not_found" if refusal.reason == "not_found" else "held" if refusal.locked_by_others else "used_up"


def _outcome_of_result(result: object) -> Outcome:
    refusal = _first_refusal(result)
    if refusal is not None:
        return _outcome_of_refusal(refusal)
    parts = _parts(result)
    if parts and all(getattr(part, "replayed", False) for part in parts):
        return "replayed"
    if parts and all(part is False or (isinstance(part, results.Release) and not part.released) for part in parts):
        return "not_found"
    return "ok"


def _amounts(call: Call[Any] | None, ended: object) -> tuple[int | None, int | None]:
    """The credits and points that the call moved or locked; otherwise those that it named."""
    if call is None or call.verb == "list_sessions":
        return None, None
    moved = [
        (part.credits, part.points)
        for part in _parts(ended)
        if isinstance(part, results.Redemption | results.Rollback | results.Adjustment | results.ActiveSession)
    ]
    unnamed = 0 if call.verb in {"validate", "validate_stack"} else None
    named = [
        tuple(unnamed if amount is None else amount for amount in (request.credits, request.points))
        for request in call.requested
    ]
    credits, points = zip(*(moved or named or [(None, None)]), strict=True)
    return _sum(credits), _sum(points)


def _sum(amounts: Sequence[int | None]) -> int | None:
    """The sum, or None if one of them is not known."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _codes(given: Sequence[object]) -> list[str]:
    """The codes that can be read in the first parameter of a method."""
    codes = list[str]()
    with suppress(Exception):  # these are objects of the application, and their own methods can raise any error
        first = given[0]
        for item in first if is_a(first, list) or is_a(first, tuple) else [first]:
            code: Any = item.code if is_a(item, Voucher) or is_a(item, Redeemable) else item
            if is_a(item, dict):
                code = item.get("code")
            with suppress(errors.InvalidRequest):
                codes.append(check_text("codes", code))
    return codes

"""Ask the application's loader for vouchers that Redis does not know, put them, and run the call again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from itertools import chain
from typing import Any, Final, TypeVar

from voucher_sessions._core.call import Call
from voucher_sessions._core.steps import Ask, Steps
from voucher_sessions._core.verbs import Verbs
from voucher_sessions.errors import InvalidRequest, NotDurable, OutcomeUnknown, ServerUnavailable, VoucherNotFound
from voucher_sessions.models import Used, Voucher, checked_model, is_a
from voucher_sessions.results import StackValidation, Validation, VoucherState

T = TypeVar("T")

# The verbs that ask the loader, as ``Call.verb`` has them.
_ASKING: Final = frozenset(("validate", "validate_stack", "redeem", "redeem_stack", "get_voucher", "adjust"))


def is_asking(call: Call[Any]) -> bool:
    """Whether the call's verb asks the loader."""
    return call.verb in _ASKING


def check_loader(loader: Any, *, asynchronous: bool) -> Any:
    """The checked loader of an engine, or None."""
    if loader is not None and not callable(loader):
        raise InvalidRequest("loader", "must be a function of a code, or None")
    if loader is not None and not asynchronous and iscoroutinefunction(loader):
        raise InvalidRequest("loader", "is a coroutine function: use AsyncVoucherSessions, or give a plain function")
    return loader


class _PutFailed(Exception):
    """The put of a loaded voucher got no reply, or was not sent. ``_failure`` makes the error of the call from it."""

    def __init__(self, error: OutcomeUnknown | ServerUnavailable) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True)
class _Loads:
    """What became of the codes for which the loader was asked. It does not know those that are in neither of the two."""

    put: set[str] = field(default_factory=set)
    failed: dict[str, Exception] = field(default_factory=dict)  # the error of the loader or of the put


def loading(verbs: Verbs, call: Call[T]) -> Steps[T | Exception]:
    """The outcome of a call. If Redis does not know its vouchers, they are loaded, and the call is sent again.

    The outcome is the result or the error, to be raised: a generator cannot raise every error that a loader can, since
    Python makes a ``RuntimeError`` of ``StopIteration``.
    """
    outcome: T | Exception
    try:
        outcome = yield call
    except (VoucherNotFound, NotDurable) as error:
        outcome = error
    codes = _missing(call, outcome)
    loads = yield from _load_all(verbs, [codes])
    if (failed := _failure(call, codes, loads)) is not None:
        return failed
    if loads.put:
        outcome = yield call
    return outcome


def loading_all(verbs: Verbs, calls: Sequence[Call[Any]]) -> Steps[list[Any]]:
    """The outcomes of calls that are sent together. Those for which a voucher was loaded are sent again."""
    outcomes: list[Any] = yield list(calls)
    missing = [_missing(call, outcome) for call, outcome in zip(calls, outcomes, strict=True)]
    loads = yield from _load_all(verbs, missing)
    again: list[int] = []
    for at, codes in enumerate(missing):
        failed = _failure(calls[at], codes, loads)
        if failed is not None:
            outcomes[at] = failed
        elif not loads.put.isdisjoint(codes):
            again.append(at)
    if again:
        for at, outcome in zip(again, (yield [calls[at] for at in again]), strict=True):
            outcomes[at] = outcome
    return outcomes


def _missing(call: Call[Any], outcome: object) -> Sequence[str]:
    """The codes for which the call asks the loader: those of vouchers that Redis does not know."""
    if not is_asking(call):
        return ()
    if isinstance(outcome, VoucherNotFound):
        return outcome.codes
    if isinstance(outcome, NotDurable):
        outcome = outcome.result
    validations = (
        [outcome]
        if isinstance(outcome, Validation)
        else outcome.validations
        if isinstance(outcome, StackValidation)
        else []
    )
    return [each.code for each in validations if each.reason == "not_found"]


def _load_all(verbs: Verbs, missing: Sequence[Sequence[str]]) -> Steps[_Loads]:
    """Load the codes that are missing, one sequence for each call. The loader is asked for all before any is put.

    If the loader fails for a code, no voucher is put for the calls that miss it.
    """
    loads, puts = _Loads(), dict[str, Call[VoucherState]]()
    for code in dict.fromkeys(chain.from_iterable(missing)):
        try:
            (given,) = yield Ask(code)
            if given is not None:
                puts[code] = verbs.put_voucher(*_loaded(code, given), "keep")
        except Exception as error:  # the loader can raise any
            loads.failed[code] = error
    for codes in missing:
        if loads.failed.keys().isdisjoint(codes):
            for code in codes:
                if code in puts:
                    yield from _put(code, puts.pop(code), loads)
    return loads


def _put(code: str, put: Call[VoucherState], loads: _Loads) -> Steps[None]:
    """Put a loaded voucher, unless another process has put it meanwhile."""
    try:
        yield put
    except (OutcomeUnknown, ServerUnavailable) as error:
        loads.failed[code] = _PutFailed(error)
    except NotDurable:  # the voucher is there; the call that needs it reports whether its own change is durable
        loads.put.add(code)
    except Exception as error:
        loads.failed[code] = error
    else:
        loads.put.add(code)


def _loaded(code: str, given: object) -> tuple[Voucher, Used | None]:
    voucher, used = given if is_a(given, tuple) and len(given) == 2 else (given, None)
    if not is_a(voucher, Voucher) or not (used is None or is_a(used, Used)):
        raise InvalidRequest("loader", f"must return a Voucher, a tuple of Voucher and Used, or None, for {code!r}")
    voucher = checked_model("loader", Voucher, voucher)
    if voucher.code != code:
        raise InvalidRequest("loader", f"was asked for {code!r} and returned the voucher {voucher.code!r}")
    return voucher, None if used is None else checked_model("loader", Used, used)


def _failure(call: Call[Any], codes: Iterable[str], loads: _Loads) -> Exception | None:
    """The first error of loading one of the codes. A lost reply of the put counts as a lost reply of ``call``."""
    failed = next((loads.failed[code] for code in codes if code in loads.failed), None)
    if not isinstance(failed, _PutFailed):
        return failed
    if isinstance(failed.error, ServerUnavailable):
        problem = failed.error.problem
    elif call.changes:
        call.may_have_run = True
        return call.error_for(failed.error)
    else:
        problem = str(failed.error.__cause__)
    unavailable = ServerUnavailable(call.verb, call.codes, problem)
    unavailable.__cause__ = failed.error.__cause__  # the client's own error
    return unavailable

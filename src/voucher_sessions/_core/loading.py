"""Ask the application's loader for vouchers that Redis does not know, put them, and run the call again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import iscoroutinefunction
from itertools import chain
from typing import Any, Final, Literal, TypeVar

from voucher_sessions._core.call import Call
from voucher_sessions._core.steps import Ask, Steps
from voucher_sessions._core.verbs import Verbs
from voucher_sessions.errors import InvalidRequest, NotDurable, OutcomeUnknown, ServerUnavailable, VoucherNotFound
from voucher_sessions.models import Used, Voucher, checked_model, is_a
from voucher_sessions.results import StackValidation, Validation, VoucherState

T = TypeVar("T")

# The verbs that ask the loader, as ``Call.verb`` has them; those of stacks have the same.
_ASKING: Final = frozenset(("validate", "redeem", "get_voucher", "adjust"))


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


# The state of loading one code. None: the loader does not know it either; a ``Call``: the put, which was not sent yet;
# True: the voucher was put; an exception: the error of the loader or of the put.
_Load = Call[VoucherState] | Exception | Literal[True] | None


def loading(verbs: Verbs, call: Call[T]) -> Steps[T]:
    """The result of a call. If Redis does not know its vouchers, they are loaded, and the call is sent again."""
    outcome: Any
    try:
        outcome = yield call
    except (VoucherNotFound, NotDurable) as error:
        outcome = error
    codes = _missing(call, outcome)
    loads = yield from _load_all(verbs, [codes])
    if (failed := _failure(call, codes, loads)) is not None:
        raise failed
    if any(loads.values()):
        outcome = yield call
    if isinstance(outcome, Exception):
        raise outcome
    result: T = outcome
    return result


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
        elif any(loads[code] for code in codes):
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


def _load_all(verbs: Verbs, missing: Sequence[Sequence[str]]) -> Steps[dict[str, _Load]]:
    """Load the codes that are missing, one sequence for each call. The loader is asked for all before any is put.

    If the loader fails for a code, no voucher is put for the calls that miss it.
    """
    loads: dict[str, _Load] = {}
    for code in dict.fromkeys(chain.from_iterable(missing)):
        try:
            (given,) = yield Ask(code)
            loads[code] = None if given is None else verbs.put_voucher(*_loaded(code, given), "keep")
        except Exception as error:  # the loader can raise any
            loads[code] = error
    for codes in missing:
        if any(isinstance(loads[code], Exception) for code in codes):
            continue
        for code in codes:
            if isinstance(put := loads[code], Call):
                loads[code] = yield from _put(put)
    return loads


def _put(put: Call[VoucherState]) -> Steps[_Load]:
    """Put a loaded voucher, unless another process has put it meanwhile."""
    try:
        yield put
    except (OutcomeUnknown, ServerUnavailable) as error:
        return _PutFailed(error)
    except NotDurable:  # the voucher is there; the call that needs it reports whether its own change is durable
        pass
    except Exception as error:
        return error
    return True


def _loaded(code: str, given: object) -> tuple[Voucher, Used | None]:
    voucher, used = given if is_a(given, tuple) and len(given) == 2 else (given, None)
    if not is_a(voucher, Voucher) or not (used is None or is_a(used, Used)):
        raise InvalidRequest("loader", f"must return a Voucher, a tuple of Voucher and Used, or None, for {code!r}")
    voucher = checked_model("loader", Voucher, voucher)
    if voucher.code != code:
        raise InvalidRequest("loader", f"was asked for {code!r} and returned the voucher {voucher.code!r}")
    return voucher, None if used is None else checked_model("loader", Used, used)


def _failure(call: Call[Any], codes: Iterable[str], loads: Mapping[str, _Load]) -> Exception | None:
    """The first error of loading one of the codes. A lost reply of the put counts as a lost reply of ``call``."""
    failed = next((load for load in map(loads.__getitem__, codes) if isinstance(load, Exception)), None)
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

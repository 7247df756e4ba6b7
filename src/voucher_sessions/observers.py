"""Run the calls of an engine that has observers (``on_call=``), and notify them of each call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from itertools import product
from time import perf_counter
from typing import Any, Final, TypeVar, TypeVarTuple

from voucher_sessions import errors, results
from voucher_sessions._core.call import Call
from voucher_sessions._core.requests import check_text
from voucher_sessions._core.steps import Steps, Walk
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions._transport.runners import AsyncRunner, Runner
from voucher_sessions._transport.sync import SyncTransport
from voucher_sessions.events import CallEvent, Observer, Outcome
from voucher_sessions.models import AsyncLoader, Loader, Redeemable, Voucher, is_a

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LOGGER: Final = logging.getLogger("voucher_sessions")

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


def check_on_call(on_call: Any, *, asynchronous: bool) -> tuple[Observer, ...]:
    """The checked observers of an engine; an empty tuple if it has none."""
    if on_call is None:
        return ()
    observers = tuple(on_call) if is_a(on_call, list) or is_a(on_call, tuple) else (on_call,)
    for observer in observers:
        if not callable(observer):
            raise errors.InvalidRequest("on_call", "must be a function of a CallEvent, a sequence of them, or None")
        if not asynchronous and iscoroutinefunction(observer):
            raise errors.InvalidRequest(
                "on_call", "has a coroutine function: use AsyncVoucherSessions, or give a plain function"
            )
    return observers


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


def _log(observer: Observer, raised: BaseException, event: CallEvent) -> None:
    """Log what an observer has raised, without the error of the call: the text of a loader's error may be secret."""
    last = raised
    while last.__context__ is not None and last.__context__ is not event.error:
        last = last.__context__
    last.__context__ = None
    name = getattr(observer, "__qualname__", type(observer).__qualname__)
    _LOGGER.error("the on_call function %s raised an error, which does not affect the call", name, exc_info=raised)


class ObservedRunner(Runner):
    """Runs the calls of a sync engine that has observers."""

    def __init__(
        self, verbs: Verbs, transport: SyncTransport, loader: Loader | None, observers: Sequence[Observer]
    ) -> None:
        super().__init__(verbs, transport, loader)
        self._observers = observers

    def do(self, verb: str, function: Callable[[], T]) -> T:
        return self._run_observed(Observed(verb), function)

    def run(self, build: Callable[[*Ts], Call[T]], *given: *Ts) -> T:
        observed = Observed(build.__name__, given)
        return self._run_observed(observed, lambda: self.result_of(observed.begin(build(*given))))

    def run_steps(self, build: Callable[[*Ts], Steps[T]], *given: *Ts) -> T:
        return self._run_observed(Observed(build.__name__, given), lambda: self.result_of_steps(build(*given)))

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        observed = [Observed(call.verb, call=call) for call in calls]
        try:
            outcomes = super().run_all(calls)
        except BaseException as error:
            for each in observed:
                self._notify(each.event(error))
            raise
        for each, outcome in zip(observed, outcomes, strict=True):
            self._notify(each.event(outcome))
        return outcomes

    def prepare(self, build: Callable[[*Ts], T], *given: *Ts) -> T:
        observed = Observed(build.__name__, given)
        try:
            return build(*given)
        except BaseException as error:
            self._notify(observed.event(error))
            raise

    def iterate(self, build: Callable[[*Ts], Walk[T]], *given: *Ts) -> Iterator[T]:
        walk = self.walk(self.prepare(build, *given))
        return self._run_iteration(Observed(build.__name__, given), walk)

    def _run_observed(self, observed: Observed, function: Callable[[], T]) -> T:
        """Return the result of the function, and notify the observers."""
        try:
            result = function()
        except BaseException as error:
            self._notify(observed.event(error))
            raise
        self._notify(observed.event(result))
        return result

    def _run_iteration(self, observed: Observed, items: Iterator[T]) -> Iterator[T]:
        """Yield the items, and notify the observers once, even if the caller stops before the last item."""
        observed.resume()
        try:
            for item in items:
                observed.stop()
                yield item
                observed.resume()
        except GeneratorExit:
            self._notify(observed.event(None))
            raise
        except BaseException as error:
            self._notify(observed.event(error))
            raise
        self._notify(observed.event(None))

    def _notify(self, event: CallEvent) -> None:
        for observer in self._observers:
            try:
                returned = observer(event)
                if iscoroutine(returned):
                    returned.close()  # without this, Python warns that it was never awaited
                    raise TypeError("it returned a coroutine, which a sync engine cannot await")
            except Exception as error:
                _log(observer, error, event)


class AsyncObservedRunner(AsyncRunner):
    """Runs the calls of an asyncio engine that has observers. What an observer returns is awaited, if it can be."""

    def __init__(
        self, verbs: Verbs, transport: AsyncTransport, loader: AsyncLoader | None, observers: Sequence[Observer]
    ) -> None:
        super().__init__(verbs, transport, loader)
        self._observers = observers
        self._notifications = set[asyncio.Task[None]]()

    async def do(self, verb: str, function: Callable[[], Awaitable[T]]) -> T:
        return await self._run_observed(Observed(verb), function)

    async def run(self, build: Callable[[*Ts], Call[T]], *given: *Ts) -> T:
        observed = Observed(build.__name__, given)
        return await self._run_observed(observed, lambda: self.result_of(observed.begin(build(*given))))

    async def run_steps(self, build: Callable[[*Ts], Steps[T]], *given: *Ts) -> T:
        return await self._run_observed(Observed(build.__name__, given), lambda: self.result_of_steps(build(*given)))

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        observed = [Observed(call.verb, call=call) for call in calls]
        try:
            outcomes = await super().run_all(calls)
        except BaseException as error:
            await self._notify(*(each.event(error) for each in observed))
            raise
        await self._notify(*(each.event(outcome) for each, outcome in zip(observed, outcomes, strict=True)))
        return outcomes

    def prepare(self, build: Callable[[*Ts], T], *given: *Ts) -> T:
        observed = Observed(build.__name__, given)
        try:
            return build(*given)
        except BaseException as error:
            self._notify_soon(observed.event(error))
            raise

    def iterate(self, build: Callable[[*Ts], Walk[T]], *given: *Ts) -> AsyncIterator[T]:
        walk = self.walk(self.prepare(build, *given))
        return self._run_iteration(Observed(build.__name__, given), walk)

    async def _run_observed(self, observed: Observed, function: Callable[[], Awaitable[T]]) -> T:
        """Return the result of the function, and notify the observers."""
        try:
            result = await function()
        except BaseException as error:
            await self._notify(observed.event(error))
            raise
        await self._notify(observed.event(result))
        return result

    async def _run_iteration(self, observed: Observed, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield the items, and notify the observers once, even if the caller stops before the last item."""
        observed.resume()
        try:
            async for item in items:
                observed.stop()
                yield item
                observed.resume()
        except GeneratorExit:
            await self._notify(observed.event(None))
            raise
        except BaseException as error:
            await self._notify(observed.event(error))
            raise
        await self._notify(observed.event(None))

    async def _notify(self, *events: CallEvent) -> None:
        """Notify all observers of all events, even if the caller's task is cancelled meanwhile.

        Then nothing more is awaited, because the task is to end: what coroutine functions returned is dropped.
        """
        cancelled: asyncio.CancelledError | None = None
        for event, observer in product(events, self._observers):
            try:
                returned = observer(event)
                if cancelled is not None and iscoroutine(returned):
                    returned.close()
                elif isawaitable(returned):
                    await returned
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    cancelled = error
                else:
                    _log(observer, error, event)
            except Exception as error:
                _log(observer, error, event)
        if cancelled is not None:
            raise cancelled

    def _notify_soon(self, event: CallEvent) -> None:
        """Notify the observers from a method that is not a coroutine."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._notify(event))
            return
        task = loop.create_task(self._notify(event))
        self._notifications.add(task)  # the event loop itself does not keep a task alive
        task.add_done_callback(self._notifications.discard)

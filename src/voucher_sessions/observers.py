"""Run the calls of an engine that has observers (``on_call=``), and notify them of each call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from itertools import product
from typing import Any, Final, TypeVar, TypeVarTuple

from voucher_sessions._core.call import Call
from voucher_sessions._core.steps import Steps, Walk
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions._transport.runners import AsyncRunner, Runner
from voucher_sessions._transport.sync import SyncTransport
from voucher_sessions.errors import InvalidRequest
from voucher_sessions.events import CallEvent, Observer
from voucher_sessions.models import AsyncLoader, Loader, is_a, unreadable
from voucher_sessions.observed_calls import Observed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LOGGER: Final = logging.getLogger("voucher_sessions")


def check_on_call(on_call: Any, *, asynchronous: bool) -> tuple[Observer, ...]:
    """The checked observers of an engine; an empty tuple if it has none."""
    if on_call is None:
        return ()
    has_coroutine_function = False
    try:
        observers = tuple(on_call) if is_a(on_call, list) or is_a(on_call, tuple) else (on_call,)
        has_coroutine_function = any(map(iscoroutinefunction, observers))
    except Exception:
        observers = None
    if observers is None:  # not in the except clause, where the object's own error would be chained
        raise unreadable("on_call")
    if not all(map(callable, observers)):
        raise InvalidRequest("on_call", "must be a function of a CallEvent, a sequence of them, or None")
    if has_coroutine_function and not asynchronous:
        raise InvalidRequest("on_call", "has a coroutine function: use AsyncVoucherSessions, or give a plain function")
    return observers


def _log(observer: Observer, raised: BaseException, event: CallEvent) -> None:
    """Log what an observer has raised, without the error of the call: the text of a loader's error may be secret."""
    last = raised
    while last.__context__ is not None and last.__context__ is not event.error:
        last = last.__context__
    last.__context__ = None
    name = type(observer).__qualname__
    with suppress(Exception):  # the object is the application's, and its own methods can raise any error
        name = getattr(observer, "__qualname__", name)
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

"""Run the calls of an engine and its pipelines, operations that take several calls, and walks.

If the engine has a loader, it is asked for vouchers that Redis does not know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from inspect import isawaitable, iscoroutine
from typing import Any, TypeVar, TypeVarTuple

from voucher_sessions._core.call import Call
from voucher_sessions._core.loading import check_loader, is_asking, loading, loading_all
from voucher_sessions._core.steps import Ask, Step, Steps, Walk, advance
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport.aio import AsyncTransport
from voucher_sessions._transport.sync import SyncTransport
from voucher_sessions.models import AsyncLoader, Loader

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runner:
    """Runs the calls of a sync engine."""

    def __init__(self, verbs: Verbs, transport: SyncTransport, loader: Loader | None) -> None:
        self._verbs = verbs
        self._transport = transport
        self._loader: Any = check_loader(loader, asynchronous=False)

    def do(self, verb: str, function: Callable[[], T]) -> T:
        """What the function returns, which does the work of a verb that is not a call of a script."""
        return function()

    def run(self, build: Callable[[*Ts], Call[T]], *given: *Ts) -> T:
        """The result of the call that ``build``, a method of ``Verbs``, makes from what was given."""
        return self.result_of(build(*given))

    def run_steps(self, build: Callable[[*Ts], Steps[T]], *given: *Ts) -> T:
        """The same for an operation that takes several calls."""
        return self.result_of_steps(build(*given))

    def prepare(self, build: Callable[[*Ts], T], *given: *Ts) -> T:
        """What ``build`` makes from what was given, to be run later."""
        return build(*given)

    def iterate(self, build: Callable[[*Ts], Walk[T]], *given: *Ts) -> Iterator[T]:
        """The items that the walk finds; what was given is checked at once."""
        return self.walk(build(*given))

    def result_of(self, call: Call[T]) -> T:
        """The result of a call; raises the error of its refusal or failure."""
        if self._loader is None or not is_asking(call):
            return self._transport.run(call)
        steps = loading(self._verbs, call)
        outcome = self.result_of_steps(steps)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that are sent together; for a call that failed, its exception."""
        if self._loader is None:
            return self._transport.run_all(calls)
        return self.result_of_steps(loading_all(self._verbs, calls))

    def result_of_steps(self, steps: Steps[T]) -> T:
        """The result of an operation that takes several calls."""
        outcome: Any = None
        try:
            while True:
                outcome = self._outcome(advance(steps, outcome))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            del outcome  # an error refers to this frame, see ``advance``

    def walk(self, walk: Walk[T]) -> Iterator[T]:
        """The items that the walk finds."""
        outcome: Any = None
        while True:
            try:
                step = advance(walk, outcome)
            except StopIteration:
                return
            finally:
                outcome = None  # as in ``result_of_steps``
            if isinstance(step, Call):
                outcome = self._outcome(step)
            else:
                yield from step

    def _outcome(self, step: Step) -> Any:
        """The outcome of a step: its result, or the error that it raised."""
        try:
            if isinstance(step, Ask):
                found = self._loader(step.code)
                if iscoroutine(found):
                    found.close()  # without this, Python warns that it was never awaited; as a value it is refused
                return (found,)
            return self._transport.run(step) if isinstance(step, Call) else self._transport.run_all(step)
        except Exception as error:  # the generator gets it, and raises it again unless it handles it
            return error


class AsyncRunner:
    """Runs the calls of an asyncio engine."""

    def __init__(self, verbs: Verbs, transport: AsyncTransport, loader: AsyncLoader | None) -> None:
        self._verbs = verbs
        self._transport = transport
        self._loader: Any = check_loader(loader, asynchronous=True)

    def do(self, verb: str, function: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        """What the function returns, which does the work of a verb that is not a call of a script."""
        return function()

    def run(self, build: Callable[[*Ts], Call[T]], *given: *Ts) -> Awaitable[T]:
        """The result of the call that ``build``, a method of ``Verbs``, makes from what was given."""
        return self.result_of(build(*given))

    def run_steps(self, build: Callable[[*Ts], Steps[T]], *given: *Ts) -> Awaitable[T]:
        """The same for an operation that takes several calls."""
        return self.result_of_steps(build(*given))

    def prepare(self, build: Callable[[*Ts], T], *given: *Ts) -> T:
        """What ``build`` makes from what was given, to be run later."""
        return build(*given)

    def iterate(self, build: Callable[[*Ts], Walk[T]], *given: *Ts) -> AsyncIterator[T]:
        """The items that the walk finds; what was given is checked at once."""
        return self.walk(build(*given))

    async def result_of(self, call: Call[T]) -> T:
        """The result of a call; raises the error of its refusal or failure."""
        if self._loader is None or not is_asking(call):
            return await self._transport.run(call)
        steps = loading(self._verbs, call)
        outcome = await self.result_of_steps(steps)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The results of calls that are sent together; for a call that failed, its exception."""
        if self._loader is None:
            return await self._transport.run_all(calls)
        return await self.result_of_steps(loading_all(self._verbs, calls))

    async def result_of_steps(self, steps: Steps[T]) -> T:
        """The result of an operation that takes several calls."""
        outcome: Any = None
        try:
            while True:
                outcome = await self._outcome(advance(steps, outcome))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            del outcome  # an error refers to this frame, see ``advance``

    async def walk(self, walk: Walk[T]) -> AsyncIterator[T]:
        """The items that the walk finds."""
        outcome: Any = None
        while True:
            try:
                step = advance(walk, outcome)
            except StopIteration:
                return
            finally:
                outcome = None  # as in ``result_of_steps``
            if isinstance(step, Call):
                outcome = await self._outcome(step)
            else:
                for item in step:
                    yield item

    async def _outcome(self, step: Step) -> Any:
        """The outcome of a step: its result, or the error that it raised."""
        try:
            if isinstance(step, Ask):
                found = self._loader(step.code)
                return (await found if isawaitable(found) else found,)
            if isinstance(step, Call):
                return await self._transport.run(step)
            return await self._transport.run_all(step)
        except Exception as error:  # the generator gets it, and raises it again unless it handles it
            return error

"""What takes more than one call: generators of steps, which an engine of either kind carries out one after the other."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from voucher_sessions._core.call import Call

T = TypeVar("T")


class Ask(NamedTuple):
    """A step: ask the engine's loader for a voucher that Redis does not know."""

    code: str


Step = Call[Any] | list[Call[Any]] | Ask
# Yields steps, receives the outcome of each, and returns the result of the whole. The outcome is the result of a call,
# for a list the list of their results and errors, or what the loader returned, as a tuple of one: it may be an exception.
# An error of the step is raised there.
Steps = Generator[Step, Any, T]
# The same if all steps are single calls.
Calls = Generator[Call[Any], Any, T]
# The same for a walk over many items: what it yields besides calls are the items that were found.
Walk = Generator[Call[Any] | tuple[T, ...], Any, None]


def advance(steps: Generator[T, Any, Any], outcome: Any) -> T:
    """The next step, once the one before it has had this outcome. Raises ``StopIteration`` behind the last."""
    return steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)

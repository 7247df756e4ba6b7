"""Operations that take more than one call: generators of steps, which a sync or an asyncio engine runs in turn."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from voucher_sessions._core.call import Call

T = TypeVar("T")


class Ask(NamedTuple):
    """A step: ask the engine's loader for a voucher that Redis does not know."""

    code: str


Step = Call[Any] | list[Call[Any]] | Ask
# An operation: yields steps, receives the outcome of each, and returns the result. The outcome is
# - of a call: its result;
# - of a list of calls: the list of their results and errors;
# - of ``Ask``: a tuple with the value that the loader returned, which may even be an exception.
# If a step raises an error, it is raised in the generator, at that ``yield``.
Steps = Generator[Step, Any, T]
# An operation whose steps are all single calls.
Calls = Generator[Call[Any], Any, T]
# A walk over many items: yields calls, and tuples of the items that were found.
Walk = Generator[Call[Any] | tuple[T, ...], Any, None]


def advance(steps: Generator[T, Any, Any], outcome: Any) -> T:
    """Send the outcome of the last step to the generator, and return its next step; ``StopIteration`` at its end."""
    try:
        return steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)
    finally:
        del outcome  # an error refers to this frame: without a cycle, an engine that is deleted is closed at once

"""Calls that travel together: the commands of a batch, and what its replies mean; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from voucher_sessions._core import confirmation, failures
from voucher_sessions._core.call import Again, Arg, Call
from voucher_sessions.models import Durability

# In the place of an outcome: this call has to be sent once more, by itself.
ALONE: Final = object()


def grouped(nodes: Iterable[str]) -> list[list[int]]:
    """The places of what goes to the same node, in their order."""
    places: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        places.setdefault(node, []).append(at)
    return list(places.values())


def commands(batch: Sequence[Call[Any]], durability: Durability | None) -> Iterator[tuple[Arg, ...]]:
    """Each call by its script's name, but the first of each script with its text: a server may have lost them."""
    loaded: set[str] = set()
    for call in batch:
        script = call.script
        named = ("EVALSHA", script.sha) if script.sha in loaded else ("EVAL", script.text)
        loaded.add(script.sha)
        yield *named, len(call.keys), *call.keys, *call.args
    changing = next((call for call in batch if call.changes), None)
    if durability is not None and changing is not None:
        yield from confirmation.commands(durability, changing.keys[0])


def settle(batch: Sequence[Call[Any]], replies: Sequence[Any], durability: Durability | None) -> list[Any]:
    """The outcome of each call: its result, the exception that it raises, or ``ALONE``."""
    confirmations = list(replies[len(batch) :])
    return [_settled(call, reply, confirmations, durability) for call, reply in zip(batch, replies, strict=False)]


def _settled(call: Call[Any], reply: Any, confirmations: list[Any], durability: Durability | None) -> Any:
    if isinstance(reply, Exception):
        return ALONE if failures.runs_when_sent_alone(reply) else call.meaning(reply)
    try:
        return confirmation.confirmed(durability, call, call.result(reply), confirmations)
    except Again:
        return ALONE
    except Exception as error:
        return error

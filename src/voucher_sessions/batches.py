"""Calls that travel together: the commands of a batch, and what its replies mean; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from redis.exceptions import AskError, NoScriptError, TryAgainError

from voucher_sessions.call import Again, Arg, Call
from voucher_sessions.durability import Durability, confirmed

# In the place of an outcome: this call has to be sent once more, by itself.
ALONE: Final = object()
# The script did not run, for a reason that sending it by itself mends; MOVED is a kind of ASK to redis-py.
_MENDED_ALONE: Final = (AskError, NoScriptError, TryAgainError)


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
        yield from durability.commands(changing.keys[0])


def settle(batch: Sequence[Call[Any]], replies: Sequence[Any], durability: Durability | None) -> list[Any]:
    """The outcome of each call: its result, the exception that it raises, or ``ALONE``."""
    confirmation = list(replies[len(batch) :])
    return [_settled(call, reply, confirmation, durability) for call, reply in zip(batch, replies, strict=False)]


def _settled(call: Call[Any], reply: Any, confirmation: list[Any], durability: Durability | None) -> Any:
    if isinstance(reply, Exception):
        return ALONE if isinstance(reply, _MENDED_ALONE) else call.meaning(reply)
    try:
        return confirmed(durability, call, call.result(reply), confirmation)
    except Again:
        return ALONE
    except Exception as error:
        return error

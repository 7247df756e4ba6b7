"""Batches: the commands for several calls that are sent together, and the outcome of each call from the replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from voucher_sessions._core import client_errors, confirmation
from voucher_sessions._core.call import Arg, Call, CallAgain
from voucher_sessions.models import Durability

# Takes the place of an outcome: the call must be sent again, outside the batch.
SEND_ALONE: Final = object()


def group_by_node(nodes: Iterable[str]) -> list[list[int]]:
    """The positions in ``nodes`` grouped by equal node name, in ascending order within each group."""
    positions: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        positions.setdefault(node, []).append(at)
    return list(positions.values())


def commands(batch: Sequence[Call[Any]], durability: Durability | None) -> Iterator[tuple[Arg, ...]]:
    """The first call of each script sends its text, since the server may not have it; the others send its SHA1."""
    loaded: set[str] = set()
    for call in batch:
        yield call.evalsha_command() if call.script.sha in loaded else call.eval_command()
        loaded.add(call.script.sha)
    changing = next((call for call in batch if call.changes), None)
    if durability is not None and changing is not None:
        yield from confirmation.commands(durability, changing.keys[0])


def outcomes(batch: Sequence[Call[Any]], replies: Sequence[Any], durability: Durability | None) -> list[Any]:
    """The outcome of each call: its result, the exception that it raises, or ``SEND_ALONE``."""
    confirmations = list(replies[len(batch) :])
    return [_outcome(call, reply, confirmations, durability) for call, reply in zip(batch, replies, strict=False)]


def _outcome(call: Call[Any], reply: Any, confirmations: list[Any], durability: Durability | None) -> Any:
    if isinstance(reply, Exception):
        return SEND_ALONE if client_errors.runs_when_sent_alone(reply) else call.error_for(reply)
    try:
        return confirmation.confirmed(durability, call, call.result(reply), confirmations)
    except CallAgain:
        return SEND_ALONE
    except Exception as error:
        return error

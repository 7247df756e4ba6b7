"""Batches: the commands for several calls that are sent together, and the outcome of each call from the replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from voucher_sessions._core import confirmation, failures
from voucher_sessions._core.call import Arg, Call, CallAgain
from voucher_sessions.models import Durability

# Takes the place of an outcome: the call must be sent again, outside the batch.
SEND_ALONE: Final = object()
# How many changing calls a session's key or a book remembers: three earlier ones, and the last (lua/book.lua).
MAX_REMEMBERED: Final = 4


def group_by_node(nodes: Iterable[str]) -> list[list[int]]:
    """The positions in ``nodes`` grouped by equal node name, in ascending order within each group."""
    positions: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        positions.setdefault(node, []).append(at)
    return list(positions.values())


def split(batch: Sequence[Call[Any]]) -> list[list[int]]:
    """The positions of the calls in parts that may be sent together.

    If the replies of a part are lost, the client sends the whole part again. Each call is then recognised by its id,
    which a key remembers for the last ``MAX_REMEMBERED`` calls that changed it: so no part has more of them for one key.
    """
    parts: list[list[int]] = [[]]
    changes: dict[bytes, int] = {}
    for at, call in enumerate(batch):
        keys = call.remembering if call.changes else ()
        if any(changes.get(key, 0) == MAX_REMEMBERED for key in keys):
            parts.append([])
            changes.clear()
        for key in keys:
            changes[key] = changes.get(key, 0) + 1
        parts[-1].append(at)
    return parts


def commands(batch: Sequence[Call[Any]], durability: Durability | None) -> Iterator[tuple[Arg, ...]]:
    """The commands of a batch, in one sequence for one connection.

    The first call of each script sends its text (EVAL), since the server may not have it; the others send its SHA1. ECHO
    comes last: it shows that the connection was in step up to the end, if the last reply is an error.
    """
    loaded: set[str] = set()
    for call in batch:
        yield call.evalsha_command() if call.script.sha in loaded else call.eval_command()
        loaded.add(call.script.sha)
    changing = next((call for call in batch if call.changes), None)
    if durability is not None and changing is not None:
        yield from confirmation.commands(durability, changing.keys[0])
    yield "ECHO", batch[0].id


def outcomes(
    batch: Sequence[Call[Any]], replies: Sequence[Any], durability: Durability | None, *, retried: bool
) -> list[Any]:
    """The outcome of each call: its result, the exception that it raises, or ``SEND_ALONE``.

    ``retried``: a call that failed because servers change their roles or places is sent again, alone, as a single call
    would be.
    """
    confirmations = list(replies[len(batch) : -1])
    in_step = _calls_in_step(batch, replies)
    return [
        _outcome(call, reply, confirmations, durability, retried=retried) if at < in_step else SEND_ALONE
        for at, (call, reply) in enumerate(zip(batch, replies, strict=False))
    ]


def is_out_of_step(batch: Sequence[Call[Any]], replies: Sequence[Any]) -> bool:
    """Whether some of the replies belong to other commands, so that the connection must be closed."""
    return len(replies) > len(batch) and _calls_in_step(batch, replies) < len(batch)


def _calls_in_step(batch: Sequence[Call[Any]], replies: Sequence[Any]) -> int:
    """How many calls, from the first, have a reply that is proven to be theirs.

    An error does not begin with a call id: it counts if a later reply is the one that is expected at its place.
    """
    if len(replies) <= len(batch):  # the client raised an error: there are no replies
        return len(batch)
    if failures.proves_in_step(batch[0].id, replies[len(batch) - 1], replies[-1]):
        return len(batch)
    return next((at for at in range(len(batch), 0, -1) if batch[at - 1].is_own(replies[at - 1])), 0)


def _outcome(
    call: Call[Any], reply: Any, confirmations: list[Any], durability: Durability | None, *, retried: bool
) -> Any:
    if isinstance(reply, Exception):
        is_sent_again = failures.runs_when_sent_alone(reply) or (retried and failures.is_transient(reply))
        return SEND_ALONE if is_sent_again else call.error_for(reply)
    try:
        return confirmation.confirmed(durability, call, call.result(reply), confirmations)
    except (CallAgain, failures.OutOfStep):
        return SEND_ALONE
    except Exception as error:
        return error

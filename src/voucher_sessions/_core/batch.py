"""Batches: the commands for several calls that are sent together, and the outcome of each call from the replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from voucher_sessions._core import client_errors, confirmation
from voucher_sessions._core.call import Arg, Call, CallAgain
from voucher_sessions.errors import CLIENT_ERRORS, VoucherSessionsError
from voucher_sessions.models import Durability

# Takes the place of an outcome: the call must be sent again, outside the batch.
SEND_ALONE: Final = object()


def group_by_node(nodes: Iterable[str]) -> list[list[int]]:
    """The positions in ``nodes`` grouped by equal node name, in ascending order within each group."""
    positions: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        positions.setdefault(node, []).append(at)
    return list(positions.values())


def split(batch: Sequence[Call[Any]]) -> list[list[int]]:
    """The positions of the calls in parts, each to be sent when the one before it has all its replies.

    If the replies of a part are lost, the client sends the whole part again. A call that had changed something is then
    recognised by its id. A call that had changed nothing, such as the deletion of a voucher that did not exist, has left
    no id and runs anew: after the calls behind it, whose changes it must not undo. So a part has at most one changing
    call for a key. The calls of one voucher keep their order.
    """
    parts: list[list[int]] = []
    part_of_voucher: dict[str, int] = {}
    part_of_key: dict[bytes, int] = {}
    for at, call in enumerate(batch):
        keys = call.changed_keys if call.changes else ()
        part = max(
            *(part_of_voucher.get(code, 0) for code in call.codes),
            *(part_of_key[key] + 1 for key in keys if key in part_of_key),
            0,
        )
        part_of_voucher.update(dict.fromkeys(call.codes, part))
        part_of_key.update(dict.fromkeys(keys, part))
        if part == len(parts):
            parts.append([])
        parts[part].append(at)
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
    would be. Sets ``may_have_run`` of the calls whose replies are not proven to be theirs.
    """
    confirmations = list(replies[len(batch) : -1])
    in_step = _calls_in_step(batch, replies)
    for call in [] if _is_refused_alike(batch, replies) else batch[in_step:]:
        call.may_have_run = True
    return [
        _outcome(call, reply, confirmations, durability, retried=retried) if at < in_step else SEND_ALONE
        for at, (call, reply) in enumerate(zip(batch, replies, strict=False))
    ]


def raise_if_loading(batch: Sequence[Call[Any]], replies: Sequence[Any]) -> None:
    """Raise the server's error if it ran nothing of a batch, since it is loading its data: so the batch is sent again."""
    if all(map(client_errors.is_loading, replies[: len(batch)])):  # it answers ECHO meanwhile
        raise replies[0]


def is_out_of_step(batch: Sequence[Call[Any]], replies: Sequence[Any]) -> bool:
    """Whether some of the replies belong to other commands, so that the connection must be closed."""
    return _calls_in_step(batch, replies) < len(batch)


def _calls_in_step(batch: Sequence[Call[Any]], replies: Sequence[Any]) -> int:
    """How many calls, from the first, have a reply that is proven to be theirs.

    An error does not begin with a call id: it counts if a later reply is the one that is expected at its place.
    """
    if len(replies) <= len(batch):  # the client raised an error, the same for all calls
        return len(batch) if client_errors.is_proven_by_itself(replies[0]) else 0
    if client_errors.proves_in_step(batch[0].id, replies[-1]):
        return len(batch)
    return next((at for at in range(len(batch), 0, -1) if batch[at - 1].is_own(replies[at - 1])), 0)


def _is_refused_alike(batch: Sequence[Call[Any]], replies: Sequence[Any]) -> bool:
    """Whether the server or the client refused all of the batch, or ECHO: no proof, but no sign of another command."""
    if len(replies) <= len(batch):
        return not client_errors.leaves_unknown(replies[0])
    return client_errors.may_be_in_step(replies[: len(batch)], replies[-1])


def _outcome(
    call: Call[Any], reply: Any, confirmations: list[Any], durability: Durability | None, *, retried: bool
) -> Any:
    if isinstance(reply, Exception):
        is_sent_again = client_errors.runs_when_sent_alone(reply) or (retried and client_errors.is_transient(reply))
        return SEND_ALONE if is_sent_again else call.error_for(reply)
    if call.changes and confirmation.is_of_another_node(confirmations):
        return SEND_ALONE
    try:
        return confirmation.confirmed(durability, call, call.result(reply), confirmations)
    except CallAgain:
        return SEND_ALONE
    except client_errors.OutOfStep:
        call.may_have_run = True
        return SEND_ALONE
    except (VoucherSessionsError, *CLIENT_ERRORS) as error:
        return error

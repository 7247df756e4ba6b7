"""Durability: makes replicas or the disk confirm each change.

A reply of Redis only says that the primary has changed its memory; if the primary fails, the change can be lost. With
``durability=``, WAIT (replicas have the change) or WAITAOF (it is on disk) follows each change on the same connection.
A primary that was replaced in a failover gets no such confirmation, so its change raises ``NotDurable``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from voucher_sessions._core import client_errors
from voucher_sessions._core.call import Arg, Call
from voucher_sessions._core.client_errors import OutOfStep
from voucher_sessions.errors import InvalidRequest, NotDurable
from voucher_sessions.models import Durability, checked_model

T = TypeVar("T")

_FENCE_TTL_MS: Final = 1000
_WRITTEN: Final = (b"OK", "OK")  # the reply to SET; the client turns it into True


def commands(durability: Durability, book: bytes) -> list[tuple[Arg, ...]]:
    """The commands that follow a change on the same connection: a write to the fence key, and the wait.

    WAIT waits for the last write of its connection. A repeated call may write nothing, because its first run did; the
    write to the fence key then makes WAIT wait for that run too.
    """
    fence = ("SET", book + b":fence", "", "PX", str(_FENCE_TTL_MS))
    if durability.fsync:
        return [fence, ("WAITAOF", "1", str(durability.replicas), str(durability.timeout_ms))]
    return [fence, ("WAIT", str(durability.replicas), str(durability.timeout_ms))]


def commands_behind(call: Call[Any], durability: Durability | None) -> list[tuple[Arg, ...]]:
    """The commands that follow a call on its connection: none if it changes nothing, or nothing must be confirmed."""
    return [] if durability is None or not call.changes else commands(durability, call.keys[0])


def confirmed(durability: Durability | None, call: Call[T], result: T, answers: list[object]) -> T:
    """The result of a call; raises ``NotDurable`` if the server did not confirm the change as ``durability`` asks.

    Raises ``OutOfStep`` if the first of ``answers`` cannot be the reply to the write to the fence key: then all of them
    are replies to other commands.
    """
    if durability is not None and call.changes:
        if not (answers[0] is True or isinstance(answers[0], Exception) or answers[0] in _WRITTEN):
            raise OutOfStep(f"{call.verb}: the write to the fence key got the reply to another command")
        _check(durability, call.verb, result, answers)
    return result


def is_of_another_node(answers: Sequence[object]) -> bool:
    """Whether the slot of the fence key has moved, so that the node cannot confirm the other changes by it."""
    return bool(answers) and isinstance(answers[0], Exception) and client_errors.is_about_slots(answers[0])


def _check(durability: Durability, verb: str, result: object, answers: list[object]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise NotDurable(verb, f"the server cannot confirm it: {answer}", result) from answer
    confirmations: Any = answers[-1] if durability.fsync else [0, answers[-1]]  # by the primary's disk, by replicas
    if type(confirmations) is not list or list(map(type, confirmations)) != [int, int]:  # bool is not accepted
        raise NotDurable(verb, f"the server cannot confirm it: it answered {answers[-1]!r}", result)
    local, replicas = confirmations
    within = f"within {durability.timeout_ms} ms"
    if durability.fsync and local < 1:
        raise NotDurable(verb, f"not on disk {within}", result)
    if replicas < durability.replicas:
        raise NotDurable(verb, f"{replicas} of {durability.replicas} replicas confirmed it {within}", result)


def check_durability(durability: object, reply_timeout_ms: float | None = None) -> Durability | None:
    """The checked ``durability`` of an engine. ``reply_timeout_ms`` is the client's ``socket_timeout``; None: no limit."""
    if durability is None:
        return None
    durability = checked_model("durability", Durability, durability)
    if not durability.replicas and not durability.fsync:
        raise InvalidRequest("durability", "requires no confirmation: set replicas or fsync")
    if reply_timeout_ms is not None and durability.timeout_ms >= reply_timeout_ms:
        raise InvalidRequest(
            "durability.timeout_ms",
            f"must be shorter than the client's socket_timeout, {reply_timeout_ms:g} ms: "
            "the client would give up before the reply",
        )
    return durability

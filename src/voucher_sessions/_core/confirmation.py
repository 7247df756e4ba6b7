"""Confirmation by replicas and disk: what Redis alone does not promise with its reply.

A reply says that the primary has changed its memory. Whoever must not lose that when the primary is lost has each
change followed by WAIT (replicas have it) or WAITAOF (it is on disk), on the same connection: a primary that has been
deposed meanwhile cannot confirm it.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from voucher_sessions._core.call import Arg, Call
from voucher_sessions.errors import InvalidRequest, NotDurable
from voucher_sessions.models import Durability, checked_model

T = TypeVar("T")

_FENCE_TTL_MS: Final = 1000


def commands(durability: Durability, book: bytes) -> list[tuple[Arg, ...]]:
    """What follows a change on its connection: a write of its own, and the wait.

    A repeated call may find all done and write nothing; what WAIT waits for is the last write of the connection.
    """
    fence = ("SET", book + b":fence", "", "PX", _FENCE_TTL_MS)
    if durability.fsync:
        return [fence, ("WAITAOF", 1, durability.replicas, durability.timeout_ms)]
    return [fence, ("WAIT", durability.replicas, durability.timeout_ms)]


def confirmed(durability: Durability | None, call: Call[T], result: T, answers: list[object]) -> T:
    """The result of a call, if the server confirmed all that it must be, else ``NotDurable``."""
    if durability is not None and call.changes:
        _check(durability, call.verb, result, answers)
    return result


def _check(durability: Durability, verb: str, result: object, answers: list[object]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise NotDurable(verb, f"the server cannot confirm it: {answer}", result) from answer
    figures: Any = answers[-1] if durability.fsync else [0, answers[-1]]  # its own disk's, and the replicas'
    if type(figures) is not list or list(map(type, figures)) != [int, int]:  # True is no count of replicas
        raise NotDurable(verb, f"the server cannot confirm it: it answered {answers[-1]!r}", result)
    local, replicas = figures
    within = f"within {durability.timeout_ms} ms"
    if durability.fsync and local < 1:
        raise NotDurable(verb, f"not on disk {within}", result)
    if replicas < durability.replicas:
        raise NotDurable(verb, f"{replicas} of {durability.replicas} replicas confirmed it {within}", result)


def checked(durability: object, reply_timeout_ms: float | None = None) -> Durability | None:
    """What the engine was given; ``reply_timeout_ms``: how long its client waits for a reply, None for ever."""
    if durability is None:
        return None
    durability = checked_model("durability", Durability, durability)
    if not durability.replicas and not durability.fsync:
        raise InvalidRequest("durability", "asks for nothing: give it replicas or fsync")
    if reply_timeout_ms is not None and durability.timeout_ms >= reply_timeout_ms:
        raise InvalidRequest(
            "durability.timeout_ms",
            f"must be shorter than the client's socket_timeout, {reply_timeout_ms:g} ms: "
            "the client would give up before the reply",
        )
    return durability

"""Confirmation by replicas and disk: what Redis alone does not promise with its reply.

A reply tells that the primary has changed its memory. Whoever must not lose that when the primary is lost has each
change followed by WAIT (replicas have it) or WAITAOF (it is on disk), on the same connection: a primary that has been
deposed meanwhile cannot confirm it.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import Field

from voucher_sessions import clients
from voucher_sessions.call import Call
from voucher_sessions.errors import InvalidRequest, NotDurable
from voucher_sessions.models import Request, checked_model

T = TypeVar("T")

_FENCE_TTL_MS: Final = 1000


class Durability(Request):
    """What must be confirmed before a change counts as done, and for how long to wait for it.

    ``replicas``: so many have it in memory, or, with ``fsync``, on their disks. ``fsync``: the primary has it on its
    own disk, which needs Redis 7.2 or Valkey with an append-only file; with ``appendfsync everysec`` that takes a
    second or two, with ``always`` no time at all. ``timeout_ms`` must be shorter than the client's ``socket_timeout``.
    What is not confirmed in time raises ``NotDurable``, and so does a server that cannot.
    """

    replicas: int = Field(default=0, strict=True, ge=0, le=100)
    fsync: bool = Field(default=False, strict=True)
    timeout_ms: int = Field(default=1000, strict=True, ge=1, le=600_000)

    def commands(self, book: bytes) -> list[tuple[bytes | int | str, ...]]:
        """What follows a change on its connection: a write of its own, and the wait.

        A repeated call may find all done and write nothing; what WAIT waits for is the last write of the connection.
        """
        fence = ("SET", book + b":fence", "", "PX", _FENCE_TTL_MS)
        if self.fsync:
            return [fence, ("WAITAOF", 1, self.replicas, self.timeout_ms)]
        return [fence, ("WAIT", self.replicas, self.timeout_ms)]

    def confirm(self, verb: str, result: object, answers: list[object]) -> None:
        """Raise ``NotDurable`` unless the server confirmed all that is asked for."""
        for answer in answers:
            if isinstance(answer, Exception):
                raise NotDurable(verb, f"the server cannot confirm it: {answer}", result) from answer
        figures: Any = answers[-1] if self.fsync else [0, answers[-1]]  # its own disk's, and the replicas'
        if type(figures) is not list or list(map(type, figures)) != [int, int]:  # True is no count of replicas
            raise NotDurable(verb, f"the server cannot confirm it: it answered {answers[-1]!r}", result)
        local, replicas = figures
        if self.fsync and local < 1:
            raise NotDurable(verb, f"not on disk within {self.timeout_ms} ms", result)
        if replicas < self.replicas:
            raise NotDurable(
                verb, f"{replicas} of {self.replicas} replicas confirmed it within {self.timeout_ms} ms", result
            )


def confirmed(durability: Durability | None, call: Call[T], result: T, answers: list[object]) -> T:
    """The result of a call, if all that it must be is confirmed, else ``NotDurable``."""
    if durability is not None and call.changes:
        durability.confirm(call.verb, result, answers)
    return result


def checked(durability: object, client: Any = None) -> Durability | None:
    """What the engine was given; with ``client``, whether that waits long enough for it."""
    if durability is None:
        return None
    durability = checked_model("durability", Durability, durability)
    if not durability.replicas and not durability.fsync:
        raise InvalidRequest("durability", "asks for nothing: give it replicas or fsync")
    patience_ms = None if client is None else clients.reply_timeout_ms(client)
    if patience_ms is not None and durability.timeout_ms >= patience_ms:
        raise InvalidRequest(
            "durability.timeout_ms",
            f"must be shorter than the client's socket_timeout, {patience_ms:g} ms: it would give up before the answer",
        )
    return durability

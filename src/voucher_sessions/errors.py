"""What can go wrong, as a tree.

    VoucherSessionsError
    ├── InvalidRequest (ValueError)      refused before anything is sent
    │   └── CrossSlotStack               the vouchers of a stack live in different slots
    ├── VoucherNotFound
    ├── SessionNotFound                  not live: never made, released, redeemed or expired
    ├── RedemptionNotFound
    ├── LimitExceeded
    │   ├── QuantityExceeded
    │   ├── GiftAmountExceeded
    │   └── LoyaltyPointsExceeded
    ├── RedemptionConflict               the id was used for another request
    ├── OutcomeUnknown (redis.exceptions.ConnectionError)
    │                                    the reply was lost: ask, or repeat the same call
    ├── ServerRefused (redis.exceptions.ResponseError)
    │                                    the server would not run it: full, read-only, no permission, …
    ├── NotDurable                       done, but not confirmed by replicas or disk in time
    ├── CorruptState                     what Redis holds is not what the library wrote
    └── EmbeddedServerError              the server of embedded:// cannot be started

Every error carries its facts as attributes and survives pickling, so that it crosses process borders. A session key
is a capability: error texts show only its beginning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final

import redis.exceptions

__all__ = [
    "CorruptState",
    "CrossSlotStack",
    "EmbeddedServerError",
    "GiftAmountExceeded",
    "InvalidRequest",
    "LimitExceeded",
    "LoyaltyPointsExceeded",
    "NotDurable",
    "OutcomeUnknown",
    "QuantityExceeded",
    "RedemptionConflict",
    "RedemptionNotFound",
    "ServerRefused",
    "SessionNotFound",
    "VoucherNotFound",
    "VoucherSessionsError",
]


# What a client of redis-py raises for a command that failed; RedisClusterException is none of its RedisErrors.
CLIENT_ERRORS: Final = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException)


def shortened(session_key: str) -> str:
    """The beginning of a session key, for texts that people read."""
    return session_key[: min(8, len(session_key) // 2)] + "…"


class VoucherSessionsError(Exception):
    """The base of every error that this library raises of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    error: type[VoucherSessionsError], args: tuple[object, ...], facts: dict[str, object]
) -> VoucherSessionsError:
    """Unpickle an error without calling its constructor, whose parameters are the facts and not the text."""
    restored = error.__new__(error, *args)
    restored.__dict__.update(facts)
    return restored


class InvalidRequest(VoucherSessionsError, ValueError):
    """A parameter is not what DESIGN allows; nothing was sent. ``field`` names it, ``problem`` says what is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class CrossSlotStack(InvalidRequest):
    """The vouchers of a stack hash to different slots of the cluster, so no script can change them as one.

    ``groups`` tells which codes go together (semantics 14).
    """

    def __init__(self, groups: tuple[tuple[str, ...], ...]) -> None:
        super().__init__(
            "redeemables",
            f"the codes live in {len(groups)} slots of the cluster: {'; '.join(map(str, map(list, groups)))}. "
            "Give the engine a partition= that maps codes which must stack to one text",
        )
        self.groups = groups


class VoucherNotFound(VoucherSessionsError):
    """There is no voucher with this ``code``. Of a stack, ``codes`` tells all that are missing."""

    def __init__(self, *codes: str) -> None:
        super().__init__(f"there is no voucher {', '.join(map(repr, codes))}: put_voucher creates it")
        self.code = codes[0]
        self.codes = codes


class SessionNotFound(VoucherSessionsError):
    """The session is not live on this voucher; nothing was changed (semantics 9).

    Of a stack, ``codes`` tells all vouchers on which it is not live.
    """

    def __init__(self, *codes: str, session_key: str) -> None:
        super().__init__(
            f"session {shortened(session_key)!r} is not live on voucher {', '.join(map(repr, codes))}: validate again, "
            "or redeem with if_session_missing='redeem'"
        )
        self.code = codes[0]
        self.codes = codes
        self.session_key = session_key


class RedemptionNotFound(VoucherSessionsError):
    """No redemption with this id was recorded for this voucher, or its receipt has passed ``receipt_ttl``."""

    def __init__(self, code: str, redemption_id: str) -> None:
        super().__init__(f"voucher {code!r} has no redemption {redemption_id!r}")
        self.code = code
        self.redemption_id = redemption_id


class LimitExceeded(VoucherSessionsError):
    """The voucher cannot give what the redemption asks for; nothing was changed.

    ``reason`` is the same word as in ``Validation.reason``; ``requested`` and ``available`` are figures of the
    balance that it names (``available`` leaves the caller's own lock out and is never below 0). ``locked_by_others``
    tells "held, try again" from "used up", and ``retry_after_ms`` when the next of the locks in the way expires.
    Of a stack, ``refusals`` tells this one and those of the other vouchers that cannot give it either.
    """

    what: ClassVar[str] = "of its limit"

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        requested: int,
        available: int,
        locked_by_others: bool,
        retry_after_ms: int | None,
    ) -> None:
        held = f"; held by other sessions, the next expires in {retry_after_ms} ms" if locked_by_others else ""
        super().__init__(f"voucher {code!r}: {requested} {self.what} requested, {available} available{held}")
        self.code = code
        self.reason = reason
        self.requested = requested
        self.available = available
        self.locked_by_others = locked_by_others
        self.retry_after_ms = retry_after_ms
        self.others: tuple[LimitExceeded, ...] = ()

    @property
    def refusals(self) -> tuple[LimitExceeded, ...]:
        """This one, and those of the other vouchers of its stack that cannot give it either."""
        return (self, *self.others)


class QuantityExceeded(LimitExceeded):
    """The voucher may not be redeemed once more: ``quantity_exceeded``."""

    what = "redemption(s)"


class GiftAmountExceeded(LimitExceeded):
    """The gift card has not that many credits: ``gift_amount_exceeded``."""

    what = "credits"


class LoyaltyPointsExceeded(LimitExceeded):
    """The loyalty card has not that many points: ``loyalty_card_points_exceeded``."""

    what = "points"


class RedemptionConflict(VoucherSessionsError):
    """The redemption id already stands for another request on this voucher; nothing was changed (semantics 10)."""

    def __init__(self, code: str, redemption_id: str) -> None:
        super().__init__(
            f"redemption {redemption_id!r} of voucher {code!r} was another request: "
            "its session key or amounts differ. Repeat that request as it was, or use a new id"
        )
        self.code = code
        self.redemption_id = redemption_id


class OutcomeUnknown(VoucherSessionsError, redis.exceptions.ConnectionError):
    """The connection failed before the reply came: the call may or may not have taken effect.

    ``codes`` are the vouchers of the call, ``session_key`` and ``redemption_id`` what it named or the engine
    generated. Repeat the call with them, or ask: ``get_redemption``, ``list_sessions``, ``get_voucher``. Repeating is
    safe: a redemption or rollback that took effect answers ``replayed=True``, a lock is overridden by itself.
    """

    def __init__(
        self, verb: str, codes: tuple[str, ...], *, session_key: str | None = None, redemption_id: str | None = None
    ) -> None:
        super().__init__(
            f"{verb} of {', '.join(map(repr, codes))}: the reply was lost, so its outcome is unknown. "
            "Repeat it with the session_key or redemption_id that this error carries, or ask for its outcome"
        )
        self.verb = verb
        self.codes = codes
        self.session_key = session_key
        self.redemption_id = redemption_id


class ServerRefused(VoucherSessionsError, redis.exceptions.ResponseError):
    """The server answered that it would not run the call, and changed nothing; but for a user who lacks a permission
    for some of a script's commands: those before it may have run (``check_server`` tells before, ``repair`` mends).

    ``verb`` and ``codes`` are the call's, ``remedy`` says what helps; the client's own error is the ``__cause__``. Had
    an earlier try of the client's taken effect without a reply, repeating the call tells, as after ``OutcomeUnknown``.
    """

    def __init__(self, verb: str, codes: tuple[str, ...], problem: str, remedy: str) -> None:
        super().__init__(f"{verb} of {', '.join(map(repr, codes))}: the server refused it: {problem}. {remedy}")
        self.verb = verb
        self.codes = codes
        self.remedy = remedy


class NotDurable(VoucherSessionsError):
    """The call took effect, but what ``durability`` asks for was not confirmed in time.

    ``result`` is what the call would have returned. Repeating the call is safe, as after ``OutcomeUnknown``.
    """

    def __init__(self, verb: str, problem: str, result: object) -> None:
        super().__init__(f"{verb} took effect, but is not durable yet: {problem}")
        self.verb = verb
        self.problem = problem
        self.result = result


class CorruptState(VoucherSessionsError):
    """What Redis holds under the voucher's keys, or what it answered, is nothing that this library wrote."""


class EmbeddedServerError(VoucherSessionsError):
    """The server of ``embedded://`` cannot be started in this ``folder``."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"no server could be started in {folder}: {problem}")
        self.folder = folder
        self.problem = problem

"""What can go wrong, as a tree.

    VoucherSessionsError
    ├── InvalidRequest (ValueError)      refused before anything is sent
    │   └── CrossSlotStack               the vouchers of a stack belong to different hash slots of a cluster
    ├── VoucherNotFound
    ├── SessionNotFound                  the session is not live: never existed, released, redeemed or expired
    ├── RedemptionNotFound
    ├── LimitExceeded
    │   ├── QuantityExceeded
    │   ├── GiftAmountExceeded
    │   └── LoyaltyPointsExceeded
    ├── RedemptionConflict               the id was used for another request
    ├── OutcomeUnknown (redis.exceptions.ConnectionError)
    │                                    the reply was lost: repeat the same call, or look up what happened
    ├── ServerRefused (redis.exceptions.ResponseError)
    │                                    the server did not run the call: full, read-only, no permission, …
    ├── NotDurable                       the change took effect, but was not confirmed by replicas or disk in time
    ├── CorruptState                     the keys in Redis contain values that this library did not write
    └── EmbeddedServerError              the server of embedded:// cannot be started

Every error has its facts as attributes and can be pickled, so it can be passed between processes. Whoever knows a
session key can redeem or release the session, so error texts show only the beginning of a key.
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


# What a client of redis-py raises for a command that failed. RedisClusterException is not a subclass of RedisError.
CLIENT_ERRORS: Final = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException)


def shortened(session_key: str) -> str:
    """The beginning of a session key, to be shown in texts and logs."""
    return session_key[: min(8, len(session_key) // 2)] + "…"


class VoucherSessionsError(Exception):
    """The base class of all errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    error: type[VoucherSessionsError], args: tuple[object, ...], facts: dict[str, object]
) -> VoucherSessionsError:
    """Restore a pickled error without its constructor, which takes the facts, while ``args`` is the text."""
    restored = error.__new__(error, *args)
    restored.__dict__.update(facts)
    return restored


class InvalidRequest(VoucherSessionsError, ValueError):
    """A parameter is wrong. Nothing was sent.

    ``field`` is the name of the parameter, with a path if it is nested (``session.ttl``); ``problem`` says what is
    wrong.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class CrossSlotStack(InvalidRequest):
    """The vouchers of a stack belong to different hash slots of the cluster, so no single script can change them all.

    ``groups`` has the codes of each slot. Nothing was sent. To use the codes in one stack, give the engine a
    ``partition`` function that returns the same text for them.
    """

    def __init__(self, groups: tuple[tuple[str, ...], ...]) -> None:
        super().__init__(
            "redeemables",
            f"the codes belong to {len(groups)} hash slots of the cluster: {'; '.join(map(str, map(list, groups)))}. "
            "Give the engine a partition= function that returns the same text for codes that are stacked together",
        )
        self.groups = groups


class VoucherNotFound(VoucherSessionsError):
    """There is no voucher with this ``code``. Nothing was changed. For a stack, ``codes`` has all that do not exist."""

    def __init__(self, *codes: str) -> None:
        super().__init__(
            f"there is no voucher {', '.join(map(repr, codes))}: reject the code, or create it with put_voucher"
        )
        self.code = codes[0]
        self.codes = codes


class SessionNotFound(VoucherSessionsError):
    """The session is not live on this voucher: it expired, was released or redeemed, or never existed.

    Nothing was changed. For a stack, ``codes`` has all vouchers on which the session is not live.
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
    """The voucher has no redemption with this id, or its receipt is older than the engine's ``receipt_ttl``."""

    def __init__(self, code: str, redemption_id: str) -> None:
        super().__init__(
            f"voucher {code!r} has no redemption {redemption_id!r}: check both, and whether receipt_ttl has passed"
        )
        self.code = code
        self.redemption_id = redemption_id


class LimitExceeded(VoucherSessionsError):
    """The voucher has not enough available for the redemption. Nothing was changed.

    Attributes:
        code: The voucher's code.
        reason: The same value as in ``Validation.reason``; it names the quantity, the credits or the points.
        requested: How much of it the call asked for.
        available: How much of it this caller could redeem. The caller's own lock counts as available.
        locked_by_others: True if other live sessions have locked the missing amount, so that a later try can succeed.
            False if the limit leaves too little even without their locks.
        retry_after_ms: Milliseconds until the next of those sessions expires; None unless ``locked_by_others``.
    """

    what: ClassVar[str] = "of its limit"
    advice: ClassVar[str] = "ask for less, or use another voucher"

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
        if locked_by_others:
            advice = f"other sessions have locked the rest: try again when the next one expires, in {retry_after_ms} ms"
        else:
            advice = self.advice
        super().__init__(f"voucher {code!r}: {requested} {self.what} requested, {available} available; {advice}")
        self.code = code
        self.reason = reason
        self.requested = requested
        self.available = available
        self.locked_by_others = locked_by_others
        self.retry_after_ms = retry_after_ms
        self.others: tuple[LimitExceeded, ...] = ()

    @property
    def refusals(self) -> tuple[LimitExceeded, ...]:
        """This error, and for a stack one error for each further voucher that has not enough available."""
        return (self, *self.others)


class QuantityExceeded(LimitExceeded):
    """The voucher cannot be redeemed once more; ``reason`` is ``quantity_exceeded``."""

    what = "redemption(s)"
    advice = "use another voucher, or raise the limit with put_voucher"


class GiftAmountExceeded(LimitExceeded):
    """Not enough gift card credits are available; ``reason`` is ``gift_amount_exceeded``."""

    what = "credits"


class LoyaltyPointsExceeded(LimitExceeded):
    """Not enough loyalty points are available; ``reason`` is ``loyalty_card_points_exceeded``."""

    what = "points"


class RedemptionConflict(VoucherSessionsError):
    """The redemption id was used before, for another request: other amounts, another session, or other vouchers in the stack.

    Nothing was changed. ``get_redemption`` returns what was redeemed under the id.
    """

    def __init__(self, code: str, redemption_id: str) -> None:
        super().__init__(
            f"redemption id {redemption_id!r} of voucher {code!r} was used for another request, with another session "
            "key, other amounts or other vouchers. Repeat that request unchanged, or use a new id"
        )
        self.code = code
        self.redemption_id = redemption_id


class OutcomeUnknown(VoucherSessionsError, redis.exceptions.ConnectionError):
    """The connection failed before the reply came: the call may or may not have taken effect.

    Repeat the call with the ``session_key`` or ``redemption_id`` of this error, or look up what happened with
    ``get_redemption``, ``list_sessions`` or ``get_voucher``. Repeating is safe, except for ``put_voucher`` with
    ``used``, which would replace what was redeemed in between. A redemption or rollback that took effect returns
    ``replayed=True``, and validate sets the same lock again.

    Attributes:
        verb: The method that was called.
        codes: The vouchers of the call.
        session_key: The session key of the call, given or generated; None if it had none.
        redemption_id: The redemption id of the call, given or generated; None if it had none.
    """

    def __init__(
        self, verb: str, codes: tuple[str, ...], *, session_key: str | None = None, redemption_id: str | None = None
    ) -> None:
        super().__init__(
            f"{verb} of {', '.join(map(repr, codes))}: the reply was lost, so the outcome is unknown. Repeat the call, "
            "with the session_key or redemption_id of this error if it has one, or look up what happened with get_redemption, "
            "list_sessions or get_voucher"
        )
        self.verb = verb
        self.codes = codes
        self.session_key = session_key
        self.redemption_id = redemption_id


class ServerRefused(VoucherSessionsError, redis.exceptions.ResponseError):
    """The server replied with an error and did not run the call: memory full, read-only, no permission, ...

    Nothing was changed, with one exception: if the user has permission for some of a script's commands and not for
    others, the commands before the forbidden one may have run. ``check_server`` finds missing permissions beforehand;
    ``repair`` corrects the voucher.

    Clients can send a call several times by themselves. If an earlier try took effect and its reply was lost, repeating
    the call is safe, as after ``OutcomeUnknown``.

    Attributes:
        verb: The method that was called.
        codes: The vouchers of the call.
        remedy: What to do about it. The client's own error is the ``__cause__``.
    """

    def __init__(self, verb: str, codes: tuple[str, ...], problem: str, remedy: str) -> None:
        super().__init__(f"{verb} of {', '.join(map(repr, codes))}: the server refused the call: {problem}. {remedy}")
        self.verb = verb
        self.codes = codes
        self.remedy = remedy


class NotDurable(VoucherSessionsError):
    """The call took effect, but the replicas or disks that ``durability`` requires did not confirm it in time.

    Repeating the call is safe, as after ``OutcomeUnknown``; if a key or id was generated, ``result`` has it.

    Attributes:
        verb: The method that was called.
        problem: What was not confirmed.
        result: What the call would have returned.
    """

    def __init__(self, verb: str, problem: str, result: object) -> None:
        super().__init__(
            f"{verb} took effect, but is not confirmed as durable: {problem}. Repeat the call with the session key or "
            "redemption id in the result of this error, or accept that result"
        )
        self.verb = verb
        self.problem = problem
        self.result = result


class CorruptState(VoucherSessionsError):
    """The voucher's keys contain values that this library did not write, or a reply does not have the form that its scripts return."""


class EmbeddedServerError(VoucherSessionsError):
    """The server of ``embedded://`` cannot be started in this ``folder``; ``problem`` says why."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"no server could be started in {folder}: {problem}")
        self.folder = folder
        self.problem = problem

"""What can go wrong, as a tree.

    VoucherSessionsError
    ├── InvalidRequest (ValueError)      refused before anything is sent
    │   └── CrossSlotStack               the vouchers of a stack belong to different hash slots of a cluster
    ├── VoucherNotFound
    ├── VoucherExists                    put_voucher(if_exists="raise") found a voucher of this code
    ├── SessionNotFound                  the session is not live: never existed, released, redeemed or expired
    ├── RedemptionNotFound
    ├── AmountRequired                   without a live session, the redemption must name its amounts
    ├── LimitExceeded
    │   ├── QuantityExceeded
    │   ├── GiftAmountExceeded
    │   └── LoyaltyPointsExceeded
    ├── AdjustmentRefused                a limit would be below 0 or too large, or the quantity is without limit
    ├── AdjustmentConflict               the adjustment id was used for other changes
    ├── RollbackExceeded                 the redemption has less left than the rollback asks for
    ├── RedemptionConflict               the id was used for another request
    │   └── RedemptionRolledBack         the id was used for this request, and the redemption was rolled back
    ├── ServerUnavailable (redis.exceptions.ConnectionError)
    │                                    no server could run the call: nothing has changed
    ├── OutcomeUnknown (redis.exceptions.ConnectionError)
    │                                    the reply was lost: repeat the same call, or look up what happened
    ├── ServerRefused (redis.exceptions.ResponseError)
    │                                    the server did not run the call: full, read-only, no permission, …
    ├── NotDurable                       replicas or disk did not confirm in time what the call changed or found
    ├── CorruptState                     the keys in Redis contain values that this library did not write
    │   └── UnknownFormat                a newer version of this library wrote them
    └── EmbeddedServerError              the server of embedded:// cannot be started

Every error has its facts as attributes. ``args`` are these facts in a form that JSON can hold, and the text is made from
them, so that an error can be sent to another process, pickled or as JSON: ``type(error)(*json.loads(json.dumps(
error.args)))`` is the same error. Whoever knows a session key can redeem or release the session, so texts and ``repr``
show only the beginning of a key; ``args`` has the whole key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import redis.exceptions

if TYPE_CHECKING:
    from voucher_sessions.results import Reason, Redemption

__all__ = [
    "AdjustmentConflict",
    "AdjustmentRefused",
    "AmountRequired",
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
    "RedemptionRolledBack",
    "RollbackExceeded",
    "ServerRefused",
    "ServerUnavailable",
    "SessionNotFound",
    "UnknownFormat",
    "VoucherExists",
    "VoucherNotFound",
    "VoucherSessionsError",
    "shortened",
]


# What a client of redis-py raises for a command that failed. RedisClusterException is not a subclass of RedisError.
CLIENT_ERRORS: Final = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException)


# The format of the values that this version writes, and the newest that it reads.
FORMAT: Final = 1


def shortened(session_key: str) -> str:
    """The beginning of a session key, to be shown in texts and logs."""
    return session_key[: min(8, len(session_key) // 2)] + "…"


# User and password of a URL.
_CREDENTIALS: Final = re.compile(r"://[^/\s]*@")
# How redis-py shows a client of a Sentinel that does not answer: with all its options, in redis-py 6 and 7 the password.
_CLIENT: Final = re.compile(r"<[\w.]+\(.*\)>", re.DOTALL)
# A server quotes the arguments of a command that it does not know: of a script the session key, of a login the password.
_ARGUMENTS: Final = re.compile(r",? with args beginning with:.*", re.DOTALL)


def without_secrets(problem: str) -> str:
    """The text of a client's error. The application can contribute to it, with a credential provider for example."""
    return _ARGUMENTS.sub("", _CLIENT.sub("<client>", _CREDENTIALS.sub("://…@", problem)))


class VoucherSessionsError(Exception):
    """The base class of all errors of this library."""

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def _as_json(fact: Any) -> Any:
    """A fact as JSON can hold it: of a model its class and its fields, of an error its class and its ``args``."""
    if isinstance(fact, VoucherSessionsError):
        return {"error": type(fact).__name__, "args": list(fact.args)}
    if hasattr(fact, "model_dump"):
        return {"model": type(fact).__name__, "fields": fact.model_dump(mode="json")}
    return list(map(_as_json, fact)) if isinstance(fact, list | tuple) else fact


def _from_json(fact: Any) -> Any:
    """The opposite of ``_as_json``. What is no JSON of an error or a model is returned as it is."""
    if isinstance(fact, list | tuple):
        return [_from_json(each) for each in fact]
    if not isinstance(fact, Mapping) or fact.keys() not in ({"error", "args"}, {"model", "fields"}):
        return fact
    # By name: the models are in a room above this one, and bring pydantic along, which errors do not need.
    named = getattr(import_module("voucher_sessions"), fact["error"] if "error" in fact else fact["model"])
    return named(*fact["args"]) if "error" in fact else named.model_validate(fact["fields"])


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(map(repr, codes))


def call_in_text(verb: str, codes: Sequence[str]) -> str:
    """A call as texts name it: the verb, and the vouchers if the call names any."""
    return f"{verb} of {_listed(codes)}" if codes else verb


class InvalidRequest(VoucherSessionsError, ValueError):
    """A parameter is wrong. The call was not sent.

    ``field`` is the name of the parameter, with a path if it is nested (``session.ttl``); ``problem`` says what is
    wrong.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


class CrossSlotStack(InvalidRequest):
    """The vouchers of a stack belong to different hash slots of the cluster, so no single script can change them all.

    ``groups`` has the codes of each slot. Nothing was sent. To use the codes in one stack, give the engine a
    ``partition`` function that returns the same text for them.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        lists = list(map(list, groups))
        super().__init__(
            "redeemables",
            f"the codes belong to {len(lists)} hash slots of the cluster: {'; '.join(map(str, lists))}. "
            "Give the engine a partition= function that returns the same text for codes that are stacked together",
        )
        self.args = (lists,)
        self.groups: tuple[tuple[str, ...], ...] = tuple(map(tuple, lists))

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class VoucherNotFound(VoucherSessionsError):
    """There is no voucher with this ``code``. Nothing was changed. For a stack, ``codes`` has all that do not exist."""

    def __init__(self, *codes: str) -> None:
        super().__init__(*codes)
        self.code = codes[0]
        self.codes = codes

    def __str__(self) -> str:
        return f"there is no voucher {_listed(self.codes)}: reject the code, or create it with put_voucher"


class VoucherExists(VoucherSessionsError):
    """``put_voucher(if_exists="raise")`` found a voucher of this ``code``. Nothing was changed.

    A call that is repeated after ``OutcomeUnknown`` or ``NotDurable`` can raise it about the voucher that its own first
    try has created.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return (
            f"there is a voucher {self.code!r} already: choose another code, or put it with if_exists='keep' (leave it "
            "as it is) or 'update' (change its limits)"
        )


class SessionNotFound(VoucherSessionsError):
    """The session is not live on this voucher: it expired, was released or redeemed, or never existed.

    Nothing was changed. For a stack, ``codes`` has all vouchers on which the session is not live.
    """

    def __init__(self, session_key: str, *codes: str) -> None:
        super().__init__(session_key, *codes)
        self.code = codes[0]
        self.codes = codes
        self.session_key = session_key

    def __str__(self) -> str:
        return (
            f"session {shortened(self.session_key)!r} is not live on voucher {_listed(self.codes)}: validate again, or "
            "redeem with if_session_missing='redeem' and the amounts of the order, if they are still available"
        )


class RedemptionNotFound(VoucherSessionsError):
    """The voucher has no redemption with this id, or its receipt is older than the engine's ``receipt_ttl``."""

    def __init__(self, code: str, redemption_id: str) -> None:
        super().__init__(code, redemption_id)
        self.code = code
        self.redemption_id = redemption_id

    def __str__(self) -> str:
        return (
            f"voucher {self.code!r} has no redemption {self.redemption_id!r}: check both, and whether receipt_ttl has "
            "passed"
        )


class AmountRequired(VoucherSessionsError):
    """A redemption without a live session names neither credits nor points, and the voucher has a limit or a used figure of one of them.

    Nothing was changed. Without a live session nobody knows what the order should cost, and 0 would give it away. Name
    the amounts; for one that shall be 0, name the 0. For a stack, ``codes`` has all vouchers whose amounts are missing.
    """

    def __init__(self, *codes: str) -> None:
        super().__init__(*codes)
        self.code = codes[0]
        self.codes = codes

    def __str__(self) -> str:
        return (
            f"voucher {_listed(self.codes)} has credits or points, and no live session says how many to redeem: "
            "name the amounts of the order, credits or points"
        )


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
        reason: Reason,
        requested: int,
        available: int,
        locked_by_others: bool,
        retry_after_ms: int | None,
        others: Sequence[Any] = (),
    ) -> None:
        super().__init__(code, reason, requested, available, locked_by_others, retry_after_ms, _as_json(others))
        self.code = code
        self.reason: Reason = reason
        self.requested = requested
        self.available = available
        self.locked_by_others = locked_by_others
        self.retry_after_ms = retry_after_ms
        self.others: tuple[LimitExceeded, ...] = tuple(_from_json(others))

    def __str__(self) -> str:
        if self.locked_by_others:
            advice = (
                f"other sessions have locked the rest: try again when the next one expires, in {self.retry_after_ms} ms"
            )
        else:
            advice = self.advice
        return f"voucher {self.code!r}: {self.requested} {self.what} requested, {self.available} available; {advice}"

    def with_others(self, others: Sequence[LimitExceeded]) -> Self:
        """The same error, with those of the other vouchers of its stack."""
        return type(self)(
            *(self.code, self.reason, self.requested, self.available, self.locked_by_others, self.retry_after_ms),
            others=others,
        )

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


class AdjustmentRefused(VoucherSessionsError):
    """A limit cannot be changed by this much: it would be below 0 or above 2^53 - 1, or there is none.

    Only the quantity can be without limit. Nothing was changed, not even the other limits.

    Attributes:
        code: The voucher's code.
        balance: Which limit: ``quantity``, ``credits`` or ``points``.
        limit: The present value of that limit; None: the quantity is without limit.
        change: The change that was asked for; negative if the limit was to be lowered.
    """

    def __init__(self, code: str, balance: str, limit: int | None, change: int) -> None:
        super().__init__(code, balance, limit, change)
        self.code = code
        self.balance = balance
        self.limit = limit
        self.change = change

    def __str__(self) -> str:
        call = f"voucher {self.code!r}: the limit of its {self.balance} cannot be changed by {self.change}"
        if self.limit is None:
            return f"{call}, since there is none: set one with put_voucher first"
        return f"{call}: it is {self.limit}, and must stay between 0 and 2^53 - 1"


class AdjustmentConflict(VoucherSessionsError):
    """The adjustment id was used before: for other changes, or before the voucher was deleted and put again.

    Nothing was changed.

    Attributes:
        code: The voucher's code.
        adjustment_id: The id that was used before.
    """

    def __init__(self, code: str, adjustment_id: str) -> None:
        super().__init__(code, adjustment_id)
        self.code = code
        self.adjustment_id = adjustment_id

    def __str__(self) -> str:
        return (
            f"adjustment id {self.adjustment_id!r} of voucher {self.code!r} was used for other changes, or before the "
            "voucher was deleted and put again. Repeat that adjustment unchanged, or use a new id"
        )


class RollbackExceeded(VoucherSessionsError):
    """A partial rollback asks for more than the redemption has left to give back. Nothing was changed.

    Attributes:
        code: The voucher's code.
        redemption_id: The id of the redemption.
        balance: Which amount: ``credits`` or ``points``.
        requested: How much the call asked to give back.
        available: How much is left to give back.
    """

    def __init__(self, code: str, redemption_id: str, balance: str, requested: int, available: int) -> None:
        super().__init__(code, redemption_id, balance, requested, available)
        self.code = code
        self.redemption_id = redemption_id
        self.balance = balance
        self.requested = requested
        self.available = available

    def __str__(self) -> str:
        return (
            f"redemption {self.redemption_id!r} of voucher {self.code!r} still has {self.available} {self.balance}, so "
            f"{self.requested} cannot be given back: ask for less, or roll back the rest by naming no amounts"
        )


class RedemptionConflict(VoucherSessionsError):
    """The redemption id was used before, for another request on this voucher.

    Another session, other amounts or another set of vouchers make another request. Nothing was changed.
    ``get_redemption`` returns what was redeemed under the id.

    A partial rollback raises it if its rollback id was used for another redemption or other amounts. Then
    ``rollback_id`` is that id; otherwise it is None.
    """

    def __init__(self, code: str, redemption_id: str, rollback_id: str | None = None) -> None:
        super().__init__(code, redemption_id, rollback_id)
        self.code = code
        self.redemption_id = redemption_id
        self.rollback_id = rollback_id

    def __str__(self) -> str:
        if self.rollback_id is not None:
            return (
                f"rollback id {self.rollback_id!r} of voucher {self.code!r} was used for another redemption or other "
                "amounts. Repeat that rollback unchanged, or use a new id"
            )
        return (
            f"redemption id {self.redemption_id!r} of voucher {self.code!r} was used for another request, with another "
            "session key, other amounts or other vouchers. Repeat that request unchanged, or use a new id"
        )


class RedemptionRolledBack(RedemptionConflict):
    """The redemption id was used for this very request, and its redemption was rolled back since.

    It is also raised if partial rollbacks have given back all its credits and points. Nothing was changed: the voucher
    does not pay for this order. An order that is paid again needs a new id. ``redemption`` is the receipt, which says
    what was given back.
    """

    def __init__(self, code: str, redemption_id: str, redemption: Redemption | Mapping[str, Any]) -> None:
        super().__init__(code, redemption_id)
        self.args = (code, redemption_id, _as_json(redemption))
        self.redemption: Redemption = _from_json(redemption)

    def __str__(self) -> str:
        return (
            f"redemption {self.redemption_id!r} of voucher {self.code!r} was rolled back, so it does not pay for "
            "an order. To redeem again, use a new id"
        )


class ServerUnavailable(VoucherSessionsError, redis.exceptions.ConnectionError):
    """No server could run the call, or a call that only reads got no reply: nothing has changed.

    The server is down or cannot be reached, its name cannot be resolved, it is loading its data, a cluster or a
    Sentinel knows no primary, or too many calls of the engine are waiting. A call whose connection failed was tried as
    often as the client's ``retry`` says; on clusters and with Sentinel, for up to 30 seconds. Too many waiting calls
    are reported without a retry. Repeating the call is safe.

    Attributes:
        verb: The method that was called.
        codes: The vouchers of the call; empty for ``ping``.
        problem: What happened at the last try. The client's own error is the ``__cause__``.
    """

    def __init__(self, verb: str, codes: Sequence[str], problem: str) -> None:
        problem = without_secrets(problem)
        super().__init__(verb, list(codes), problem)
        self.verb = verb
        self.codes = tuple(codes)
        self.problem = problem

    def __str__(self) -> str:
        call = call_in_text(self.verb, self.codes)
        return f"{call} failed, and nothing has changed; try again later: {self.problem}"


class OutcomeUnknown(VoucherSessionsError, redis.exceptions.ConnectionError):
    """The connection failed before the reply came: the call may or may not have taken effect.

    Repeat the call with the key or the id of this error, or look up what happened with ``get_redemption``,
    ``get_session`` or ``get_voucher``. Repeating is safe, except for ``put_voucher`` with ``used``, which would replace
    what was redeemed in between. If the first call took effect, a repeated redeem, rollback or adjust returns
    ``replayed=True``; validate sets the same lock again, extend the expiry, and put_voucher the limits.

    Attributes:
        verb: The method that was called.
        codes: The vouchers of the call.
        session_key: The session key of the call, given or generated; None if it had none.
        redemption_id: The redemption id of the call, given or generated; None if it had none.
        rollback_id: The rollback id of a partial rollback, given or generated; None for other calls.
        adjustment_id: The adjustment id of the call, given or generated; None if it had none.
    """

    def __init__(
        self,
        verb: str,
        codes: Sequence[str],
        session_key: str | None = None,
        redemption_id: str | None = None,
        rollback_id: str | None = None,
        adjustment_id: str | None = None,
    ) -> None:
        super().__init__(verb, list(codes), session_key, redemption_id, rollback_id, adjustment_id)
        self.verb = verb
        self.codes = tuple(codes)
        self.session_key = session_key
        self.redemption_id = redemption_id
        self.rollback_id = rollback_id
        self.adjustment_id = adjustment_id

    def __str__(self) -> str:
        if self.verb == "put_voucher":
            repeat = "Repeat the call; if it sets used=, with if_exists='keep', so that it does not set it again"
        elif self.adjustment_id is not None:
            repeat = "Repeat the call with the adjustment_id of this error"
        elif self.rollback_id is not None:
            repeat = "Repeat the call, with the rollback_id of this error"
        elif self.redemption_id is not None:
            repeat = "Repeat the call with the redemption_id of this error"
        elif self.session_key is not None:
            repeat = "Repeat the call with the session_key of this error"
        else:
            repeat = "Repeat the call"
        call = call_in_text(self.verb, self.codes)
        return f"{call}: the reply was lost, so the outcome is unknown. {repeat}"


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
        problem: What the server said.
        remedy: What to do about it. The client's own error is the ``__cause__``.
    """

    def __init__(self, verb: str, codes: Sequence[str], problem: str, remedy: str) -> None:
        problem = without_secrets(problem)
        super().__init__(verb, list(codes), problem, remedy)
        self.verb = verb
        self.codes = tuple(codes)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        call = call_in_text(self.verb, self.codes)
        return f"{call}: the server refused the call: {self.problem}. {self.remedy}"


# The id in a result with which the call can be repeated, if its caller has named none.
_IDS: Final = {
    "redeem": "redemption id",
    "redeem_stack": "redemption id",
    "rollback": "rollback id",
    "adjust": "adjustment id",
}


class NotDurable(VoucherSessionsError):
    """The call ran, but the replicas or disks that ``durability`` requires did not confirm its outcome in time.

    A failover or a crash may undo what the call has changed. If the call changed nothing (a refused ``validate``, the
    ``release`` of a session that is not live, a repeated redemption), its answer may rest on an earlier change that is
    lost, or that a primary which was replaced did not receive.

    Repeat the call, or accept ``result``. Repeating is safe, as after ``OutcomeUnknown``, except for ``put_voucher``
    with ``used``, which would replace what was redeemed in between: repeat that with ``if_exists="keep"``. If the call
    generated a session key or an id of a redemption, a rollback or an adjustment, ``result`` has it.

    Attributes:
        verb: The method that was called.
        problem: What was not confirmed.
        result: What the call would have returned.
    """

    def __init__(self, verb: str, problem: str, result: object) -> None:
        super().__init__(verb, problem, _as_json(result))
        self.verb = verb
        self.problem = problem
        self.result = _from_json(result)

    def __str__(self) -> str:
        with_key_or_id = self._with_key_or_id()
        result = "that result" if with_key_or_id else "the result of this error"
        accept = "" if self.result is None else f", or accept {result}"
        repeat = f"Repeat the call{with_key_or_id}{accept}"
        if self.verb == "put_voucher":
            repeat = (
                f"{repeat}. If the call sets used=, repeat it with if_exists='keep', so that it does not set it again"
            )
        return f"{self._what_happened()}: {self.problem}. {repeat}"

    def _what_happened(self) -> str:
        parts = self.result if isinstance(self.result, list) else [self.result]
        changes = {True if self.verb in {"extend", "extend_stack"} else _has_changed(part) for part in parts}
        if True in changes:
            return f"{self.verb} took effect, but is not confirmed as durable"
        if changes == {False}:
            return f"{self.verb} changed nothing, and what it found is not confirmed as durable"
        return f"{self.verb} ran, but what it changed or found is not confirmed as durable"

    def _with_key_or_id(self) -> str:
        if self.verb in _IDS and getattr(self.result, "id", None) is not None:
            return f" with the {_IDS[self.verb]} in the result of this error"
        return " with the session key in the result of this error" if getattr(self.result, "session", None) else ""


def _has_changed(part: object) -> bool | None:
    """Whether the result for one voucher shows that its call changed something; None: it does not show that."""
    if isinstance(part, bool):
        return part
    for name, of_a_change in (("valid", True), ("released", True), ("replayed", False)):
        if (shown := getattr(part, name, None)) is not None:
            return bool(shown is of_a_change)
    return None


class CorruptState(VoucherSessionsError):
    """A key contains a value that this library did not write, or a reply has a form that its scripts never return.

    ``problem`` says which of the two. A value at a key: nothing was changed, so find out what else writes under the
    engine's prefix. (If an earlier try of the call took effect and its reply was lost, repeat it when the value is
    corrected.) A reply of a wrong form: a call that changes something may have changed it, as after ``OutcomeUnknown``.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class UnknownFormat(CorruptState):
    """A newer version of this library wrote a stored value, and this version cannot read it. Nothing was changed.

    ``where`` says in which call, and at which key if it is not one of a voucher; ``format`` is the number of the value's
    format. Upgrade this process.
    """

    def __init__(self, where: str, format: int) -> None:
        super().__init__(
            f"{where}: a stored value has format {format}, which a newer version of voucher_sessions wrote; this version "
            f"reads format {FORMAT}. To read it, upgrade voucher_sessions in this process"
        )
        self.args = (where, format)
        self.where = where
        self.format = format

    def __str__(self) -> str:
        return self.problem


class EmbeddedServerError(VoucherSessionsError):
    """The server of ``embedded://`` cannot be started in this ``folder``; ``problem`` says why."""

    def __init__(self, folder: Path | str, problem: str) -> None:
        super().__init__(str(folder), problem)
        self.folder = Path(folder)
        self.problem = problem

    def __str__(self) -> str:
        return f"no server could be started in {self.folder}: {self.problem}"

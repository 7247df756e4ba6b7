"""The history of concurrent calls: when each began and ended, and its result, or that its outcome is unknown.

``Recorder`` makes the calls and keeps their history, ``load`` reads the logs that recorders of other processes wrote;
histories are lists that can be pickled and added. ``linearizable.check`` checks them.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from voucher_sessions import NotDurable, VoucherSessions, VoucherSessionsError
from voucher_sessions._core import requests
from voucher_sessions.results import Balance, VoucherState

# The books of one call at a time leave nothing else unsaid: these may have taken effect, or may yet do so, or never.
UNKNOWN = (RedisConnectionError, RedisTimeoutError, NotDurable)
READS = {"get_voucher", "get_redemption", "get_session", "list_sessions"}
POLICY = requests.ttl_policy(None, None)  # of the recorded engines
# What an engine can generate: the name in ``Op.args``, and the attribute of the error that carries it.
GENERATED = {
    "key": "session_key",
    "id": "redemption_id",
    "rollback_id": "rollback_id",
    "adjustment_id": "adjustment_id",
}


@dataclass(frozen=True)
class Op:
    """One call, in plain values that can be pickled and written as JSON.

    ``args`` are the call's in one form for a single voucher and for a stack. ``begin`` and ``end`` are readings of
    ``time.monotonic_ns``, which all processes of a Linux machine share. ``end`` None: the outcome is unknown.
    """

    client: str
    number: int
    verb: str
    args: dict[str, Any]
    begin: int
    end: int | None = None
    seen: Any = None

    @property
    def codes(self) -> list[str]:
        return (
            [*(need[0] for need in self.args["needs"]), *self.args.get("release", [])]
            if "needs" in self.args
            else (self.args["codes"])
        )

    @property
    def changes(self) -> bool:
        """Whether it matters if it took effect."""
        return self.verb not in READS and not (self.verb == "validate" and self.args["key"] is None)

    def __str__(self) -> str:
        words = " ".join(f"{name}={value!r}" for name, value in self.args.items())
        return f"{self.client}#{self.number} {self.verb} {words}"


class Recorder:
    """Makes calls of engines for one or more threads or tasks of a process, and keeps their history.

    ``name`` distinguishes it from other recorders. With a ``log``, each call is in that file before it is sent and again when
    it ends, so that the history survives the process; ``load`` reads it.
    """

    def __init__(self, name: str, log: Path | None = None) -> None:
        self._name = name
        self._numbers = itertools.count()
        self._ops: dict[int, Op] = {}
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @property
    def history(self) -> list[Op]:
        """All calls so far; those that are under way have an unknown outcome."""
        return list(self._ops.values())

    def close(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def call(self, engine: Any, verb: str, *args: Any, **options: Any) -> Any:
        """``engine.verb(*args, **options)``, recorded: its result, or its error, is the caller's."""
        number = self._begin(verb, args, options)
        try:
            result = getattr(engine, verb)(*args, **options)
        except BaseException as error:
            self._end(number, error)
            raise
        self._end(number, result)
        return result

    async def acall(self, engine: Any, verb: str, *args: Any, **options: Any) -> Any:
        """The same of an asyncio engine."""
        number = self._begin(verb, args, options)
        try:
            result = await getattr(engine, verb)(*args, **options)
        except BaseException as error:
            self._end(number, error)
            raise
        self._end(number, result)
        return result

    def _begin(self, verb: str, args: tuple[Any, ...], options: dict[str, Any]) -> int:
        number = next(self._numbers)
        # Stands for a key or id that the engine generates, until it is known: one that nobody else uses.
        anew = f"{self._name}#{number}?"
        op = Op(self._name, number, verb.removesuffix("_stack"), plain_args(verb, args, options, anew), _now())
        self._keep(op)
        return number

    def _end(self, number: int, outcome: object) -> None:
        at, op = _now(), self._ops[number]
        args = op.args
        for name, attribute in GENERATED.items():
            if str(args.get(name)).endswith("?") and (text := generated(outcome, attribute)) is not None:
                args = {**args, name: text}
        known = not isinstance(outcome, BaseException) or isinstance(outcome, Exception)
        if known and not isinstance(outcome, UNKNOWN):
            op = replace(op, end=at, seen=observed(op.verb, outcome))
        self._keep(replace(op, args=args))

    def _keep(self, op: Op) -> None:
        self._ops[op.number] = op
        if self._log is not None:
            os.write(self._log, json.dumps(asdict(op)).encode() + b"\n")


def load(logs: Iterable[Path]) -> list[Op]:
    """The history in the logs of recorders, of processes that were killed in the middle of a call too."""
    ops: dict[tuple[str, int], Op] = {}
    for log in logs:
        for line in log.read_bytes().split(b"\n")[:-1]:
            op = Op(**json.loads(line))
            ops[op.client, op.number] = op
    return list(ops.values())


def _now() -> int:
    return time.monotonic_ns()


def plain_args(verb: str, args: tuple[Any, ...], options: dict[str, Any], anew: str) -> dict[str, Any]:
    """A call's arguments in the one form that the books know: each verb is that of a stack."""
    bound = inspect.signature(getattr(VoucherSessions, verb)).bind(None, *args, **options)
    bound.apply_defaults()
    given = bound.arguments
    match verb.removesuffix("_stack"):
        case "put_voucher":
            voucher, used = given["voucher"], given["used"]
            limit = [voucher.quantity, voucher.credits, voucher.points]
            brought = None if used is None else [used.quantity, used.credits, used.points]
            return {"codes": [voucher.code], "limit": limit, "used": brought, "if_exists": given["if_exists"]}
        case "validate":
            session = given["session"]
            lock = None if session is None else requests.session_request(session, POLICY)
            has_key = session is not None and (session.get("key") if isinstance(session, dict) else session.key)
            key = lock.key if has_key and lock else anew
            release = list(given.get("release", ()))
            ttl_ms = lock.ttl_ms if lock else 0
            return {"needs": _needs(given), "key": key if lock else None, "ttl_ms": ttl_ms, "release": release}
        case "redeem":
            named = None if given["session"] is None else requests.session_key(given["session"])
            id_, if_missing = given["redemption_id"], given["if_session_missing"]
            return {"needs": _needs(given), "key": named, "id": anew if id_ is None else id_, "if_missing": if_missing}
        case "adjust":
            id_ = given["adjustment_id"]
            changes = [given["quantity"], given["credits"], given["points"]]
            return {"codes": _codes(given), "changes": changes, "adjustment_id": anew if id_ is None else id_}
        case "extend":
            asked = requests.extension(given["session_key"], given["ttl"], given["ttl_unit"], POLICY)
            return {"codes": _codes(given), "key": asked.key, "ttl_ms": asked.ttl_ms}
        case "rollback" if given.get("credits") or given.get("points"):
            id_, amounts = given["rollback_id"], [given["credits"] or 0, given["points"] or 0]
            rollback_id = anew if id_ is None else id_
            return {"codes": _codes(given), "id": given["redemption_id"], "part": amounts, "rollback_id": rollback_id}
        case _:
            names = {"session_key": "key", "redemption_id": "id", "limit": "limit"}
            return {"codes": _codes(given), **{short: given[name] for name, short in names.items() if name in given}}


def _codes(given: dict[str, Any]) -> list[str]:
    return list(given["codes"]) if "codes" in given else [given["code"]]


def _needs(given: dict[str, Any]) -> list[list[Any]]:
    if "redeemables" in given:
        return [[each.code, each.credits, each.points] for each in given["redeemables"]]
    return [[given["code"], given["credits"], given["points"]]]


def generated(outcome: Any, attribute: str) -> str | None:
    """The key or id that the engine made, if the result or the error has it."""
    if isinstance(outcome, NotDurable):
        outcome = outcome.result
    if isinstance(outcome, Exception):
        text: str | None = getattr(outcome, attribute, None)
        return text
    if attribute == "session_key":
        session = getattr(outcome, "session", None)
        return session.key if session else None
    return getattr(outcome, "id", None)


def observed(verb: str, outcome: Any) -> Any:
    """The result of a call in plain values, without times, because there is no common clock."""
    if isinstance(outcome, VoucherSessionsError):
        facts = {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in vars(outcome).items()}
        facts.pop("others", None)
        return {"error": type(outcome).__name__, **{name: fact for name, fact in facts.items() if _is_plain(fact)}}
    if isinstance(outcome, Exception):
        return {"error": type(outcome).__name__, "text": str(outcome)}
    return _RESULTS[verb](outcome)


def _many(outcome: Any) -> list[Any]:
    return outcome if isinstance(outcome, list) else [outcome]


def _state(voucher: VoucherState) -> list[list[int | None]]:
    balances: list[Balance] = [voucher.quantity, voucher.credits, voucher.points]
    return [[each.limit, each.used, each.locked] for each in balances]


def _validation(answer: Any) -> dict[str, Any]:
    left, session = answer.available, answer.session
    return {
        "reason": answer.reason,
        "held": answer.locked_by_others,
        "available": [left.quantity, left.credits, left.points],
        "lock": [session.credits, session.points] if session else None,
    }


def _taken(redemption: Any) -> list[Any]:
    each = redemption
    given_back = [each.rolled_back, each.credits_rolled_back, each.points_rolled_back]
    return [each.quantity, each.credits, each.points, each.session_key, *given_back]


def _is_plain(fact: object) -> bool:
    return fact is None or isinstance(fact, str | int | list)


def _adjustment(outcome: Any) -> list[Any]:
    state = None if outcome.voucher is None else _state(outcome.voucher)
    return [outcome.quantity, outcome.credits, outcome.points, state, outcome.replayed]


def _rollback(outcome: Any) -> list[Any]:
    return [outcome.quantity, outcome.credits, outcome.points, outcome.replayed]


def _locked(session: Any) -> list[int]:
    return [session.credits, session.points]


_RESULTS: Final[dict[str, Callable[[Any], Any]]] = {
    "put_voucher": _state,
    "get_voucher": _state,
    "adjust": _adjustment,
    "delete_voucher": lambda outcome: outcome,
    "validate": lambda outcome: [_validation(each) for each in getattr(outcome, "validations", [outcome])],
    "redeem": lambda outcome: [[*_taken(each), each.replayed] for each in getattr(outcome, "redemptions", [outcome])],
    "release": lambda outcome: [each.released for each in _many(outcome)],
    "rollback": lambda outcome: [_rollback(each) for each in _many(outcome)],
    "extend": lambda outcome: [_locked(each) for each in _many(outcome)],
    "get_session": lambda outcome: [_locked(outcome)],
    "list_sessions": lambda outcome: {each.key: _locked(each) for each in outcome},
    "get_redemption": _taken,
}

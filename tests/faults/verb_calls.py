"""Calls of every verb, the kinds of clients that make them, and the model that predicts each result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.retry
from conftest import BlockingAsync
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from support.model import Books
from support.scripted_clients import client_class

from faults.history import READS, Op, generated, observed, plain_args
from faults.model_answers import agrees, answer
from voucher_sessions import AsyncVoucherSessions, Redeemable, ServerUnavailable, Used, Voucher, VoucherSessions


class VerbCall(NamedTuple):
    """One call, not yet made."""

    verb: str
    args: tuple[Any, ...]
    options: dict[str, Any]

    def on(self, engine: Any) -> Any:
        return getattr(engine, self.verb)(*self.args, **self.options)

    def outcome(self, engine: Any) -> Any:
        """The result or the error."""
        try:
            return self.on(engine)
        except Exception as error:  # what it is, is what is tested
            return error

    def named(self, error: object) -> VerbCall:
        """The same call with the key and ids that its error carries, as its caller repeats it."""
        options = dict(self.options)
        if isinstance(options.get("session"), dict) and "key" not in options["session"]:
            options["session"] = {**options["session"], "key": getattr(error, "session_key", None)}
        if self.generates and self.generates != "session_key":
            options.setdefault(self.generates, getattr(error, self.generates, None))
        return self._replace(options=options)

    @property
    def generates(self) -> str | None:
        """The name of the id that an engine generates if the call does not name one."""
        match self.verb.removesuffix("_stack"):
            case "redeem":
                return "redemption_id"
            case "adjust":
                return "adjustment_id"
            case "rollback":
                return "rollback_id" if {"credits", "points"} & set(self.options) else None
            case "validate":
                return "session_key"
            case _:
                return None


def verb_call(verb: str, *args: Any, **options: Any) -> VerbCall:
    return VerbCall(verb, args, options)


def lock(key: str | None = None) -> dict[str, Any]:
    return {"type": "LOCK"} if key is None else {"type": "LOCK", "key": key}


STACK = [Redeemable(code="A", credits=3), Redeemable(code="B", credits=4)]
FIRST: Sequence[VerbCall] = (
    verb_call("put_voucher", Voucher(code="A", quantity=9, credits=100, points=50)),
    verb_call("put_voucher", Voucher(code="B", quantity=None, credits=100)),
    verb_call("put_voucher", Voucher(code="ONCE", quantity=1)),
    verb_call("validate", "A", credits=10, session=lock("k")),
    verb_call("validate", "B", credits=5, points=0, session=lock("k")),
    verb_call("validate", "ONCE", session=lock("other")),
    verb_call("redeem", "A", credits=20, points=5, redemption_id="paid"),
    verb_call("redeem_stack", STACK, redemption_id="both"),
    verb_call("redeem", "B", credits=1, redemption_id="refunded"),
    verb_call("rollback", "B", "refunded"),
    verb_call("adjust", "A", credits=10, adjustment_id="topped up"),
    verb_call("rollback", "A", "paid", credits=5, rollback_id="sent back"),
)
# Every verb in all its ways, after FIRST.
VERB_CALLS: dict[str, VerbCall] = {
    "put_voucher, a new one": verb_call("put_voucher", Voucher(code="C", quantity=1)),
    "put_voucher, new limits": verb_call("put_voucher", Voucher(code="A", quantity=3, credits=60)),
    "put_voucher with used": verb_call("put_voucher", Voucher(code="A", quantity=9), used=Used(quantity=1, credits=7)),
    "delete_voucher": verb_call("delete_voucher", "A"),
    "delete_voucher, none there": verb_call("delete_voucher", "C"),
    "validate with an own key": verb_call("validate", "A", credits=7, session=lock("mine")),
    "validate with a generated key": verb_call("validate", "A", credits=7, session=lock()),
    "validate overrides": verb_call("validate", "A", credits=30, session=lock("k")),
    "validate, an override refused": verb_call("validate", "A", credits=300, session=lock("k")),
    "validate, refused": verb_call("validate", "ONCE", session=lock()),
    "redeem": verb_call("redeem", "A", credits=6),
    "redeem with an id": verb_call("redeem", "A", credits=6, redemption_id="order"),
    "redeem a session": verb_call("redeem", "A", session="k"),
    "redeem a session with an id": verb_call("redeem", "A", credits=12, session="k", redemption_id="order"),
    "redeem a session that is not live": verb_call("redeem", "A", session="gone", redemption_id="order"),
    "redeem, whatever became of the session": verb_call(
        "redeem", "A", credits=1, session="gone", redemption_id="order", if_session_missing="redeem"
    ),
    "redeem, refused": verb_call("redeem", "ONCE", redemption_id="order"),
    "redeem, replayed": verb_call("redeem", "A", credits=20, redemption_id="paid"),
    "redeem, another request under the id": verb_call("redeem", "A", credits=21, redemption_id="paid"),
    "release": verb_call("release", "A", "k"),
    "release of nothing": verb_call("release", "A", "gone"),
    "rollback": verb_call("rollback", "A", "paid"),
    "rollback, replayed": verb_call("rollback", "B", "refunded"),
    "rollback of nothing": verb_call("rollback", "B", "paid"),
    "rollback of a part": verb_call("rollback", "A", "paid", credits=4),
    "rollback of a part with an id": verb_call("rollback", "A", "paid", credits=4, points=1, rollback_id="more"),
    "rollback of a part, replayed": verb_call("rollback", "A", "paid", credits=5, rollback_id="sent back"),
    "rollback of a part, other amounts under the id": verb_call(
        "rollback", "A", "paid", credits=6, rollback_id="sent back"
    ),
    "rollback of a part, more than is left": verb_call("rollback", "A", "paid", credits=16, rollback_id="more"),
    "rollback of a part of nothing": verb_call("rollback", "B", "paid", credits=1, rollback_id="more"),
    "adjust": verb_call("adjust", "A", credits=25),
    "adjust with an id": verb_call("adjust", "A", quantity=1, credits=-100, points=2, adjustment_id="again"),
    "adjust, replayed": verb_call("adjust", "A", credits=10, adjustment_id="topped up"),
    "adjust, other changes under the id": verb_call("adjust", "A", credits=11, adjustment_id="topped up"),
    "adjust, refused": verb_call("adjust", "B", quantity=1, credits=1, adjustment_id="again"),
    "adjust of no voucher": verb_call("adjust", "C", credits=1, adjustment_id="again"),
    "extend": verb_call("extend", "A", "k", ttl=2, ttl_unit="HOURS"),
    "extend, not live": verb_call("extend", "A", "gone"),
    "extend_stack": verb_call("extend_stack", ["A", "B"], "k"),
    "extend_stack, one not live": verb_call("extend_stack", ["A", "ONCE"], "k"),
    "validate_stack": verb_call("validate_stack", STACK, session=lock("mine")),
    "validate_stack with a generated key": verb_call("validate_stack", STACK, session=lock()),
    "validate_stack with release": verb_call("validate_stack", STACK[:1], session=lock("k"), release=["B"]),
    "redeem_stack": verb_call("redeem_stack", STACK),
    "redeem_stack of a session": verb_call("redeem_stack", STACK, session="k", redemption_id="order"),
    "release_stack": verb_call("release_stack", ["A", "B"], "k"),
    "rollback_stack": verb_call("rollback_stack", ["A", "B"], "both"),
    "validate without a session": verb_call("validate", "A", credits=7),
    "validate_stack without a session": verb_call("validate_stack", STACK),
    "get_voucher": verb_call("get_voucher", "A"),
    "get_redemption": verb_call("get_redemption", "A", "paid"),
    "get_session": verb_call("get_session", "A", "k"),
    "get_session, not live": verb_call("get_session", "A", "gone"),
    "list_sessions": verb_call("list_sessions", "A"),
}


class Model:
    """What the books say to each act, one after the other."""

    def __init__(self, books: Books | None = None) -> None:
        self.books = books or Books()

    def expect(self, call: VerbCall, generated_text: str = "?") -> tuple[Op, Any]:
        """The call as recorded, and its expected result. ``generated_text``: the key or id that the engine generated."""
        args = plain_args(call.verb, call.args, call.options, generated_text)
        op = Op("", 0, call.verb.removesuffix("_stack"), args, 0)
        return op, answer(self.books, op, 0)

    def agrees(self, call: VerbCall, outcome: Any) -> None:
        """Raise AssertionError where the outcome is not what the model predicts."""
        op, expected = self.expect(call, generated_by(call, outcome) or "?")
        seen = observed(op.verb, outcome)
        assert agrees(replace(op, end=0), expected, seen), f"{call}: returned {seen}, the model says {expected}"


def generated_by(call: VerbCall, outcome: Any) -> str | None:
    """What the engine generated for this call, from its result or its error."""
    return generated(outcome, call.generates or "session_key")


def changes(call: VerbCall) -> bool:
    return call.verb not in READS and (not call.verb.startswith("validate") or "session" in call.options)


class ClientKind(NamedTuple):
    """A kind of client, and of the engine over it."""

    kind: str
    retries: int  # how often the client repeats by itself what got no reply
    protocol: int
    transport: str = "own connections"

    def client(self, port: int, timeout: float) -> Any:
        """Of a server on loopback; it must be closed."""
        backoff = ExponentialBackoff(cap=0.02, base=0.001) if self.retries else NoBackoff()
        options: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "protocol": self.protocol,
            "decode_responses": self.protocol == 2,
            "socket_timeout": timeout,
        }
        retry = Retry if self.kind == "sync" else redis.asyncio.retry.Retry
        return client_class(self.kind, self.transport)(**options, retry=retry(backoff, self.retries))

    @contextmanager
    def engine(self, port: int, timeout: float, prefix: str) -> Iterator[VoucherSessions]:
        """An engine behind a proxy, its connection made; ``BlockingAsync`` awaits the calls of the asyncio one."""
        client = self.client(port, timeout)
        if self.kind == "sync":
            with client, closing(VoucherSessions(client, prefix=prefix)) as engine:
                wait_until_connected(engine)
                yield engine
            return
        with asyncio.Runner() as runner:
            waiting: Any = BlockingAsync(AsyncVoucherSessions(client, prefix=prefix), runner.get_loop())
            wait_until_connected(waiting)
            yield waiting
            waiting.aclose()
            runner.run(client.aclose())


def wait_until_connected(engine: Any) -> None:
    """A short timeout is for the call that is tested, not for a connection to be made on a busy machine."""
    for _ in range(200):
        try:
            engine.ping()
        except ServerUnavailable:
            continue
        return
    raise AssertionError("no connection")

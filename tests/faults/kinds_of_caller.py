"""Callers of every kind, and the books in a model beside them: what each call must tell and leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.retry
from conftest import Awaited
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from support.model import Books

from faults.history import Op, generated, observed, plain_args
from faults.model_answers import agrees, answer
from voucher_sessions import AsyncVoucherSessions, Redeemable, Used, Voucher, VoucherSessions


class Act(NamedTuple):
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

    def named(self, key: str | None, redemption_id: str | None) -> Act:
        """The same call with what its error told, as its caller repeats it."""
        options = dict(self.options)
        if isinstance(options.get("session"), dict) and "key" not in options["session"]:
            options["session"] = {**options["session"], "key": key}
        if self.verb.startswith("redeem") and "redemption_id" not in options:
            options["redemption_id"] = redemption_id
        return self._replace(options=options)


def act(verb: str, *args: Any, **options: Any) -> Act:
    return Act(verb, args, options)


def lock(key: str | None = None) -> dict[str, Any]:
    return {"type": "LOCK"} if key is None else {"type": "LOCK", "key": key}


STACK = [Redeemable(code="A", credits=3), Redeemable(code="B", credits=4)]
FIRST: Sequence[Act] = (
    act("put_voucher", Voucher(code="A", quantity=9, credits=100, points=50)),
    act("put_voucher", Voucher(code="B", quantity=None, credits=100)),
    act("put_voucher", Voucher(code="ONCE", quantity=1)),
    act("validate", "A", credits=10, session=lock("k")),
    act("validate", "B", credits=5, points=0, session=lock("k")),
    act("validate", "ONCE", session=lock("other")),
    act("redeem", "A", credits=20, points=5, redemption_id="paid"),
    act("redeem_stack", STACK, redemption_id="both"),
    act("redeem", "B", credits=1, redemption_id="refunded"),
    act("rollback", "B", "refunded"),
)
# Every verb in all its ways, after FIRST.
ACTS: dict[str, Act] = {
    "put_voucher, a new one": act("put_voucher", Voucher(code="C", quantity=1)),
    "put_voucher, new limits": act("put_voucher", Voucher(code="A", quantity=3, credits=60)),
    "put_voucher with used": act("put_voucher", Voucher(code="A", quantity=9), used=Used(quantity=1, credits=7)),
    "delete_voucher": act("delete_voucher", "A"),
    "delete_voucher, none there": act("delete_voucher", "C"),
    "validate with an own key": act("validate", "A", credits=7, session=lock("mine")),
    "validate with a generated key": act("validate", "A", credits=7, session=lock()),
    "validate overrides": act("validate", "A", credits=30, session=lock("k")),
    "validate, an override refused": act("validate", "A", credits=300, session=lock("k")),
    "validate, refused": act("validate", "ONCE", session=lock()),
    "redeem": act("redeem", "A", credits=6),
    "redeem with an id": act("redeem", "A", credits=6, redemption_id="order"),
    "redeem a session": act("redeem", "A", session="k"),
    "redeem a session with an id": act("redeem", "A", credits=12, session="k", redemption_id="order"),
    "redeem a session that is not live": act("redeem", "A", session="gone", redemption_id="order"),
    "redeem, whatever became of the session": act(
        "redeem", "A", credits=1, session="gone", redemption_id="order", if_session_missing="redeem"
    ),
    "redeem, refused": act("redeem", "ONCE", redemption_id="order"),
    "redeem, replayed": act("redeem", "A", credits=20, redemption_id="paid"),
    "redeem, another request under the id": act("redeem", "A", credits=21, redemption_id="paid"),
    "release": act("release", "A", "k"),
    "release of nothing": act("release", "A", "gone"),
    "rollback": act("rollback", "A", "paid"),
    "rollback, replayed": act("rollback", "B", "refunded"),
    "rollback of nothing": act("rollback", "B", "paid"),
    "validate_stack": act("validate_stack", STACK, session=lock("mine")),
    "validate_stack with a generated key": act("validate_stack", STACK, session=lock()),
    "validate_stack with release": act("validate_stack", STACK[:1], session=lock("k"), release=["B"]),
    "redeem_stack": act("redeem_stack", STACK),
    "redeem_stack of a session": act("redeem_stack", STACK, session="k", redemption_id="order"),
    "release_stack": act("release_stack", ["A", "B"], "k"),
    "rollback_stack": act("rollback_stack", ["A", "B"], "both"),
    "validate without a session": act("validate", "A", credits=7),
    "validate_stack without a session": act("validate_stack", STACK),
    "get_voucher": act("get_voucher", "A"),
    "get_redemption": act("get_redemption", "A", "paid"),
    "list_sessions": act("list_sessions", "A"),
}


class Model:
    """What the books say to each act, one after the other."""

    def __init__(self, books: Books | None = None) -> None:
        self.books = books or Books()

    def told(self, made: Act, anew: str = "?") -> tuple[Op, Any]:
        """The call as recorded, and what it is to be told; ``anew``: the key or id that the engine generated."""
        args = plain_args(made.verb, made.args, made.options, anew)
        op = Op("", 0, made.verb.removesuffix("_stack"), args, 0)
        return op, answer(self.books, op, 0)

    def agrees(self, made: Act, outcome: Any) -> None:
        """The caller was told what the books say."""
        op, told = self.told(made, made_anew(made, outcome) or "?")
        seen = observed(op.verb, outcome)
        assert agrees(replace(op, end=0), told, seen), f"{made}: told {seen}, the books say {told}"


def made_anew(made: Act, outcome: Any) -> str | None:
    """What the engine generated for this call, told by its result or its error."""
    return generated(outcome, "redemption_id" if made.verb.startswith("redeem") else "session_key")


def changes(made: Act) -> bool:
    return made.verb not in ("get_voucher", "get_redemption", "list_sessions") and (
        not made.verb.startswith("validate") or "session" in made.options
    )


class Caller(NamedTuple):
    """A kind of client, and of engine."""

    kind: str
    retries: int  # how often the client repeats by itself what got no reply
    protocol: int

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
        if self.kind == "sync":
            return redis.Redis(**options, retry=Retry(backoff, self.retries))
        return redis.asyncio.Redis(**options, retry=redis.asyncio.retry.Retry(backoff, self.retries))

    @contextmanager
    def engine(self, port: int, timeout: float, prefix: str) -> Iterator[VoucherSessions]:
        """An engine behind a proxy, its connection made; the asyncio one is awaited behind the sync one's face."""
        client = self.client(port, timeout)
        if self.kind == "sync":
            with client:
                ready(client)
                yield VoucherSessions(client, prefix=prefix)
            return
        with asyncio.Runner() as runner:
            ready(Awaited(client, runner.get_loop()))
            engine: Any = Awaited(AsyncVoucherSessions(client, prefix=prefix), runner.get_loop())
            yield engine
            runner.run(client.aclose())


def ready(client: Any) -> None:
    """A short timeout is for the call that is tested, not for a connection to be made on a busy machine."""
    for _ in range(200):
        try:
            client.execute_command("PING")
        except redis.RedisError:
            continue
        return
    raise AssertionError("no connection")

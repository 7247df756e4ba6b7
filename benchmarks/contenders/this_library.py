"""The contender that is this library, and the commands that it sends for a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import redis

from benchmarks.contenders import AMOUNT, CREDITS, OTHER_AMOUNT, TTL_MINUTES, Contender, Verb, must
from voucher_sessions import Release, Validation, Voucher, VoucherSessions

NAME: Final = "voucher_sessions"


def session(key: str) -> dict[str, object]:
    """The session of a request, as JSON would contain it."""
    return {"type": "LOCK", "key": key, "ttl": TTL_MINUTES, "ttl_unit": "MINUTES"}


# Each takes an engine, sync or asyncio, or its pipeline.
REQUESTS: Final[Mapping[Verb, Callable[[Any, str, str], Any]]] = {
    Verb.VALIDATE: lambda engine, code, key: engine.validate(code, credits=AMOUNT),
    Verb.LOCK: lambda engine, code, key: engine.validate(code, credits=AMOUNT, session=session(key)),
    Verb.OVERRIDE: lambda engine, code, key: engine.validate(code, credits=OTHER_AMOUNT, session=session(key)),
    Verb.REDEEM_SESSION: lambda engine, code, key: engine.redeem(code, session=key),
    Verb.RELEASE: lambda engine, code, key: engine.release(code, key),
    Verb.REDEEM: lambda engine, code, key: engine.redeem(code, credits=AMOUNT),
    Verb.STATE: lambda engine, code, key: engine.get_voucher(code),
}


def granted(result: Any) -> object:
    """The result, if the request was granted. Other results than these are refusals only as exceptions."""
    if isinstance(result, Validation):
        must(result.valid)
    elif isinstance(result, Release):
        must(result.released)
    return result


def contender(client: redis.Redis) -> Contender:
    engine = VoucherSessions(client)

    def verb(request: Callable[[Any, str, str], Any]) -> Callable[[str, str], object]:
        return lambda code, key: granted(request(engine, code, key))

    return Contender(
        NAME,
        put=lambda codes: [engine.put_voucher(Voucher(code=code, credits=CREDITS)) for code in codes],
        verbs={name: verb(request) for name, request in REQUESTS.items()},
        scripted=True,
        close=client.close,
    )


class CommandIntercepted(Exception):
    """Carries the command that a client would have sent."""


class Unconnected(redis.Redis):
    """A client that sends nothing."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        raise CommandIntercepted(*args)


_ENGINE: Final = VoucherSessions(Unconnected(unix_socket_path="nowhere"))


def sent_command(request: Callable[[Any], object]) -> tuple[Any, ...]:
    """The arguments of the EVALSHA that a request sends: digest, number of keys, keys, arguments."""
    try:
        request(_ENGINE)
    except CommandIntercepted as command:
        name, *rest = command.args
        assert name == "EVALSHA"
        return tuple(rest)
    raise AssertionError("nothing was sent")

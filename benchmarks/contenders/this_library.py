"""This library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import redis

from benchmarks.contenders import (
    AMOUNT,
    CREDITS,
    LOCK,
    OTHER_AMOUNT,
    OVERRIDE,
    REDEEM,
    REDEEM_SESSION,
    RELEASE,
    STATE,
    TTL_MINUTES,
    VALIDATE,
    Contender,
    must,
)
from voucher_sessions import Voucher, VoucherSessions

NAME: Final = "voucher_sessions"


def session(key: str) -> dict[str, object]:
    """As a request body brings it."""
    return {"type": "LOCK", "key": key, "ttl": TTL_MINUTES, "ttl_unit": "MINUTES"}


# Of an engine, sync or asyncio, or of its pipeline.
REQUESTS: Final[Mapping[str, Callable[[Any, str, str], Any]]] = {
    VALIDATE: lambda engine, code, key: engine.validate(code, credits=AMOUNT),
    LOCK: lambda engine, code, key: engine.validate(code, credits=AMOUNT, session=session(key)),
    OVERRIDE: lambda engine, code, key: engine.validate(code, credits=OTHER_AMOUNT, session=session(key)),
    REDEEM_SESSION: lambda engine, code, key: engine.redeem(code, session=key),
    RELEASE: lambda engine, code, key: engine.release(code, key),
    REDEEM: lambda engine, code, key: engine.redeem(code, credits=AMOUNT),
    STATE: lambda engine, code, key: engine.get_voucher(code),
}


def granted(result: object) -> object:
    """The result, if it is what was asked for."""
    must(getattr(result, "valid", True) and getattr(result, "released", True))
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


class Sent(Exception):
    """No error: a command that stops short of the server."""


class Unconnected(redis.Redis):
    """A client that sends nothing."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        raise Sent(*args)


_ENGINE: Final = VoucherSessions(Unconnected(unix_socket_path="nowhere"))


def sent(request: Callable[[Any], object]) -> tuple[Any, ...]:
    """What a request sends after EVALSHA: the script's name, how many keys, the keys, the arguments."""
    try:
        request(_ENGINE)
    except Sent as command:
        name, *rest = command.args
        assert name == "EVALSHA"
        return tuple(rest)
    raise AssertionError("nothing was sent")

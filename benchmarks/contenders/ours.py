"""This library."""

from __future__ import annotations

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

NAME = "voucher_sessions"


def session(key: str) -> dict[str, object]:
    """As a request body brings it."""
    return {"type": "LOCK", "key": key, "ttl": TTL_MINUTES, "ttl_unit": "MINUTES"}


def contender(client: redis.Redis) -> Contender:
    engine = VoucherSessions(client)

    def lock(code: str, key: str, amount: int) -> None:
        must(engine.validate(code, credits=amount, session=session(key)).valid)

    return Contender(
        NAME,
        put=lambda codes: [engine.put_voucher(Voucher(code=code, credits=CREDITS)) for code in codes],
        verbs={
            VALIDATE: lambda code, key: must(engine.validate(code, credits=AMOUNT).valid),
            LOCK: lambda code, key: lock(code, key, AMOUNT),
            OVERRIDE: lambda code, key: lock(code, key, OTHER_AMOUNT),
            REDEEM_SESSION: lambda code, key: engine.redeem(code, session=key),
            RELEASE: lambda code, key: must(engine.release(code, key).released),
            REDEEM: lambda code, key: engine.redeem(code, credits=AMOUNT),
            STATE: lambda code, key: engine.get_voucher(code),
        },
        scripted=True,
        close=client.close,
    )

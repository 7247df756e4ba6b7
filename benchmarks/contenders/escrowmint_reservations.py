"""``escrowmint`` from PyPI, by its own documentation: reserve, commit, cancel.

A resource has one number, so there is no quantity beside the credits; a reservation cannot be changed.
"""

from __future__ import annotations

import redis
from escrowmint import Client, ClientConfig

from benchmarks.contenders import (
    AMOUNT,
    CREDITS,
    LOCK,
    REDEEM,
    REDEEM_SESSION,
    RELEASE,
    STATE,
    TTL_MINUTES,
    Contender,
    must,
)

NAME = "escrowmint"


def contender(client: redis.Redis) -> Contender:
    """``client`` must decode replies, as escrowmint's own does."""
    escrowmint = Client(ClientConfig(), redis_client=client)
    ttl_ms = TTL_MINUTES * 60_000
    return Contender(
        NAME,
        put=lambda codes: [escrowmint.top_up(code, CREDITS) for code in codes],
        verbs={
            LOCK: lambda code, key: escrowmint.reserve(code, AMOUNT, ttl_ms=ttl_ms, reservation_id=key),
            REDEEM_SESSION: lambda code, key: must(escrowmint.commit(code, key).applied),
            RELEASE: lambda code, key: must(escrowmint.cancel(code, key)),
            REDEEM: lambda code, key: must(escrowmint.try_consume(code, AMOUNT).applied),
            STATE: lambda code, key: escrowmint.get_state(code),
        },
        scripted=True,
        close=client.close,
    )

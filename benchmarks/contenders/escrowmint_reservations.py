"""The contender ``escrowmint`` from PyPI, used as its documentation says: reserve, commit, cancel.

Its resource has one number, so there is no quantity besides the credits. It cannot change a reservation.
"""

from __future__ import annotations

import redis
from escrowmint import Client, ClientConfig

from benchmarks.contenders import AMOUNT, CREDITS, TTL_MINUTES, Contender, Verb, must

NAME = "escrowmint"


def contender(client: redis.Redis) -> Contender:
    """``client`` must decode replies, as escrowmint's own does."""
    escrowmint = Client(ClientConfig(), redis_client=client)
    ttl_ms = TTL_MINUTES * 60_000
    return Contender(
        NAME,
        put=lambda codes: [escrowmint.top_up(code, CREDITS) for code in codes],
        verbs={
            Verb.LOCK: lambda code, key: escrowmint.reserve(code, AMOUNT, ttl_ms=ttl_ms, reservation_id=key),
            Verb.REDEEM_SESSION: lambda code, key: must(escrowmint.commit(code, key).applied),
            Verb.RELEASE: lambda code, key: must(escrowmint.cancel(code, key)),
            Verb.REDEEM: lambda code, key: must(escrowmint.try_consume(code, AMOUNT).applied),
            Verb.STATE: lambda code, key: escrowmint.get_state(code),
        },
        scripted=True,
        close=client.close,
    )

"""What Redis itself costs: scripts that do nothing, or only what every lock must write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from benchmarks.contenders import (
    AMOUNT,
    LOCK,
    OVERRIDE,
    REDEEM,
    REDEEM_SESSION,
    RELEASE,
    STATE,
    TTL_MINUTES,
    VALIDATE,
    Contender,
)
from benchmarks.contenders.ours import session
from voucher_sessions.call import Call
from voucher_sessions.calls import Calls
from voucher_sessions.keys import Keys

NO_OP, WRITES = "no-op EVALSHA", "writes alone"

DO_NOTHING = "return 1"
# The key of the session, its place in the index, the totals of the card: a lock cannot be had for less.
ONLY_WRITE = """
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], 'quantity', 1, 'credits', ARGV[4], 'points', 0)
return 1
"""


def commands() -> dict[str, tuple[int | str | bytes, ...]]:
    """What the library sends after the script's name: how many keys, the keys, the arguments."""
    calls, code, key = Calls(Keys("vs"), None), "CARD-000", "ssn_" + "0" * 32
    sent: dict[str, Call[Any]] = {
        VALIDATE: calls.validate(code, AMOUNT, 0, None),
        LOCK: calls.validate(code, AMOUNT, 0, session(key)),
        OVERRIDE: calls.validate(code, AMOUNT, 0, session(key)),
        REDEEM_SESSION: calls.redeem(code, None, None, key, None, "raise"),
        RELEASE: calls.release(code, key),
        REDEEM: calls.redeem(code, AMOUNT, None, None, None, "raise"),
        STATE: calls.get_voucher(code),
    }
    return {verb: (len(call.keys), *call.keys, *call.args) for verb, call in sent.items()}


def no_op(client: redis.Redis) -> Contender:
    """For each verb an EVALSHA that does nothing, with that verb's keys and arguments."""
    sha = str(client.script_load(DO_NOTHING))

    def send(command: tuple[int | str | bytes, ...]) -> Callable[[str, str], object]:
        return lambda code, key: client.evalsha(sha, *command)  # type: ignore[arg-type]  # redis-py names str alone

    return Contender(
        NO_OP,
        put=lambda codes: None,
        verbs={verb: send(command) for verb, command in commands().items()},
        scripted=True,
        close=client.close,
    )


def writes(client: redis.Redis) -> Contender:
    """An EVALSHA that writes what a lock needs, and reads and judges nothing."""
    sha = str(client.script_load(ONLY_WRITE))
    ttl_ms = str(TTL_MINUTES * 60_000)

    def lock(code: str, key: str) -> object:
        book = f"writes:{{{code}}}"
        return client.evalsha(
            sha, 3, book, f"{book}:locks", f"{book}:session:{key}", key, ttl_ms, "1800000000000", str(AMOUNT)
        )

    return Contender(WRITES, put=lambda codes: None, verbs={LOCK: lock}, scripted=True, close=client.close)

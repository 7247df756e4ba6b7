"""What a user would write with redis-py: read the card, judge in Python, write; alone by redis-py's ``Lock``, or by
``WATCH`` with retry.

Of a card, ``locks`` has the amount of each session and ``expiries`` when it ends; the card keeps the total, so that no
lock is read but the caller's own and those that have expired. That is the most that this design gives: fewer round
trips need a script.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

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

LOCKED, LOCKED_EAGER, WATCHED = "redis-py Lock", "redis-py Lock, sleep=0.001", "WATCH/MULTI"


class Names(NamedTuple):
    """The keys of a card."""

    card: str
    locks: str
    expiries: str

    @classmethod
    def of(cls, code: str) -> Names:
        return cls(f"card:{{{code}}}", f"card:{{{code}}}:locks", f"card:{{{code}}}:expiries")


class Card(NamedTuple):
    """A card as it was read."""

    available: int
    own: int
    expired: list[str]
    expired_amount: int


def ask(pipe: Any, names: Names, key: str) -> list[Any]:
    """The commands that read a card; their replies, where the pipeline answers at once."""
    return [
        pipe.hmget(names.card, "credits", "used", "locked"),
        pipe.hget(names.locks, key),
        pipe.zrangebyscore(names.expiries, "-inf", time.time()),
    ]


def card(client: Any, names: Names, key: str, replies: list[Any]) -> Card:
    """The replies, understood. Locks that have expired count no longer."""
    (credits, used, locked), own, expired = replies
    gone = (
        {each: int(amount) for each, amount in zip(expired, client.hmget(names.locks, expired), strict=True)}
        if expired
        else {}
    )
    amount = 0 if key in gone else int(own or 0)
    return Card(int(credits) - int(used) - int(locked) + sum(gone.values()), amount, list(gone), sum(gone.values()))


def write(pipe: Any, names: Names, key: str, found: Card, amount: int, spent: int) -> None:
    """The commands that leave ``amount`` locked and ``spent`` spent."""
    pipe.hincrby(names.card, "locked", amount - found.own - found.expired_amount)
    if spent:
        pipe.hincrby(names.card, "used", spent)
    gone = [*found.expired, *([] if amount else [key])]
    if gone:
        pipe.hdel(names.locks, *gone)
        pipe.zrem(names.expiries, *gone)
    if amount:
        pipe.hset(names.locks, key, amount)
        pipe.zadd(names.expiries, {key: time.time() + TTL_MINUTES * 60})


def own(found: Card) -> int:
    """What the session has locked; none here would be a mistake."""
    must(found.own)
    return found.own


def locked(client: redis.Redis, sleep: float = 0.1, name: str = LOCKED) -> Contender:
    """Alone on the card by ``Lock``; 0.1 s between two tries is what redis-py does unless told otherwise."""

    def read(names: Names, key: str) -> Card:
        with client.pipeline(transaction=False) as pipe:
            ask(pipe, names, key)
            return card(client, names, key, pipe.execute())

    def change(code: str, key: str, amount: int, spend: Callable[[Card], int]) -> None:
        names = Names.of(code)
        with client.lock(f"card:{{{code}}}:mutex", timeout=10, sleep=sleep):
            found = read(names, key)
            spent = spend(found)
            must(found.available + found.own >= amount + spent)
            with client.pipeline() as pipe:
                write(pipe, names, key, found, amount, spent)
                pipe.execute()

    return _contender(name, client, change, lambda code, key: read(Names.of(code), key))


def watched(client: redis.Redis) -> Contender:
    """``WATCH``, and again from the start when somebody else was faster."""

    def change(code: str, key: str, amount: int, spend: Callable[[Card], int]) -> None:
        names = Names.of(code)

        def attempt(pipe: Any) -> None:
            found = card(pipe, names, key, ask(pipe, names, key))
            spent = spend(found)
            must(found.available + found.own >= amount + spent)
            pipe.multi()
            write(pipe, names, key, found, amount, spent)

        client.transaction(attempt, *names)

    def read(code: str, key: str) -> Card:
        with client.pipeline() as pipe:
            ask(pipe, Names.of(code), key)
            return card(client, Names.of(code), key, pipe.execute())

    return _contender(WATCHED, client, change, read)


def _contender(
    name: str,
    client: redis.Redis,
    change: Callable[[str, str, int, Callable[[Card], int]], None],
    read: Callable[[str, str], Card],
) -> Contender:
    return Contender(
        name,
        put=lambda codes: [
            client.hset(Names.of(code).card, mapping={"credits": CREDITS, "used": 0, "locked": 0}) for code in codes
        ],
        verbs={
            VALIDATE: lambda code, key: must(read(code, key).available >= AMOUNT),
            LOCK: lambda code, key: change(code, key, AMOUNT, lambda found: 0),
            OVERRIDE: lambda code, key: change(code, key, OTHER_AMOUNT, lambda found: 0),
            REDEEM_SESSION: lambda code, key: change(code, key, 0, own),
            RELEASE: lambda code, key: change(code, key, 0, lambda found: own(found) * 0),
            REDEEM: lambda code, key: change(code, key, 0, lambda found: AMOUNT),
            STATE: read,
        },
        close=client.close,
    )

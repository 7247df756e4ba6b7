"""Contenders without a script: read the card, decide in Python, write, under redis-py's ``Lock`` or with ``WATCH``.

The hash ``locks`` of a card maps each session to its amount, and the sorted set ``expiries`` to its expiry. The card
contains the total of all locks, so a call reads only the caller's own lock and the expired ones. Fewer round trips than
these need a script.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import redis

from benchmarks.contenders import AMOUNT, CREDITS, OTHER_AMOUNT, TTL_MINUTES, Contender, Verb, must

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
    """A card as a call has read it."""

    available: int
    own: int
    expired: list[str]
    expired_amount: int


def ask(pipe: Any, names: Names, key: str) -> list[Any]:
    """Send the commands that read a card. The replies are valid if the pipeline executes commands at once (WATCH)."""
    return [
        pipe.hmget(names.card, "credits", "used", "locked"),
        pipe.hget(names.locks, key),
        pipe.zrangebyscore(names.expiries, "-inf", time.time()),
    ]


def card(client: Any, names: Names, key: str, replies: list[Any]) -> Card:
    """Parse the replies. Expired locks do not count."""
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
    """What the session has locked; it must have a lock."""
    must(found.own)
    return found.own


def locked(client: redis.Redis, sleep: float = 0.1, name: str = LOCKED) -> Contender:
    """Under redis-py's ``Lock``, which by default waits 0.1 s between two attempts."""

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
    """With ``WATCH``; redis-py starts again if another client has changed the keys."""

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
            Verb.VALIDATE: lambda code, key: must(read(code, key).available >= AMOUNT),
            Verb.LOCK: lambda code, key: change(code, key, AMOUNT, lambda found: 0),
            Verb.OVERRIDE: lambda code, key: change(code, key, OTHER_AMOUNT, lambda found: 0),
            Verb.REDEEM_SESSION: lambda code, key: change(code, key, 0, own),
            Verb.RELEASE: lambda code, key: change(code, key, 0, lambda found: own(found) * 0),
            Verb.REDEEM: lambda code, key: change(code, key, 0, lambda found: AMOUNT),
            Verb.STATE: read,
        },
        close=client.close,
    )

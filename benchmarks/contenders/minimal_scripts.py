"""The lower bound of what a script can cost: one that does nothing, and one that only writes what a lock needs."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any, Final

import redis

from benchmarks.contenders import AMOUNT, TTL_MINUTES, Contender, Verb
from benchmarks.contenders.this_library import REQUESTS, sent_command

NO_OP, WRITES = "no-op EVALSHA", "writes alone"

DO_NOTHING: Final = "return 1"
# The session, its entry in the index, and the totals of the card: no lock can write less.
ONLY_WRITE: Final = """
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], 'quantity', 1, 'credits', ARGV[4], 'points', 0)
return 1
"""
Command = tuple[bytes | int | str, ...]


def nothing(verb: Verb) -> Command:
    """The number of keys, the keys and the arguments that the library sends for a verb."""
    return sent_command(lambda engine: REQUESTS[verb](engine, "C0-00000", "ssn_" + "0" * 32))[1:]


def write(code: str, key: str) -> Command:
    """As many keys and arguments as the library's for a new lock."""
    book = f"writes:{{{code}}}"
    return 3, book, f"{book}:locks", f"{book}:session:{key}", key, TTL_MINUTES * 60_000, 1_800_000_000_000, AMOUNT


def sha(script: str) -> str:
    """The digest by which EVALSHA names a script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


def no_op(client: redis.Redis) -> Contender:
    """For each verb an EVALSHA that does nothing, with that verb's keys and arguments."""
    name = client.script_load(DO_NOTHING)

    def send(command: Any) -> Callable[[str, str], object]:
        return lambda code, key: client.evalsha(name, *command)

    verbs = {verb: send(nothing(verb)) for verb in Verb}
    return Contender(NO_OP, put=lambda codes: None, verbs=verbs, scripted=True, close=client.close)


def writes(client: redis.Redis) -> Contender:
    """An EVALSHA that writes what a lock needs, and reads and checks nothing."""
    name = client.script_load(ONLY_WRITE)

    def lock(code: str, key: str) -> object:
        command: Any = write(code, key)
        return client.evalsha(name, *command)

    return Contender(WRITES, put=lambda codes: None, verbs={Verb.LOCK: lock}, scripted=True, close=client.close)

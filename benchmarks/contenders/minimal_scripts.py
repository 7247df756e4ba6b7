"""The lower bound of what a script can cost: one that does nothing, and one with a call's own commands alone."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any, Final

import redis

from benchmarks.contenders import TTL_MINUTES, Contender, Verb
from benchmarks.contenders.this_library import REQUESTS, sent_command

NO_OP, COMMANDS = "no-op EVALSHA", "its commands alone"

DO_NOTHING: Final = "return 1"
# What the library's scripts execute, with values of the same length, and nothing that decides or replies.
COMMANDS_ALONE: Final = {
    Verb.VALIDATE: """
redis.call('TIME')
redis.call('MGET', KEYS[1], KEYS[2])
return 1
""",
    Verb.LOCK: """
redis.call('TIME')
redis.call('MGET', KEYS[1], KEYS[2])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[5])
return 1
""",
}
BOOK: Final = '1["aitlf3mgaEH"," aitlf3mgaEH",-1,1000000000,0,0,0,0,3,15,0,1795956976622,1795956976642,0]'
SESSION: Final = "1 aitlf3mgaEH 1795956976642 5 0 GzcLiKopWFy"
Command = tuple[bytes | int | str, ...]


def nothing(verb: Verb) -> Command:
    """The number of keys, the keys and the arguments that the library sends for a verb."""
    return sent_command(lambda engine: REQUESTS[verb](engine, "C0-00000", "ssn_" + "0" * 32))[1:]


def alone(code: str, key: str) -> Command:
    """As many keys and arguments as the library's for a new lock."""
    book = book_key(code)
    ttl_ms = str(TTL_MINUTES * 60_000)
    return "3", book, f"{book}:session:{key}", f"{book}:locks", SESSION, ttl_ms, BOOK, "1795956976642", f"5 0 {key}"


def book_key(code: str) -> str:
    return f"ca:{{{code}}}"


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


def commands(client: redis.Redis) -> Contender:
    """An EVALSHA with the commands of the library's script alone: it decides nothing."""

    def send(script: str) -> Callable[[str, str], object]:
        name = client.script_load(script)

        def do(code: str, key: str) -> object:
            command: Any = alone(code, key)
            return client.evalsha(name, *command)

        return do

    return Contender(
        COMMANDS,
        put=lambda codes: [client.set(book_key(code), BOOK) for code in codes],
        verbs={verb: send(script) for verb, script in COMMANDS_ALONE.items()},
        scripted=True,
        close=client.close,
    )

"""Axis: batches of 100 calls, sent by redis-py's pipeline, by the engine's pipeline, and one by one.

In a pipeline the server executes one call after the other without waiting, so its caches are warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import CREDITS, SESSION_VERBS, Verb, minimal_scripts, this_library
from benchmarks.measure import Case, measure, progress, turns
from benchmarks.verbs import key
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions._core import scripts

AXIS = "batches of 100"
CALLS = 100
NO_OP, COMMANDS = f"{minimal_scripts.NO_OP}, piped", f"{minimal_scripts.COMMANDS}, piped"
SCRIPTS, PIPELINE, ONE_BY_ONE = "its scripts, piped by redis-py", "engine.pipeline()", "one by one"

# Prepares the batch of a verb, a code and many session keys; the function that it returns sends the batch.
Batch = Callable[[Verb, str, list[str]], Callable[[], object]]


def _piped(client: Any, command: Callable[[Verb, str, str], tuple[Any, ...]]) -> Batch:
    """Send by redis-py's pipeline; the commands are built before the clock starts."""

    def ready(verb: Verb, code: str, keys: list[str]) -> Callable[[], object]:
        commands = [command(verb, code, each) for each in keys]

        def send() -> None:
            with client.pipeline(transaction=False) as pipe:
                for each in commands:
                    pipe.execute_command("EVALSHA", *each)
                pipe.execute()

        return send

    return ready


def _script(verb: Verb, code: str, session_key: str) -> tuple[Any, ...]:
    return this_library.sent_command(lambda engine: this_library.REQUESTS[verb](engine, code, session_key))


def _pipeline(engine: VoucherSessions) -> Batch:
    """Send by the engine's pipeline; the time includes building the calls and reading the results."""

    def ready(verb: Verb, code: str, keys: list[str]) -> Callable[[], object]:
        def send() -> None:
            with engine.pipeline() as pipe:
                for each in keys:
                    this_library.REQUESTS[verb](pipe, code, each)
                for result in pipe.execute(raise_on_error=True):
                    this_library.granted(result)

        return send

    return ready


def _one_by_one(engine: VoucherSessions) -> Batch:
    def ready(verb: Verb, code: str, keys: list[str]) -> Callable[[], object]:
        return lambda: [this_library.granted(this_library.REQUESTS[verb](engine, code, each)) for each in keys]

    return ready


def _batches(client: Any) -> dict[str, Batch]:
    engine = VoucherSessions(client)
    for script in scripts.ALL:  # redis-py's pipeline does not load missing scripts
        client.script_load(script.text)
    do_nothing = client.script_load(minimal_scripts.DO_NOTHING)
    no_ops = {verb: (do_nothing, *minimal_scripts.nothing(verb)) for verb in SESSION_VERBS}
    alone = {verb: client.script_load(script) for verb, script in minimal_scripts.COMMANDS_ALONE.items()}
    return {
        NO_OP: _piped(client, lambda verb, code, each: no_ops[verb]),
        COMMANDS: _piped(client, lambda verb, code, each: (alone[verb], *minimal_scripts.alone(code, each))),
        SCRIPTS: _piped(client, _script),
        PIPELINE: _pipeline(engine),
        ONE_BY_ONE: _one_by_one(engine),
    }


def _case(batches: Mapping[str, Batch], verb: Verb, way: str, code: str) -> Case:
    """A verb works on what the verbs before it left; redeem ends the locked sessions, so release gets new ones."""
    keys = [key(at + CALLS * (verb == Verb.RELEASE)) for at in range(CALLS)]
    lock = batches[ONE_BY_ONE](Verb.LOCK, code, keys) if verb == Verb.RELEASE else lambda: None
    return Case((AXIS, verb, way), batches[way](verb, code, keys), before=lock, scripted=True)


def run(bench: BenchmarkRun) -> None:
    """The ways take turns within each verb, each with a card of its own that is new in each round."""
    client = bench.addresses.client()
    engine = VoucherSessions(client)
    batches = _batches(client)
    for number in progress(AXIS, range(bench.rounds)):
        cards = {way: f"B{at}-{number:05}" for at, way in enumerate(batches)}
        for code in cards.values():
            engine.put_voucher(Voucher(code=code, credits=CREDITS))
            client.set(minimal_scripts.book_key(code), minimal_scripts.BOOK)
        for verb in SESSION_VERBS:
            ways = [way for way in batches if way != COMMANDS or verb in minimal_scripts.COMMANDS_ALONE]
            for way in turns(ways, number):
                case = _case(batches, verb, way, cards[way])
                measure(bench.samples, bench.admin, case, CALLS)
    client.close()

"""Axis: 100 calls a batch, through redis-py's pipeline and the engine's own: the server is busy, its caches are warm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import (
    CREDITS,
    LOCK,
    OVERRIDE,
    REDEEM_SESSION,
    RELEASE,
    VALIDATE,
    minimal_scripts,
    this_library,
)
from benchmarks.measure import Case, measure, progress, turns
from benchmarks.verbs import key
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions._core import scripts

AXIS = "batches of 100"
VERBS: Final = (VALIDATE, LOCK, OVERRIDE, REDEEM_SESSION, RELEASE)
CALLS = 100
NO_OP, WRITES = f"{minimal_scripts.NO_OP}, piped", f"{minimal_scripts.WRITES}, piped"
SCRIPTS, PIPELINE, ONE_BY_ONE = "its scripts, piped by redis-py", "engine.pipeline()", "one by one"

# Of a verb, a code and many sessions: makes a batch ready, then sends it.
Batch = Callable[[str, str, list[str]], Callable[[], object]]


def _piped(client: Any, command: Callable[[str, str, str], tuple[Any, ...]]) -> Batch:
    """Through redis-py's own pipeline, commands and all made before."""

    def ready(verb: str, code: str, keys: list[str]) -> Callable[[], object]:
        commands = [command(verb, code, each) for each in keys]

        def send() -> None:
            with client.pipeline(transaction=False) as pipe:
                for each in commands:
                    pipe.execute_command("EVALSHA", *each)
                pipe.execute()

        return send

    return ready


def _script(verb: str, code: str, session_key: str) -> tuple[Any, ...]:
    return this_library.sent(lambda engine: this_library.REQUESTS[verb](engine, code, session_key))


def _pipeline(engine: VoucherSessions) -> Batch:
    """Through the engine's, calls made and results read within the time."""

    def ready(verb: str, code: str, keys: list[str]) -> Callable[[], object]:
        def send() -> None:
            with engine.pipeline() as pipe:
                for each in keys:
                    this_library.REQUESTS[verb](pipe, code, each)
                for result in pipe.execute(raise_on_error=True):
                    this_library.granted(result)

        return send

    return ready


def _one_by_one(engine: VoucherSessions) -> Batch:
    def ready(verb: str, code: str, keys: list[str]) -> Callable[[], object]:
        return lambda: [this_library.granted(this_library.REQUESTS[verb](engine, code, each)) for each in keys]

    return ready


def _batches(client: Any) -> dict[str, Batch]:
    engine = VoucherSessions(client)
    for script in scripts.ALL:  # a pipeline of redis-py's does not load what is missing
        client.script_load(script.text)
    do_nothing, only_write = (
        client.script_load(minimal_scripts.DO_NOTHING),
        client.script_load(minimal_scripts.ONLY_WRITE),
    )
    no_ops = {verb: (do_nothing, *minimal_scripts.nothing(verb)) for verb in VERBS}
    return {
        NO_OP: _piped(client, lambda verb, code, each: no_ops[verb]),
        WRITES: _piped(client, lambda verb, code, each: (only_write, *minimal_scripts.write(code, each))),
        SCRIPTS: _piped(client, _script),
        PIPELINE: _pipeline(engine),
        ONE_BY_ONE: _one_by_one(engine),
    }


def _case(batches: Mapping[str, Batch], verb: str, way: str, code: str) -> Case:
    """What a verb finds is what the verbs before it left; what was locked is redeemed, so what is released is new."""
    keys = [key(at + CALLS * (verb == RELEASE)) for at in range(CALLS)]
    lock = batches[ONE_BY_ONE](LOCK, code, keys) if verb == RELEASE else lambda: None
    return Case((AXIS, verb, way), batches[way](verb, code, keys), before=lock, scripted=True)


def run(bench: BenchmarkRun) -> None:
    """The ways take turns within each verb, each on a card of its own that is new in each round."""
    client = bench.addresses.client()
    engine = VoucherSessions(client)
    batches = _batches(client)
    for number in progress(AXIS, range(bench.rounds)):
        cards = {way: f"B{at}-{number:05}" for at, way in enumerate(batches)}
        for code in cards.values():
            engine.put_voucher(Voucher(code=code, credits=CREDITS))
        for verb in VERBS:
            for way in turns([way for way in batches if way != WRITES or verb == LOCK], number):
                case = _case(batches, verb, way, cards[way])
                measure(bench.samples, bench.admin, case, CALLS)
    client.close()

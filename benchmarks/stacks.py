"""Axis: stacks of 1 to 30 vouchers in one call, always the same vouchers (hot) or a random choice of 3,000 (cold)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import AMOUNT, CREDITS, Verb, this_library
from benchmarks.measure import Case, measure, progress, turns
from voucher_sessions import Redeemable, Voucher, VoucherSessions

AXIS = "stacks"
VOUCHERS, CALLS = 3_000, 30
SIZES = (1, 3, 10, 30)
Stack = list[Redeemable]

VERBS: dict[Verb, Callable[[VoucherSessions, Stack, str], Any]] = {
    Verb.VALIDATE: lambda engine, stack, key: engine.validate_stack(stack),
    Verb.LOCK: lambda engine, stack, key: engine.validate_stack(stack, session=this_library.session(key)),
    Verb.OVERRIDE: lambda engine, stack, key: engine.validate_stack(stack, session=this_library.session(key)),
    Verb.REDEEM_SESSION: lambda engine, stack, key: engine.redeem_stack(_codes_alone(stack), session=key),
    Verb.RELEASE: lambda engine, stack, key: engine.release_stack([one.code for one in stack], key),
}


def name(size: int, *, hot: bool) -> str:
    return f"{size} {'voucher' if size == 1 else 'vouchers'}, {'hot' if hot else 'cold'}"


def key(*numbers: int) -> str:
    """A session's key, as long as a generated one."""
    return "ssn_" + "".join(f"{number:08}" for number in numbers)


def _codes_alone(stack: Stack) -> Stack:
    """The stack without amounts: redeem then spends what the session locked."""
    return [Redeemable(code=one.code) for one in stack]


def _stacks(size: int, chance: random.Random, *, hot: bool) -> list[Stack]:
    numbers = [range(size) if hot else chance.sample(range(VOUCHERS), size) for _ in range(CALLS)]
    return [[Redeemable(code=f"S{number}", credits=AMOUNT) for number in each] for each in numbers]


def run(bench: BenchmarkRun) -> None:
    """The sizes take turns within each verb; locked stacks are redeemed, locked again, and released."""
    client = bench.addresses.client()
    engine = VoucherSessions(client)
    for number in range(VOUCHERS):
        engine.put_voucher(Voucher(code=f"S{number}", credits=CREDITS))
    for number in progress(AXIS, range(bench.rounds)):
        chance = random.Random(number)
        stacks = {(size, hot): _stacks(size, chance, hot=hot) for hot in (True, False) for size in SIZES}
        for verb in VERBS:
            for size, hot in turns(stacks, number):
                sessions = [(stack, key(size, hot, number, at)) for at, stack in enumerate(stacks[size, hot])]
                case = _case(engine, verb, (AXIS, verb, name(size, hot=hot)), sessions)
                measure(bench.samples, bench.admin, case, CALLS)
    client.close()


def _case(
    engine: VoucherSessions, verb: Verb, subject: tuple[str, str, str], sessions: list[tuple[Stack, str]]
) -> Case:
    def each(verb: Verb) -> None:
        for stack, session_key in sessions:
            VERBS[verb](engine, stack, session_key)

    before = (lambda: each(Verb.LOCK)) if verb == Verb.RELEASE else lambda: None
    return Case(subject, lambda: each(verb), before, scripted=True)

"""Axis: the verbs, one process, one call after the other, on one voucher."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.contenders import LOCK, RELEASE, VERBS, Contender
from benchmarks.contenders.everyone import opened
from benchmarks.measure import Case, measure, progress, turns

AXIS = "verbs"


def key(number: int) -> str:
    """A session's key, as long as a generated one."""
    return f"ssn_{number:032}"


def _case(contender: Contender, verb: str, code: str, calls: int) -> Case:
    """What one verb finds is what the verbs before it left: what was locked is redeemed; locked again, released."""
    do = contender.verbs[verb]
    first = calls if verb == RELEASE else 0

    def lock_what_is_released() -> None:
        for number in range(calls if verb == RELEASE else 0):
            contender.verbs[LOCK](code, key(first + number))

    return Case(
        (AXIS, verb, contender.name),
        lambda number: do(code, key(first + number)),
        before=lock_what_is_released,
        scripted=contender.scripted,
    )


def run(bench: Bench) -> None:
    """The contenders take turns within each verb, each on a card of its own that is new in each round."""
    calls = 10 if bench.quick else 200
    with opened(bench.addresses) as contenders:
        for number in progress(AXIS, bench.rounds):
            cards = {contender.name: f"C{at}-{number:05}" for at, contender in enumerate(contenders)}
            for contender in contenders:
                contender.put([cards[contender.name]])
            for verb in VERBS:
                cases = [
                    _case(contender, verb, cards[contender.name], calls)
                    for contender in contenders
                    if verb in contender.verbs
                ]
                for case in turns(cases, number):
                    measure(bench.samples, bench.admin, case, calls)

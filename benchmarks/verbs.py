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


def sessions(verb: str, calls: int, first: int = 0) -> range:
    """Whose turn it is: what was redeemed is not released."""
    return range(first + calls, first + 2 * calls) if verb == RELEASE else range(first, first + calls)


def case_of(subject: tuple[str, str, str], contender: Contender, verb: str, code: str, sessions: range) -> Case:
    """A call for each session. What a verb finds is what the verbs before it left: what was locked is redeemed, so
    what is released is locked before.
    """
    do, lock = contender.verbs[verb], contender.verbs[LOCK]

    def work() -> None:
        for number in sessions:
            do(code, key(number))

    def before() -> None:
        for number in sessions if verb == RELEASE else ():
            lock(code, key(number))

    return Case(subject, work, before, contender.scripted)


def run(bench: Bench) -> None:
    """The contenders take turns within each verb, each on a card of its own that is new in each round."""
    calls = 10 if bench.quick else 200
    with opened(bench.addresses) as contenders:
        for number in progress(AXIS, range(bench.rounds)):
            cards = {contender.name: f"C{at}-{number:05}" for at, contender in enumerate(contenders)}
            for contender in contenders:
                contender.put([cards[contender.name]])
            for verb in VERBS:
                cases = [
                    case_of((AXIS, verb, each.name), each, verb, cards[each.name], sessions(verb, calls))
                    for each in contenders
                    if verb in each.verbs
                ]
                for case in turns(cases, number):
                    measure(bench.samples, bench.admin, case, calls)

"""Axes: the verbs, one process, one call after the other, all on one voucher, or each session on a voucher of its own."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.contenders import LOCK, OVERRIDE, REDEEM_SESSION, RELEASE, VERBS, Contender
from benchmarks.contenders.everyone import opened
from benchmarks.measure import Case, measure, progress, turns

AXIS, OWN = "verbs", "verbs, a voucher a session"


def key(number: int) -> str:
    """A session's key, as long as a generated one."""
    return f"ssn_{number:032}"


def sessions(verb: str, calls: int, first: int = 0) -> range:
    """Whose turn it is: what was redeemed is not released."""
    return range(first + calls, first + 2 * calls) if verb == RELEASE else range(first, first + calls)


def own(code: str, number: int) -> str:
    """The code of a session's own card."""
    return f"{code}-{number}"


def case_of(
    subject: tuple[str, str, str],
    contender: Contender,
    verb: str,
    code: str,
    sessions: range,
    card: Callable[[str, int], str] = lambda code, number: code,
) -> Case:
    """A call for each session. What a verb finds is what the verbs before it left: what was locked is redeemed, so
    what is released is locked before.
    """
    do, lock = contender.verbs[verb], contender.verbs[LOCK]

    def work() -> None:
        for number in sessions:
            do(card(code, number), key(number))

    def before() -> None:
        for number in sessions if verb == RELEASE else ():
            lock(card(code, number), key(number))

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


def run_own(bench: Bench) -> None:
    """The same; each session's card has no other lock, as most vouchers have."""
    calls = 10 if bench.quick else 100
    with opened(bench.addresses) as contenders:
        for number in progress(OWN, range(bench.rounds)):
            cards = {contender.name: f"O{at}-{number:05}" for at, contender in enumerate(contenders)}
            for contender in contenders:
                contender.put([own(cards[contender.name], each) for each in range(2 * calls)])
            for verb in (LOCK, OVERRIDE, REDEEM_SESSION, RELEASE):
                cases = [
                    case_of((OWN, verb, each.name), each, verb, cards[each.name], sessions(verb, calls), own)
                    for each in contenders
                    if verb in each.verbs
                ]
                for case in turns(cases, number):
                    measure(bench.samples, bench.admin, case, calls)

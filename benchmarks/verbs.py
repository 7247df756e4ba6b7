"""Axes: the verbs, one process, one call after the other, all on one voucher, or each session on a voucher of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import LOCK, OVERRIDE, REDEEM_SESSION, RELEASE, VERBS, Contender
from benchmarks.contenders.all_contenders import open_contenders
from benchmarks.measure import Case, measure, progress, turns

AXIS, OWN = "verbs", "verbs, a voucher a session"


def key(number: int) -> str:
    """A session's key, as long as a generated one."""
    return f"ssn_{number:032}"


def sessions(verb: str, calls: int, first: int = 0) -> range:
    """Whose turn it is: what was redeemed is not released."""
    return range(first + calls, first + 2 * calls) if verb == RELEASE else range(first, first + calls)


def shared(code: str, number: int) -> str:
    """All sessions use one card."""
    return code


def own(code: str, number: int) -> str:
    """Each session has a card that no other locks, as most vouchers are used."""
    return f"{code}-{number}"


def case_of(
    subject: tuple[str, str, str],
    contender: Contender,
    verb: str,
    code: str,
    sessions: range,
    card: Callable[[str, int], str] = shared,
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


def run(bench: BenchmarkRun) -> None:
    """All verbs, on a card that all sessions share."""
    _run(bench, AXIS, VERBS, shared)


def run_own(bench: BenchmarkRun) -> None:
    """The verbs that lock or end a lock, on a card for each session."""
    _run(bench, OWN, (LOCK, OVERRIDE, REDEEM_SESSION, RELEASE), own)


def _run(bench: BenchmarkRun, axis: str, verbs: Sequence[str], card: Callable[[str, int], str]) -> None:
    """The contenders take turns within each verb, each on cards of its own that are new in each round."""
    calls = 10 if bench.quick else 200
    with open_contenders(bench.addresses) as contenders:
        for number in progress(axis, range(bench.rounds)):
            codes = {contender.name: f"C{at}-{number:05}" for at, contender in enumerate(contenders)}
            for contender in contenders:
                contender.put(sorted({card(codes[contender.name], each) for each in range(2 * calls)}))
            for verb in verbs:
                cases = [
                    case_of((axis, verb, each.name), each, verb, codes[each.name], sessions(verb, calls), card)
                    for each in contenders
                    if verb in each.verbs
                ]
                for case in turns(cases, number):
                    measure(bench.samples, bench.admin, case, calls)

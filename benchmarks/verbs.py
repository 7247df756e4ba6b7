"""Axes: each verb, called by one process one call at a time, with one voucher for all sessions or one per session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.benchmark_run import BenchmarkRun
from benchmarks.contenders import Contender, Verb
from benchmarks.contenders.all_contenders import open_contenders
from benchmarks.measure import Case, measure, progress, turns

AXIS, OWN = "verbs", "verbs, one voucher per session"


def key(number: int) -> str:
    """A session's key, as long as a generated one."""
    return f"ssn_{number:032}"


def sessions(verb: Verb, calls: int, first: int = 0) -> range:
    """The numbers of the sessions that a verb uses: release needs sessions that redeem has not ended."""
    return range(first + calls, first + 2 * calls) if verb == Verb.RELEASE else range(first, first + calls)


def shared(code: str, number: int) -> str:
    """All sessions use one card."""
    return code


def own(code: str, number: int) -> str:
    """Each session has a card that no other session locks, which is how most vouchers are used."""
    return f"{code}-{number}"


def case_of(
    subject: tuple[str, str, str],
    contender: Contender,
    verb: Verb,
    code: str,
    sessions: range,
    card: Callable[[str, int], str] = shared,
    *,
    with_cpu: bool = False,
) -> Case:
    """One call per session. A verb works on what the verbs before it left; redeem ends the sessions that were locked,
    so those that release ends are locked first, outside the measured time.
    """
    calls = [(card(code, number), key(number)) for number in sessions]

    def before() -> None:
        if verb == Verb.RELEASE:
            contender.repeated(Verb.LOCK, calls)

    return Case(subject, lambda: contender.repeated(verb, calls), before, contender.scripted, with_cpu)


def run(bench: BenchmarkRun) -> None:
    """All verbs, on a card that all sessions share."""
    _run(bench, AXIS, tuple(Verb), shared)


def run_own(bench: BenchmarkRun) -> None:
    """The verbs that lock or end a lock, on a card for each session."""
    _run(bench, OWN, (Verb.LOCK, Verb.OVERRIDE, Verb.REDEEM_SESSION, Verb.RELEASE), own)


def _run(bench: BenchmarkRun, axis: str, verbs: Sequence[Verb], card: Callable[[str, int], str]) -> None:
    """The contenders take turns within each verb, each on cards of its own that are new in each round."""
    calls = 10 if bench.quick else 200
    with open_contenders(bench.addresses) as contenders:
        for number in progress(axis, range(bench.rounds)):
            codes = {contender.name: f"C{at}-{number:05}" for at, contender in enumerate(contenders)}
            for contender in contenders:
                contender.put(sorted({card(codes[contender.name], each) for each in range(2 * calls)}))
            for verb in verbs:
                cases = [
                    case_of(
                        (axis, verb, each.name),
                        each,
                        verb,
                        codes[each.name],
                        sessions(verb, calls),
                        card,
                        with_cpu=True,
                    )
                    for each in contenders
                    if verb in each.verbs
                ]
                for case in turns(cases, number):
                    measure(bench.samples, bench.admin, case, calls)

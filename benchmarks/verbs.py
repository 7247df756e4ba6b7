"""Axis: the verbs, one process, one call after the other, on one voucher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.contenders import LOCK, RELEASE, VERBS, Contender
from benchmarks.measure import Case, Samples, measure, progress, turns

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


def run(samples: Samples, admin: Any, contenders: Sequence[Contender], rounds: int, calls: int) -> None:
    """The contenders take turns within each verb, on a new voucher each round."""
    for number in progress(AXIS, rounds):
        code = f"CARD-{number:03}"
        for contender in contenders:
            contender.put(code)
        for verb in VERBS:
            cases = [_case(contender, verb, code, calls) for contender in contenders if verb in contender.verbs]
            for case in turns(cases, number):
                measure(samples, admin, case, calls)

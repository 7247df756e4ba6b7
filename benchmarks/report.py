"""The results as a table."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Samples, Subject

# What each case is divided by; where it is missing, nothing.
YARDSTICK = "no-op EVALSHA"


def table(samples: Samples) -> Iterator[str]:
    """Line by line: medians, and the ratios to the yardstick with their quartiles."""
    axis = figure = case = ""
    for subject in sorted(samples.values, key=lambda each: (each.axis, each.figure)):
        if (axis, figure) != (subject.axis, subject.figure):
            axis, figure, case = subject.axis, subject.figure, ""
            yield f"\n{axis}, {figure:30}{'median':>20}{'ratio':>9}  quartiles   (to {YARDSTICK})"
        if case != subject.case:
            case = subject.case
            yield case
        line = f"    {subject.contender:32}{samples.spread(subject).median:>16,.1f}"
        ratio = samples.ratio(subject, Subject(axis, case, YARDSTICK, figure))
        if ratio and subject.contender != YARDSTICK:
            line += f"{ratio.median:>9.2f}  {ratio.low:.2f} … {ratio.high:.2f}"
        yield line

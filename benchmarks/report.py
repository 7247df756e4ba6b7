"""The results as tables, and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis.connection

from benchmarks.axes import AXES
from benchmarks.measure import Samples, Spread, Subject
from benchmarks.targets import TARGETS


def ratio(samples: Samples, subject: Subject) -> Spread | None:
    """To the axis' yardstick, which itself has none."""
    yardstick = AXES[subject.axis].yardstick
    return None if subject.contender == yardstick else samples.ratio(subject, subject._replace(contender=yardstick))


def ordered(samples: Samples) -> list[Subject]:
    """By axis, figure and case, each as it was first met."""
    met = list(samples.values)
    ranks = [{each: at for at, each in reversed(list(enumerate(column)))} for column in zip(*met, strict=True)]
    return sorted(met, key=lambda one: [ranks[column][one[column]] for column in (0, 3, 1, 2)])


def table(samples: Samples) -> Iterator[str]:
    """Line by line: the medians of the rounds, and the ratios with their quartiles."""
    axis = figure = case = ""
    for subject in ordered(samples):
        if (axis, figure) != (subject.axis, subject.figure):
            axis, figure, case = subject.axis, subject.figure, ""
            yield ""
            yield f"{f'{axis}: {figure}':44}{'median':>12}  ratio to {AXES[axis].yardstick}"
        if case != subject.case:
            case = subject.case
            yield f"  {case}"
        found = ratio(samples, subject)
        ratios = f"{found.median:>9.2f}  ({found.low:.2f} to {found.high:.2f})" if found else ""
        yield f"    {subject.contender:40}{samples.spread(subject).median:>12,.1f}{ratios}".rstrip()


def targets(samples: Samples) -> Iterator[str]:
    """Each target beside what was measured, of the axes that were."""
    yield f"\n{'target':112}{'measured':>10}"
    axes = {subject.axis for subject in samples.values}
    for target in TARGETS:
        if target.subject.axis not in axes:
            continue
        measured = target.measured(samples)
        figure = f"{measured.median:10.2f}" if measured else f"{'':10}"
        yield f"{target.number}. {target.text:109}{figure}  {target.verdict(measured)}"


def circumstances(admin: Any, rounds: int) -> dict[str, object]:
    """What the figures depend on."""
    info = admin.info("server")
    return {
        "server": f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}",
        "python": platform.python_version(),
        "redis-py": version("redis"),
        "parser": redis.connection.DefaultParser.__name__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rounds": rounds,
    }


def save(samples: Samples, circumstances: dict[str, object], folder: Path) -> None:
    """All figures as JSON, and the tables where the folder's README shows them."""

    def spread(found: Spread | None) -> dict[str, float] | None:
        return found and {name: float(f"{value:.4g}") for name, value in found._asdict().items()}

    rows: list[dict[str, Any]] = [
        {
            **subject._asdict(),
            **(spread(samples.spread(subject)) or {}),
            "to": AXES[subject.axis].yardstick,
            "ratio": spread(ratio(samples, subject)),
        }
        for subject in ordered(samples)
    ]
    told = [
        {"number": each.number, "target": each.text, "measured": spread(measured), "verdict": each.verdict(measured)}
        for each in TARGETS
        for measured in [each.measured(samples)]
    ]
    text = json.dumps({"circumstances": circumstances, "targets": told, "rows": rows}, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", "utf-8")
    readme = folder / "README.md"
    if readme.exists():
        readme.write_text(_shown(readme.read_text("utf-8"), samples, circumstances), "utf-8")


def _shown(readme: str, samples: Samples, circumstances: dict[str, object]) -> str:
    """The README with these results between its marks."""
    before, begin, rest = readme.partition("<!-- results -->\n")
    _, end, after = rest.partition("<!-- end of results -->\n")
    told = ", ".join(f"{name} {value}" for name, value in circumstances.items())
    tables = ["```text", *targets(samples), *table(samples), "```"]
    return "\n".join([before + begin + f"Measured with: {told}.\n", *tables, end + after])

"""The results of a run as data: the content of results.json, from which all reports are generated."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import redis.connection

from benchmarks.axes import AXES
from benchmarks.contenders import escrowmint_reservations
from benchmarks.contenders.all_contenders import Addresses
from benchmarks.measure import Samples, Spread, Subject
from benchmarks.targets import TARGETS


class Row(NamedTuple):
    """A figure, and its ratio to that of the axis' yardstick, which itself has none."""

    subject: Subject
    value: Spread
    yardstick: str
    ratio: Spread | None


class Verdict(NamedTuple):
    """A target beside what was measured; None if it was not."""

    number: int
    target: str
    measured: Spread | None
    verdict: str


@dataclass(frozen=True)
class Results:
    """All figures of a run."""

    circumstances: Mapping[str, object]
    verdicts: list[Verdict]
    rows: list[Row]

    def row(self, *subject: str) -> Row | None:
        """The row of an axis, case, contender and figure; None if it was not measured."""
        return next((row for row in self.rows if row.subject == subject), None)


def from_samples(samples: Samples, circumstances: Mapping[str, object]) -> Results:
    """The medians and ratios of a run, and the targets of the axes that it measured."""
    axes = {subject.axis for subject in samples.values}
    verdicts = [
        Verdict(each.number, each.text, measured, each.verdict(measured))
        for each in TARGETS
        if each.subject.axis in axes
        for measured in [each.measured(samples)]
    ]
    rows = [
        Row(subject, samples.spread(subject), AXES[subject.axis].yardstick, _ratio(samples, subject))
        for subject in _ordered(samples)
    ]
    return Results(circumstances, verdicts, rows)


def _ratio(samples: Samples, subject: Subject) -> Spread | None:
    yardstick = AXES[subject.axis].yardstick
    return None if subject.contender == yardstick else samples.ratio(subject, subject._replace(contender=yardstick))


def _ordered(samples: Samples) -> list[Subject]:
    """By axis, figure and case, each in the order in which it was first measured."""
    measured = list(samples.values)
    ranks = [{each: at for at, each in reversed(list(enumerate(column)))} for column in zip(*measured, strict=True)]
    return sorted(measured, key=lambda subject: [ranks[column][subject[column]] for column in (0, 3, 1, 2)])


def circumstances(admin: Any, rounds: int, addresses: Addresses) -> dict[str, object]:
    """What the figures depend on."""
    info = admin.info("server")
    return {
        "server": f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}",
        "python": platform.python_version(),
        "redis-py": version("redis"),
        "escrowmint": escrowmint_reservations.versions(addresses.escrowmint, addresses.socket),
        "parser": redis.connection.DefaultParser.__name__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rounds": rounds,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def to_json(results: Results) -> str:
    """The text of results.json, with four significant digits."""

    def spread(found: Spread | None) -> dict[str, float] | None:
        return found and {name: float(f"{value:.4g}") for name, value in found._asdict().items()}

    rows = [
        {**row.subject._asdict(), **(spread(row.value) or {}), "to": row.yardstick, "ratio": spread(row.ratio)}
        for row in results.rows
    ]
    targets = [{**verdict._asdict(), "measured": spread(verdict.measured)} for verdict in results.verdicts]
    content = {"circumstances": results.circumstances, "targets": targets, "rows": rows}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Results:
    """The content of results.json."""

    def spread(found: Mapping[str, float] | None) -> Spread | None:
        return Spread(**found) if found else None

    content = json.loads(text)
    rows = [
        Row(
            Subject(row["axis"], row["case"], row["contender"], row["figure"]),
            Spread(row["low"], row["median"], row["high"]),
            row["to"],
            spread(row["ratio"]),
        )
        for row in content["rows"]
    ]
    verdicts = [Verdict(**{**each, "measured": spread(each["measured"])}) for each in content["targets"]]
    return Results(content["circumstances"], verdicts, rows)

"""Draws results.svg: ratios on a logarithmic scale, medians as dots and quartiles as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

from benchmarks import asyncio_tasks, load, verbs
from benchmarks.contenders.this_library import NAME as OURS
from benchmarks.measure import SERVER_US, THROUGHPUT, Spread
from benchmarks.results import Results

WIDTH, LEFT, RIGHT, ROW = 800, 290, 70, 17
STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff; fill: #24292f; stroke: none }
.title { font-weight: 600; font-size: 14px } .case { font-weight: 600 } .end { text-anchor: end }
.grid { stroke: #d0d7de } .one { stroke: #8c959f; stroke-dasharray: 4 3 } .small { font-size: 10px; fill: #57606a }
.other { fill: #8c959f; stroke: #8c959f } .ours { fill: #0969da; stroke: #0969da } .ours.name { stroke: none }
line.other, line.ours { stroke-width: 3; stroke-linecap: round; opacity: .5 }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; fill: #e6edf3 } .grid { stroke: #30363d } .small { fill: #8d96a0 }
  .ours { fill: #58a6ff; stroke: #58a6ff }
}
"""


class Bar(NamedTuple):
    """A contender in a case."""

    case: str
    contender: str
    ratio: Spread


class Panel(NamedTuple):
    """A part of the picture: one figure of one axis."""

    title: str
    axis: str
    figure: str

    def bars(self, results: Results) -> list[Bar]:
        """The ratios that the panel shows."""
        return [
            Bar(row.subject.case, row.subject.contender, row.ratio)
            for row in results.rows
            if (row.subject.axis, row.subject.figure) == (self.axis, self.figure) and row.ratio
        ]


PANELS = (
    Panel("asyncio: calls a second, divided by those of an EVALSHA that does nothing", asyncio_tasks.AXIS, THROUGHPUT),
    Panel("Server time of a call, divided by an EVALSHA that does nothing: less is better", verbs.AXIS, SERVER_US),
    Panel("Locks and releases a second, divided by such EVALSHAs: more is better", load.AXIS, THROUGHPUT),
)


class Scale(NamedTuple):
    """From ratios to pixels, logarithmically."""

    least: float
    most: float

    @classmethod
    def of(cls, rows: Sequence[Bar]) -> Scale:
        """Wide enough for all of them, and for 1."""
        values = [1.0, *(value for row in rows for value in row.ratio)]
        return cls(log10(min(values)) - 0.05, log10(max(values)) + 0.05)

    def __call__(self, value: float) -> float:
        return LEFT + (log10(value) - self.least) / (self.most - self.least) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        """1, 2, 5 of each power of ten."""
        powers = range(floor(self.least), ceil(self.most) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [tick for tick in ticks if self.least <= log10(tick) <= self.most]


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _row(row: Bar, scale: Scale, y: float) -> Iterator[str]:
    style = "ours" if row.contender == OURS else "other"
    yield _text(LEFT - 10, y + 4, row.contender, f"end {style if style == 'ours' else ''} name")
    yield _line(scale(row.ratio.low), y, scale(row.ratio.high), y, style)
    yield f'<circle cx="{scale(row.ratio.median):.1f}" cy="{y:.1f}" r="4" class="{style}"/>'
    digits = 2 if row.ratio.median < 1 else 1
    yield _text(WIDTH - RIGHT + 10, y + 4, f"{row.ratio.median:.{digits}f}", "")


def _panel(panel: Panel, rows: Sequence[Bar], top: float) -> tuple[list[str], float]:
    """Its elements, and where it ends."""
    scale, y, case = Scale.of(rows), top + 2 * ROW, ""
    marks: list[str] = []
    for row in rows:
        if row.case != case:
            case, y = row.case, y + ROW * 1.5
            marks.append(_text(10, y - ROW + 4, case, "case"))
        marks.extend(_row(row, scale, y))
        y += ROW
    grid = [_line(scale(tick), top + ROW, scale(tick), y, "one" if tick == 1 else "grid") for tick in scale.ticks()]
    labels = [_text(scale(tick) - 4, y + 12, f"{tick:g}", "small") for tick in scale.ticks()]
    return [_text(10, top + 8, panel.title, "title"), *grid, *labels, *marks], y + 3 * ROW


def svg(results: Results) -> str:
    """The picture, with the panels that were measured."""
    elements: list[str] = []
    y = 20.0
    for panel in PANELS:
        if rows := panel.bars(results):
            added, y = _panel(panel, rows, y)
            elements += added
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *elements, "</svg>", ""])

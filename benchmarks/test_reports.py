"""Tests that the committed reports are generated from the committed results.json.

pytest benchmarks/test_reports.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import plot, report
from benchmarks.measure import CLIENT_US, SERVER_US, Samples, Subject
from benchmarks.results import Results, from_json, from_samples, to_json
from benchmarks.targets import Target
from benchmarks.verbs import AXIS

FOLDER = Path(__file__).parent
REMEDY = "run python -m benchmarks --report"


def committed(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


@pytest.fixture
def results() -> Results:
    return from_json(committed("results.json"))


def test_the_pages_and_the_picture_show_results_json(results: Results) -> None:
    assert committed("RESULTS.md") == report.results_page(results), REMEDY
    assert committed("results.svg") == plot.svg(results), REMEDY
    readme = committed("README.md")
    assert readme == report.with_summary(readme, results), REMEDY


def test_the_table_of_the_readme_is_complete(results: Results) -> None:
    voucher_sessions = next(line for line in report.summary(results).splitlines() if "| voucher_sessions " in line)
    assert all(cell.strip() for cell in voucher_sessions.strip("|").split("|"))


def test_json_keeps_everything(results: Results) -> None:
    assert to_json(results) == committed("results.json")


def test_a_partial_run_reports_its_own_axes_alone() -> None:
    samples = Samples()
    for contender, us in (("no-op EVALSHA", 100.0), ("voucher_sessions", 250.0)):
        for verb in ("validate, new lock", "release"):
            samples.add(Subject(AXIS, verb, contender, CLIENT_US), us)
    page = report.results_page(from_samples(samples, {"rounds": 1}))
    assert "| voucher_sessions |  250.0 |                   2.50 | 2.50 to 2.50 |" in page
    assert "memory" not in page
    assert "not measured" in page  # the server's time


def test_a_target_can_compare_two_figures_of_one_contender() -> None:
    piped = Subject(AXIS, "release", "voucher_sessions", CLIENT_US)
    target = Target(1, piped, piped._replace(figure=SERVER_US), 2)
    samples = Samples()
    samples.add(piped, 90.0)
    samples.add(piped._replace(figure=SERVER_US), 30.0)
    measured = target.measured(samples)
    assert target.text == "verbs, release, round trip µs: voucher_sessions / server µs ≤ 2"
    assert measured is not None
    assert (measured.median, target.verdict(measured)) == (3.0, "missed")
    assert target._replace(at_least=True).verdict(measured) == "ok"


def test_a_readme_without_marks_is_an_error(results: Results) -> None:
    with pytest.raises(ValueError, match="marks"):
        report.with_summary("no table", results)

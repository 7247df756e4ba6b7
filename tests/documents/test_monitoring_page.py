"""docs/monitoring.md: every outcome, every fact, and queries that ask for what Prometheus really gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace

import prometheus_client
import pytest
from contrib.call_events import OUTCOMES, REDEEMED, REFUSED, TROUBLE
from contrib.log_records import LogRecords
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.trace import NoOpTracerProvider

from documents.examples import ROOT
from voucher_sessions import CallEvent
from voucher_sessions.contrib.logging import log_calls
from voucher_sessions.contrib.opentelemetry import record_calls

PAGE = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
QUERIES = re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL)
[RULES] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMENT = re.compile(r"#.*|summary: .*")
METRIC = re.compile(r"\bvoucher_sessions_operation_\w+")
LABEL = re.compile(r"\b(voucher_sessions_(?!operation_)\w+|error_type|le)\b")
SELECTED = re.compile(r'voucher_sessions_outcome=~?"([^"]+)"')


def section(title: str) -> str:
    return PAGE.partition(f"\n{title}\n")[2].partition("\n## ")[0]


def first_column(title: str) -> list[str]:
    """What stands as code in the first column of the table of a section."""
    return re.findall(r"^\| `(\w+)`", section(title).partition("\n### ")[0], re.MULTILINE)


def test_every_outcome_is_explained() -> None:
    assert first_column("### Outcomes") == list(OUTCOMES)


def test_every_fact_of_an_event_is_explained() -> None:
    table = section("## One event for each call").partition("\n### ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert re.findall(r"`(\w+)`", "".join(rows)) == [field.name for field in fields(CallEvent)]


def test_the_levels_are_those_that_outcomes_are_logged_at() -> None:
    logged = LogRecords()
    for outcome in OUTCOMES:
        log_calls(logged.logger)(replace(REDEEMED, outcome=outcome))
    found: dict[str, list[str]] = {}
    for outcome, record in zip(OUTCOMES, logged.records, strict=True):
        found.setdefault(record.levelname, []).append(outcome)
    table = re.findall(r"^\| `([A-Z]+)` \| (.*) \|$", section("## Logs"), re.MULTILINE)
    assert {level: re.findall(r"`(\w+)`", outcomes) for level, outcomes in table} == found


@pytest.fixture(scope="module")
def exported() -> Iterator[str]:
    """What Prometheus reads, after a call of each outcome."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observe = record_calls(tracer_provider=NoOpTracerProvider(), meter_provider=provider)
    for outcome in OUTCOMES:
        observe(replace(REFUSED, outcome=outcome))
    yield prometheus_client.generate_latest().decode()
    provider.shutdown()


def test_queries_name_metrics_and_labels_that_prometheus_gets(exported: str) -> None:
    samples = re.findall(r"^(\w+)\{(.*)\}", exported, re.MULTILINE)
    labels_of = {metric: set(re.findall(r"(\w+)=", labels)) for metric, labels in samples}
    assert len(QUERIES) == 5
    for query in (*QUERIES, *COMMENT.sub("", RULES).split("- alert: ")[1:]):
        metrics = set(METRIC.findall(query))
        assert metrics
        assert set(LABEL.findall(query)) <= set[str]().union(*(labels_of[metric] for metric in metrics)), query


def test_queries_select_outcomes_that_exist() -> None:
    selected = [set(each.split("|")) for text in (*QUERIES, RULES) for each in SELECTED.findall(text)]
    assert set().union(*selected) <= set(OUTCOMES)
    assert TROUBLE in selected


def test_the_names_in_the_table_are_those_that_prometheus_gets(exported: str) -> None:
    table = section("### The names in Prometheus")
    names = {f"voucher_sessions_operation_{name}" for name in ("duration_seconds_bucket", "outcomes_total")}
    assert set(METRIC.findall(table)) == names
    assert all(f"\n{name}{{" in exported for name in names)


def test_every_alert_says_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES)
    assert first_column("## Alerts") == alerts
    assert RULES.count("expr: ") == RULES.count("severity: ") == RULES.count("summary: ") == len(alerts)

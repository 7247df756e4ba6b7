"""``record_calls``: spans and metrics, collected by the exporters in memory of the SDK."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics.export import Histogram, Sum
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

import voucher_sessions
from contrib.call_events import OUTCOMES, REDEEMED, REFUSED, TROUBLE, UNAVAILABLE
from contrib.telemetry import Telemetry
from voucher_sessions import CallEvent
from voucher_sessions.contrib.opentelemetry import record_calls
from voucher_sessions.events import Outcome


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry() as telemetry:
        yield telemetry


def record(telemetry: Telemetry, *events: CallEvent) -> None:
    observe = record_calls(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    for event in events:
        observe(event)


def test_a_call_is_an_internal_span_named_after_its_verb(telemetry: Telemetry) -> None:
    record(telemetry, REDEEMED)
    span = telemetry.span()
    assert span.name == "voucher_sessions.redeem"
    assert span.kind is SpanKind.INTERNAL
    assert span.parent is None
    assert dict(span.attributes or {}) == {"voucher_sessions.verb": "redeem", "voucher_sessions.outcome": "ok"}
    scope = span.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.version) == ("voucher_sessions", voucher_sessions.__version__)


def test_a_refused_call_says_why(telemetry: Telemetry) -> None:
    record(telemetry, REFUSED)
    assert dict(telemetry.span().attributes or {}) == {
        "voucher_sessions.verb": "redeem",
        "voucher_sessions.outcome": "held",
        "voucher_sessions.reason": "quantity_exceeded",
        "error.type": "QuantityExceeded",
    }


def test_a_span_ends_now_and_lasted_as_long_as_the_call(telemetry: Telemetry) -> None:
    before = time.time_ns()
    record(telemetry, replace(REDEEMED, seconds=1.25))
    span = telemetry.span()
    assert span.start_time is not None
    assert span.end_time is not None
    assert before <= span.end_time <= time.time_ns()
    assert span.end_time - span.start_time == 1_250_000_000


def test_a_span_is_a_child_of_the_callers_span(telemetry: Telemetry) -> None:
    with telemetry.tracer_provider.get_tracer("shop").start_as_current_span("checkout") as checkout:
        record(telemetry, REDEEMED)
        assert trace.get_current_span() is checkout
    call, _ = telemetry.spans()
    assert call.parent == checkout.get_span_context()


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_failures_make_a_span_an_error(outcome: Outcome, telemetry: Telemetry) -> None:
    record(telemetry, replace(REFUSED, outcome=outcome))
    span = telemetry.span()
    assert span.status.status_code is (StatusCode.ERROR if outcome in TROUBLE else StatusCode.UNSET)
    assert span.status.description is None
    assert span.events == ()


def test_durations_are_measured_in_seconds_by_verb_and_outcome(telemetry: Telemetry) -> None:
    record(telemetry, REDEEMED, replace(REDEEMED, seconds=0.5, reason="not_found"), UNAVAILABLE)
    redeemed, unavailable = telemetry.durations()
    assert dict(redeemed.attributes or {}) == {"voucher_sessions.verb": "redeem", "voucher_sessions.outcome": "ok"}
    assert (redeemed.count, redeemed.sum) == (2, 0.5004)
    assert dict(unavailable.attributes or {}) == {
        "voucher_sessions.verb": "redeem",
        "voucher_sessions.outcome": "unavailable",
        "error.type": "ServerUnavailable",
    }
    [unit] = [metric.unit for metric in telemetry.metrics() if metric.name == "voucher_sessions.operation.duration"]
    assert unit == "s"


def test_the_buckets_distinguish_fast_calls_and_include_a_failover(telemetry: Telemetry) -> None:
    observed = (0.00008, 0.0003, 0.0008, 0.004, 0.02, 0.3, 4.0, 29.0, 31.0)
    record(telemetry, *(replace(REDEEMED, seconds=seconds) for seconds in observed))
    [point] = telemetry.durations()
    assert max(point.bucket_counts) == 1
    assert (point.explicit_bounds[0], point.explicit_bounds[-1]) == (0.0001, 30)
    assert list(point.explicit_bounds) == sorted(set(point.explicit_bounds))


def test_outcomes_are_counted_by_verb_and_reason(telemetry: Telemetry) -> None:
    validated = replace(REFUSED, verb="validate", error=None)
    record(telemetry, REDEEMED, REDEEMED, REFUSED, validated)
    counted = {frozenset((point.attributes or {}).items()): point.value for point in telemetry.outcomes()}
    refused = {"voucher_sessions.outcome": "held", "voucher_sessions.reason": "quantity_exceeded"}
    assert counted == {
        frozenset({("voucher_sessions.verb", "redeem"), ("voucher_sessions.outcome", "ok")}): 2,
        frozenset({"voucher_sessions.verb": "redeem", "error.type": "QuantityExceeded", **refused}.items()): 1,
        frozenset({"voucher_sessions.verb": "validate", **refused}.items()): 1,
    }


def test_an_exemplar_leads_to_the_span_of_its_call(telemetry: Telemetry) -> None:
    record(telemetry, REDEEMED)
    context = telemetry.span().context
    assert context is not None
    metrics = list(telemetry.metrics())
    assert len(metrics) == 2
    for metric in metrics:
        assert isinstance(metric.data, Histogram | Sum)
        [point] = metric.data.data_points
        [exemplar] = point.exemplars
        assert (exemplar.trace_id, exemplar.span_id) == (context.trace_id, context.span_id)


def test_no_metric_is_one_of_the_client_library(telemetry: Telemetry) -> None:
    record(telemetry, REDEEMED, REFUSED, UNAVAILABLE)
    assert {metric.name for metric in telemetry.metrics()} == {
        "voucher_sessions.operation.duration",
        "voucher_sessions.operation.outcomes",
    }


def test_metrics_work_without_spans_and_spans_without_metrics(telemetry: Telemetry) -> None:
    record_calls(tracer_provider=NoOpTracerProvider(), meter_provider=telemetry.meter_provider)(REFUSED)
    assert [point.count for point in telemetry.durations()] == [1]
    assert telemetry.spans() == ()
    record_calls(tracer_provider=telemetry.tracer_provider, meter_provider=NoOpMeterProvider())(REFUSED)
    assert len(telemetry.spans()) == 1
    assert [point.count for point in telemetry.durations()] == [1]


def test_without_an_sdk_nothing_is_recorded() -> None:
    """Only the API, whose global providers do nothing until an SDK is set."""
    record_calls()(REFUSED)

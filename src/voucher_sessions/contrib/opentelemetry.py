"""Spans and metrics of the calls of an engine, by the OpenTelemetry API. Needs the extra ``otel``.

    VoucherSessions(client, on_call=record_calls())

| what | name | unit | attributes |
|---|---|---|---|
| span of each call | ``voucher_sessions.<verb>`` | | verb, outcome, reason, ``error.type`` |
| histogram | ``voucher_sessions.operation.duration`` | s | verb, outcome, ``error.type`` |
| counter | ``voucher_sessions.operation.outcomes`` | {call} | verb, outcome, reason, ``error.type`` |

The attributes of this library begin with ``voucher_sessions.``. None has a code, a session key or an id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider, get_tracer, set_span_in_context

from voucher_sessions import CallEvent, __version__
from voucher_sessions.contrib._outcomes import FAILURES

__all__ = ["record_calls"]

VERB: Final = "voucher_sessions.verb"
OUTCOME: Final = "voucher_sessions.outcome"
REASON: Final = "voucher_sessions.reason"
ERROR_TYPE: Final = "error.type"

# From a call on the same machine to one that is retried for 30 seconds while a cluster fails over.
_BOUNDARIES: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
)


def record_calls(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Callable[[CallEvent], None]:
    """Return an observer for ``on_call=`` that makes a span of every call, and measures it.

    The span is a child of the span in which the call was made. It is made when the call has ended, with the time at which
    the call began: spans that other instrumentation makes in that time, for example for the commands that redis-py sends,
    are its siblings, not its children. Its status is an error if the outcome is unknown, if the server or the network
    failed, or if stored values are damaged; a refusal is not an error. ``error.type`` is the class of the error that the call raised, if it raised
    one.

    Neither spans nor metrics have codes, session keys, ids or texts of errors.

    Args:
        tracer_provider: Makes the spans; the global one by default. For no spans, pass a ``NoOpTracerProvider``.
        meter_provider: Makes the metrics; the global one by default. For no metrics, pass a ``NoOpMeterProvider``.
    """
    tracer = get_tracer("voucher_sessions", __version__, tracer_provider)
    meter = get_meter("voucher_sessions", __version__, meter_provider)
    duration = meter.create_histogram(
        "voucher_sessions.operation.duration",
        unit="s",
        description="Duration of the calls of voucher_sessions.",
        explicit_bucket_boundaries_advisory=_BOUNDARIES,
    )
    outcomes = meter.create_counter(
        "voucher_sessions.operation.outcomes", unit="{call}", description="Calls of voucher_sessions, by their outcome."
    )

    def observe(event: CallEvent) -> None:
        attributes: dict[str, str] = {VERB: event.verb, OUTCOME: event.outcome}
        if event.error is not None:
            attributes[ERROR_TYPE] = type(event.error).__qualname__
        with_reason = attributes if event.reason is None else {**attributes, REASON: event.reason}
        ended_at_ns = time.time_ns()
        span = tracer.start_span(
            f"voucher_sessions.{event.verb}",
            kind=SpanKind.INTERNAL,
            attributes=with_reason,
            start_time=ended_at_ns - round(event.seconds * 1e9),
        )
        if event.outcome in FAILURES:
            span.set_status(StatusCode.ERROR)
        span.end(ended_at_ns)
        context = set_span_in_context(span)  # an exemplar of a metric leads to this span
        duration.record(event.seconds, attributes, context)
        outcomes.add(1, with_reason, context)

    return observe

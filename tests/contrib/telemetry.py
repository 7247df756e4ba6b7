"""The SDK of OpenTelemetry with its exporters in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

DURATION = "voucher_sessions.operation.duration"
OUTCOMES = "voucher_sessions.operation.outcomes"


class Telemetry:
    """Providers of spans and metrics, and what they have exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider(
            [self._reader], Resource({}), AlwaysOnExemplarFilter(), shutdown_on_exit=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def span(self) -> ReadableSpan:
        """The only one."""
        [span] = self.spans()
        return span

    def metrics(self) -> Iterator[Metric]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                yield from scope.metrics

    def durations(self) -> list[HistogramDataPoint]:
        [found] = [metric.data for metric in self.metrics() if metric.name == DURATION]
        assert isinstance(found, Histogram)
        return list(found.data_points)

    def outcomes(self) -> list[NumberDataPoint]:
        [found] = [metric.data for metric in self.metrics() if metric.name == OUTCOMES]
        assert isinstance(found, Sum)
        assert found.is_monotonic
        return list(found.data_points)

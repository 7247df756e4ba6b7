"""Whatever a call was: no session key, no password and no credential of a URL is in a log record, a span or a metric."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable

import pytest
import structlog
from hypothesis import given
from pythonjsonlogger.json import JsonFormatter

from contrib.call_events import SecretCall, secret_calls
from contrib.log_records import LogRecords
from contrib.telemetry import Telemetry
from voucher_sessions.contrib.logging import log_calls
from voucher_sessions.contrib.opentelemetry import record_calls

MASKS: list[Callable[[str], str] | None] = [None, lambda code: f"…{code[-4:]}"]


def all_forms(record: logging.LogRecord) -> list[str]:
    """The record itself, and what formatters of text and of JSON make of it."""
    assert (record.exc_info, record.exc_text, record.stack_info) == (None, None, None)
    assert not any(isinstance(value, BaseException) for value in vars(record).values())
    text = logging.Formatter("%(message)s %(error_message)s").format(record)
    fields = json.loads(JsonFormatter("%(message)s").format(record))
    return [str(vars(record)), text, str(fields)]


def assert_nothing_secret(call: SecretCall, shown: Iterable[str]) -> None:
    for text in shown:
        assert call.session_key[:9] not in text
        assert call.password not in text


@pytest.mark.parametrize("mask", MASKS, ids=["codes", "masked"])
@given(call=secret_calls())
def test_in_a_log(mask: Callable[[str], str] | None, call: SecretCall) -> None:
    logged, captured = LogRecords(), structlog.testing.LogCapture()
    log_calls(logged.logger, mask=mask)(call.event)
    log_calls(structlog.wrap_logger(None, [captured]), mask=mask)(call.event)
    [record], [entry] = logged.records, captured.entries
    assert not any(isinstance(value, BaseException) for value in entry.values())
    assert_nothing_secret(call, [*all_forms(record), str(entry)])


@given(call=secret_calls())
def test_in_a_span_or_a_metric(call: SecretCall) -> None:
    with Telemetry() as telemetry:
        record_calls(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)(call.event)
        span = telemetry.span()
        metrics = list(telemetry.metrics())
        assert len(metrics) == 2
        shown = [span.name, str(span.attributes), str(span.events), str(vars(span.status)), str(metrics)]
        assert_nothing_secret(call, shown)
        # Values of closed sets: nothing else that tells one voucher or one order from another
        known = {call.event.verb, call.event.outcome, call.event.reason, type(call.event.error).__name__}
        for attributes in (span.attributes, *(point.attributes for point in telemetry.outcomes())):
            assert set((attributes or {}).values()) <= known

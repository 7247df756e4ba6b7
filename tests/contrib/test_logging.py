"""``log_calls``: levels, facts and texts, with loggers of the standard library and of structlog."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import fields, replace
from io import StringIO
from typing import Any

import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter

from contrib.call_events import OUTCOMES, REDEEMED, REFUSED, SUCCESSES, TROUBLE, UNAVAILABLE
from voucher_sessions import CallEvent, InvalidRequest, ServerUnavailable
from voucher_sessions.contrib.logging import log_calls
from voucher_sessions.events import Outcome

# Two fields of a record describe ``error``.
FACTS = {field.name for field in fields(CallEvent)} - {"error"} | {"error_type", "error_message"}


class Lines:
    """A logger of the standard library, and what it writes."""

    def __init__(self, formatter: logging.Formatter, level: int = logging.DEBUG) -> None:
        self.records: list[logging.LogRecord] = []
        self._output = StringIO()
        handler = logging.StreamHandler(self._output)
        handler.setFormatter(formatter)
        handler.addFilter(self._keep)
        self.logger = logging.Logger("shop.vouchers", level)
        self.logger.addHandler(handler)

    def _keep(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return True

    @property
    def text(self) -> str:
        return self._output.getvalue()

    def json(self) -> Any:
        """The only line."""
        return json.loads(self.text)


@pytest.fixture
def plain() -> Lines:
    return Lines(logging.Formatter("%(levelname)s %(message)s"))


def level_of(outcome: Outcome) -> str:
    if outcome in SUCCESSES:
        return "DEBUG"
    return "WARNING" if outcome in TROUBLE else "INFO"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_refusals_are_logged_at_info_and_failures_at_warning(outcome: Outcome, plain: Lines) -> None:
    log_calls(plain.logger)(replace(REDEEMED, outcome=outcome))
    assert plain.text == f"{level_of(outcome)} redeem of 'GIFT-50', session 'ssn_aBcD…': {outcome}\n"


def test_the_text_is_that_of_the_error(plain: Lines) -> None:
    log_calls(plain.logger)(REFUSED)
    assert plain.text == (
        "INFO redeem of 'GIFT-50', session 'ssn_aBcD…': held (voucher 'GIFT-50': 1 redemption(s) requested, 0 available; "
        "other sessions have locked the rest: try again when the next one expires, in 500 ms)\n"
    )


def test_without_an_error_the_text_has_the_reason(plain: Lines) -> None:
    log_calls(plain.logger)(replace(REFUSED, verb="validate", error=None, session_key=None))
    assert plain.text == "INFO validate of 'GIFT-50': held (quantity_exceeded)\n"


def test_the_text_names_every_voucher_of_a_stack(plain: Lines) -> None:
    log_calls(plain.logger)(replace(REDEEMED, codes=("A", "B"), session_key=None))
    assert plain.text == "DEBUG redeem of 'A', 'B': ok\n"


def test_the_text_of_a_call_without_a_voucher(plain: Lines) -> None:
    error = ServerUnavailable("ping", (), "Connection refused")
    log_calls(plain.logger)(
        replace(REDEEMED, verb="ping", codes=(), session_key=None, outcome="unavailable", error=error)
    )
    assert plain.text == (
        "WARNING ping: unavailable (ping failed, and nothing has changed; try again later: Connection refused)\n"
    )


def test_a_code_cannot_forge_a_line(plain: Lines) -> None:
    log_calls(plain.logger)(replace(REDEEMED, codes=("A\nWARNING all is lost",), session_key="x\ny…"))
    assert plain.text.count("\n") == 1


def test_percent_signs_are_text(plain: Lines) -> None:
    log_calls(plain.logger)(replace(REDEEMED, codes=("100%s", "%(secret)s"), session_key=None))
    assert plain.text == "DEBUG redeem of '100%s', '%(secret)s': ok\n"


def test_an_error_of_another_library_is_named_without_its_text(plain: Lines) -> None:
    log_calls(plain.logger)(replace(REDEEMED, outcome="unknown", error=ValueError("password: hunter2")))
    assert plain.text == "WARNING redeem of 'GIFT-50', session 'ssn_aBcD…': unknown (ValueError)\n"
    [record] = plain.records
    assert (record.__dict__["error_type"], record.__dict__["error_message"]) == ("ValueError", None)
    assert record.exc_info is None


@pytest.mark.parametrize("url", ["redis://user:hunter2@localhost", "https://:hunter2@vault", "redis://u:hun@ter2@h/0"])
def test_credentials_in_the_text_of_an_error_are_not_shown(url: str, plain: Lines) -> None:
    error = ServerUnavailable("redeem", ["A"], f"{url} does not answer")
    log_calls(plain.logger)(replace(UNAVAILABLE, error=error))
    assert "://…@" in plain.text
    assert "ter2" not in str(vars(plain.records[0])) + plain.text


def test_a_record_of_a_disabled_level_is_not_made() -> None:
    masked: list[str] = []

    def mask(code: str) -> str:
        masked.append(code)
        return "…"

    lines = Lines(logging.Formatter(), logging.INFO)
    observe = log_calls(lines.logger, mask=mask)
    observe(REDEEMED)
    assert (masked, lines.records) == ([], [])
    observe(REFUSED)
    assert masked == ["GIFT-50"]
    assert len(lines.records) == 1


def assert_facts(found: MutableMapping[str, Any]) -> None:
    """Of the refused call, after they went through JSON or not."""
    assert {name: found[name] for name in FACTS} == {
        "verb": "redeem",
        "codes": type(found["codes"])(["GIFT-50"]),
        "outcome": "held",
        "reason": "quantity_exceeded",
        "locked_by_others": True,
        "credits": 3000,
        "points": 0,
        "redemption_id": "order-1001",
        "session_key": "ssn_aBcD…",
        "seconds": 0.0004,
        "error_type": "QuantityExceeded",
        "error_message": str(REFUSED.error),
    }


def test_facts_are_attributes_of_the_record(plain: Lines) -> None:
    log_calls(plain.logger)(REFUSED)
    [record] = plain.records
    assert_facts(vars(record))
    assert record.__dict__["codes"] == ("GIFT-50",)


@pytest.mark.parametrize("event", [REDEEMED, REFUSED, UNAVAILABLE])
def test_every_record_has_the_same_facts(event: CallEvent, plain: Lines) -> None:
    bare = vars(logging.makeLogRecord({})).keys()
    log_calls(plain.logger)(event)
    assert vars(plain.records[0]).keys() - bare - {"message"} == FACTS


class Prefixed(logging.LoggerAdapter[Any]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"[north] {msg}", kwargs


def test_an_adapter_adds_what_it_has(plain: Lines) -> None:
    inner = logging.LoggerAdapter(plain.logger, {"shop": "north", "verb": "is the call's"})
    for logger in (inner, Prefixed(inner), logging.LoggerAdapter(plain.logger)):
        log_calls(logger)(REFUSED)
    one, two, none = plain.records
    for record in plain.records:
        assert_facts(vars(record))
    assert (vars(one)["shop"], vars(two)["shop"], "shop" in vars(none)) == ("north", "north", False)
    assert two.getMessage() == f"[north] {one.getMessage()}"


def test_a_json_formatter_writes_the_facts_as_fields() -> None:
    lines = Lines(JsonFormatter("%(message)s"))
    log_calls(lines.logger)(REFUSED)
    found = lines.json()
    assert_facts(found)
    assert found["message"].startswith("redeem of 'GIFT-50', session 'ssn_aBcD…': held (")


def over_structlog(wrapper: Any, *processors: Any) -> Callable[[], tuple[Any, Lines]]:
    """A logger of structlog over one of the standard library."""

    def make() -> tuple[Any, Lines]:
        lines = Lines(logging.Formatter("%(message)s"))
        return structlog.wrap_logger(lines.logger, [*processors], wrapper_class=wrapper), lines

    return make


def to_json_fields() -> tuple[Any, Lines]:
    """The same, but what it writes is rendered by a formatter of the standard library."""
    lines = Lines(JsonFormatter("%(message)s %(levelname)s"))
    processors = [structlog.stdlib.render_to_log_kwargs]
    return structlog.wrap_logger(lines.logger, processors, wrapper_class=structlog.stdlib.BoundLogger), lines


def standard_logger_formatted_by_structlog() -> tuple[Any, Lines]:
    lines = Lines(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    return lines.logger, lines


STRUCTURED = [
    pytest.param(
        over_structlog(structlog.BoundLogger, structlog.processors.add_log_level, structlog.processors.JSONRenderer()),
        id="generic",
    ),
    pytest.param(
        over_structlog(
            structlog.make_filtering_bound_logger(logging.INFO),
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ),
        id="filtering",
    ),
    pytest.param(
        over_structlog(
            structlog.stdlib.BoundLogger,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.add_log_level,
            structlog.processors.JSONRenderer(),
        ),
        id="standard library",
    ),
    pytest.param(to_json_fields, id="rendered by the standard library"),
    pytest.param(standard_logger_formatted_by_structlog, id="standard logger formatted by structlog"),
]


@pytest.mark.parametrize("make", STRUCTURED)
@pytest.mark.parametrize(("event", "level"), [(REFUSED, "info"), (replace(REFUSED, outcome="unknown"), "warning")])
def test_structlog_gets_the_facts(make: Callable[[], tuple[Any, Lines]], event: CallEvent, level: str) -> None:
    logger, lines = make()
    log_calls(logger)(event)
    found = lines.json()
    assert (found.get("level") or found["levelname"]).lower() == level
    assert_facts(found | {"outcome": "held"})
    text = found.get("event") or found["message"]
    assert text.startswith(f"redeem of 'GIFT-50', session 'ssn_aBcD…': {event.outcome} (")


@pytest.fixture
def configured() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


def test_a_structlog_logger_made_before_structlog_is_configured(configured: list[MutableMapping[str, Any]]) -> None:
    observe = log_calls(structlog.get_logger())
    for event in (REDEEMED, REFUSED, UNAVAILABLE):
        observe(event)
    assert [entry["log_level"] for entry in configured] == ["debug", "info", "warning"]
    assert_facts(configured[1])


def last_four(code: str) -> str:
    return f"…{code[-4:]}"


@pytest.mark.parametrize("event", [REFUSED, replace(REFUSED, error=None), UNAVAILABLE])
def test_a_mask_hides_codes_everywhere(event: CallEvent, plain: Lines) -> None:
    secret = "GOLD-CARD-1234"
    error = None if event.error is None else type(event.error)(secret, *event.error.args[1:])
    log_calls(plain.logger, mask=last_four)(replace(event, codes=(secret,), error=error))
    [record] = plain.records
    assert record.__dict__["codes"] == ("…1234",)
    assert "redeem of '…1234', session 'ssn_aBcD…': " in plain.text
    assert "CARD" not in str(vars(record)) + plain.text


def test_a_mask_leaves_the_kind_of_error(plain: Lines) -> None:
    error = InvalidRequest("credits", "must be an integer")
    log_calls(plain.logger, mask=last_four)(replace(REDEEMED, outcome="invalid", session_key=None, error=error))
    assert plain.text == "INFO redeem of '…T-50': invalid (InvalidRequest)\n"
    assert plain.records[0].__dict__["error_message"] is None

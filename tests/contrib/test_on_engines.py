"""Both observers on real engines: in threads and tasks, on servers that work and on servers that do not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from opentelemetry.trace import StatusCode
from support.servers import running

from contrib.log_records import LogRecords
from contrib.telemetry import Telemetry
from voucher_sessions import (
    AsyncVoucherSessions,
    ServerUnavailable,
    SessionNotFound,
    Voucher,
    VoucherSessionsError,
)
from voucher_sessions.contrib.logging import log_calls
from voucher_sessions.contrib.opentelemetry import record_calls

KEY = "κλμνξοπρστυφ-cart"
PASSWORD = "hunter2-secret"


def session(key: str) -> dict[str, object]:
    return {"type": "LOCK", "key": key, "ttl": 15, "ttl_unit": "MINUTES"}


class Observed:
    """Both observers, and what they recorded."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        logged = LogRecords()
        self.records = logged.records
        self.observers = [
            log_calls(logged.logger),
            record_calls(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider),
        ]

    @property
    def levels(self) -> list[tuple[str, str, str]]:
        return [(record.levelname, vars(record)["verb"], vars(record)["outcome"]) for record in self.records]

    def counted(self) -> Counter[tuple[object, object]]:
        """How many calls the counter has, by verb and outcome."""
        counter = Counter[tuple[object, object]]()
        for point in self.telemetry.outcomes():
            attributes = point.attributes or {}
            counter[attributes["voucher_sessions.verb"], attributes["voucher_sessions.outcome"]] += int(point.value)
        return counter

    def shown(self) -> str:
        """All that anybody can read."""
        spans = [(span.name, dict(span.attributes or {}), span.events, vars(span.status)) for span in self.spans()]
        texts = [logging.Formatter().format(record) for record in self.records]
        return str([list(map(vars, self.records)), texts, spans, list(self.telemetry.metrics())])

    def spans(self) -> Any:
        return self.telemetry.spans()


@pytest.fixture
def observed() -> Iterator[Observed]:
    with Telemetry() as telemetry:
        yield Observed(telemetry)


def on_both_engines(test: Any) -> Any:
    """Run the test on each engine, over fakeredis and a real server."""
    variants = [pytest.param(("sync", False, 3, False), id="sync"), pytest.param(("async", True, 3, False), id="async")]
    with_backends = pytest.mark.parametrize("backend", ["fakeredis", "valkey"], indirect=True)
    return with_backends(pytest.mark.parametrize("variant", variants, indirect=True)(test))


@on_both_engines
def test_the_calls_for_one_voucher(make_engine: Callable[..., Any], observed: Observed) -> None:
    engine = make_engine(on_call=observed.observers)
    engine.put_voucher(Voucher(code="SALE", quantity=1))
    engine.validate("SALE", session=session(KEY))
    engine.validate("SALE", session=session("another-cart"))
    for _ in range(2):
        engine.redeem("SALE", session=KEY, redemption_id="order-1")
    engine.validate("SALE")
    with suppress(SessionNotFound):
        engine.redeem("SALE", session=KEY)
    engine.validate("NONE")
    assert observed.levels == [
        ("DEBUG", "put_voucher", "ok"),
        ("DEBUG", "validate", "ok"),
        ("INFO", "validate", "held"),
        ("DEBUG", "redeem", "ok"),
        ("DEBUG", "redeem", "replayed"),
        ("INFO", "validate", "used_up"),
        ("INFO", "redeem", "not_found"),
        ("INFO", "validate", "not_found"),
    ]
    assert observed.counted() == Counter((verb, outcome) for _, verb, outcome in observed.levels)
    assert [span.name for span in observed.spans()] == [f"voucher_sessions.{verb}" for _, verb, _ in observed.levels]
    assert vars(observed.records[1])["session_key"] == KEY[:8] + "…"
    assert vars(observed.records[3])["redemption_id"] == "order-1"
    assert KEY not in observed.shown()
    assert KEY[:9] not in observed.shown()


@on_both_engines
def test_a_stack_is_one_call_and_a_pipeline_is_many(
    make_engine: Callable[..., Any], execute: Callable[..., list[Any]], observed: Observed
) -> None:
    engine = make_engine(on_call=observed.observers)
    pipe = engine.pipeline()
    pipe.put_voucher(Voucher(code="A")).put_voucher(Voucher(code="B", quantity=0))
    execute(pipe)
    engine.validate_stack(["A", "B"], session=session(KEY))
    assert observed.levels == [
        ("DEBUG", "put_voucher", "ok"),
        ("DEBUG", "put_voucher", "ok"),
        ("INFO", "validate_stack", "used_up"),
    ]
    assert vars(observed.records[2])["codes"] == ("A", "B")
    assert len(observed.spans()) == 3


@on_both_engines
def test_a_span_has_the_span_of_its_caller_as_its_parent(
    make_engine: Callable[..., Any], backend: Any, observed: Observed
) -> None:
    engine = make_engine(on_call=observed.observers)
    with observed.telemetry.tracer_provider.get_tracer("shop").start_as_current_span("checkout") as checkout:
        engine.validate("SALE")
    call, parent = observed.spans()
    assert call.parent == checkout.get_span_context()
    if not backend.is_fake:  # there the clock stands still
        assert parent.start_time <= call.start_time < call.end_time <= parent.end_time


@pytest.mark.parametrize("backend", ["valkey"], indirect=True)
def test_in_tasks_and_threads_each_call_is_a_child_of_its_own_span(backend: Any, observed: Observed) -> None:
    tracer = observed.telemetry.tracer_provider.get_tracer("shop")

    async def check_out(engine: AsyncVoucherSessions, number: int) -> None:
        with tracer.start_as_current_span(f"task {number}", attributes={"code": f"CODE-{number}"}):
            await engine.validate(f"CODE-{number}")

    async def check_outs() -> None:
        client = backend.async_client()
        async with AsyncVoucherSessions(client, on_call=observed.observers) as engine:
            await asyncio.gather(*(check_out(engine, number) for number in range(8)))
        await client.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(check_outs(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parents = {span.context.span_id: span.name for span in observed.spans() if span.name.startswith("task")}
    children = [parents[span.parent.span_id] for span in observed.spans() if span.name == "voucher_sessions.validate"]
    assert Counter(children) == {f"task {number}": 2 for number in range(8)}
    assert len(parents) == 16
    assert len({span.parent.span_id for span in observed.spans() if span.parent}) == 16


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_that_is_down(kind: str, engines: Any, observed: Observed) -> None:
    module: Any = redis if kind == "sync" else redis.asyncio
    engine = engines.over(module.Redis(unix_socket_path="/nowhere/s", retry=None), on_call=observed.observers)
    for call in (engine.ping, lambda: engine.redeem("SALE", session=KEY)):
        with pytest.raises(ServerUnavailable):
            call()
    assert observed.levels == [("WARNING", "ping", "unavailable"), ("WARNING", "redeem", "unavailable")]
    assert "nothing has changed; try again later" in observed.records[1].getMessage()
    for span in observed.spans():
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "ServerUnavailable"
    assert KEY not in observed.shown()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_wrong_password_is_not_shown(kind: str, engines: Any, observed: Observed) -> None:
    with running("valkey") as server:
        server.client().config_set("requirepass", "another")
        url = f"unix://user:{PASSWORD}@{server.socket}"
        module: Any = redis if kind == "sync" else redis.asyncio
        engine = engines.over(module.Redis.from_url(url), on_call=observed.observers)
        with pytest.raises(redis.ConnectionError):  # the base class of AuthenticationError
            engine.redeem("SALE", session=KEY)
    assert observed.levels == [("WARNING", "redeem", "unavailable")]
    assert vars(observed.records[0])["error_type"] in {"AuthenticationError", "ConnectionError"}
    assert PASSWORD not in observed.shown()
    assert KEY not in observed.shown()


@on_both_engines
def test_the_error_of_a_loader_is_named_without_its_text(make_engine: Callable[..., Any], observed: Observed) -> None:
    def load(code: str) -> Voucher | None:
        raise OSError(f"postgresql://shop:{PASSWORD}@db does not answer")

    engine = make_engine(on_call=observed.observers, loader=load)
    with pytest.raises(OSError, match=PASSWORD):
        engine.validate("SALE", session=session(KEY))
    [record] = observed.records
    assert record.getMessage() == f"validate of 'SALE', session '{KEY[:8]}…': unavailable (OSError)"
    assert PASSWORD not in observed.shown()


@on_both_engines
def test_what_an_invalid_call_named_is_not_shown(make_engine: Callable[..., Any], observed: Observed) -> None:
    engine = make_engine(on_call=observed.observers)
    with pytest.raises(VoucherSessionsError):
        engine.validate("SALE", session={"type": "LOCK", "key": KEY, "ttl": -1, "ttl_unit": "DAYS"})
    assert observed.levels == [("INFO", "validate", "invalid")]
    assert KEY[:9] not in observed.shown()

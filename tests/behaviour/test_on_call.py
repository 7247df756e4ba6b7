"""DESIGN.md 3.23: after each call, the functions that were given as ``on_call`` get one event that says how it ended."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import fakeredis
import pytest
import redis.exceptions
from conftest import Backend
from core.both_engines import outcome
from support.scripted_clients import AsyncScriptedClient, ScriptedClient
from support.sessions import lock

from voucher_sessions import (
    AsyncVoucherSessions,
    CallEvent,
    InvalidRequest,
    Redeemable,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions.bulk import import_redemptions, put_vouchers
from voucher_sessions.events import Outcome

Make = Callable[..., VoucherSessions]
# The engine, not the server, calls the observers. So one real server is enough.
pytestmark = pytest.mark.parametrize("backend", ["fakeredis", "valkey"], indirect=True)
KEY = "cart-of-somebody"


@pytest.fixture
def events() -> list[CallEvent]:
    return []


@pytest.fixture
def observed(make_engine: Make, events: list[CallEvent]) -> VoucherSessions:
    engine = make_engine(on_call=events.append)
    engine.put_voucher(Voucher(code="A", quantity=3, credits=100, points=10))
    engine.put_voucher(Voucher(code="B", quantity=1))
    events.clear()
    return engine


def told(events: list[CallEvent]) -> CallEvent:
    """The only event."""
    (event,) = events
    events.clear()
    assert event.seconds >= 0
    return event


def of_verb(engine: VoucherSessions) -> Iterator[tuple[Callable[[], object], dict[str, Any]]]:
    """Calls, and what their event says. They build on each other."""
    yield lambda: engine.get_voucher("A"), {"verb": "get_voucher", "codes": ("A",), "outcome": "ok"}
    yield lambda: engine.get_voucher("Z"), {"outcome": "not_found", "reason": "not_found", "codes": ("Z",)}
    yield (
        lambda: engine.validate("A", credits=60, session=lock(KEY)),
        {"verb": "validate", "outcome": "ok", "credits": 60, "points": 0, "session_key": "cart-of-…"},
    )
    yield (
        lambda: engine.validate("A", credits=60),
        {"outcome": "held", "reason": "gift_amount_exceeded", "locked_by_others": True, "credits": 60},
    )
    yield (
        lambda: engine.validate("A", points=11),
        {"outcome": "used_up", "reason": "loyalty_card_points_exceeded", "locked_by_others": False, "points": 11},
    )
    yield lambda: engine.validate("Z"), {"outcome": "not_found", "reason": "not_found"}
    yield lambda: engine.get_session("A", KEY), {"outcome": "ok", "credits": 60, "session_key": "cart-of-…"}
    yield lambda: engine.extend("A", KEY), {"verb": "extend", "outcome": "ok", "credits": 60}
    yield lambda: engine.extend("A", "no-session"), {"outcome": "not_found", "reason": None, "credits": None}
    yield lambda: engine.list_sessions("A"), {"outcome": "ok", "credits": None, "session_key": None}
    yield (
        lambda: engine.redeem("A", credits=50, redemption_id="o"),
        {"outcome": "held", "reason": "gift_amount_exceeded", "locked_by_others": True, "redemption_id": "o"},
    )
    yield lambda: engine.redeem("A"), {"outcome": "amount_required", "credits": None, "points": None}
    yield (
        lambda: engine.redeem("A", session=KEY, redemption_id="o"),
        {"verb": "redeem", "outcome": "ok", "credits": 60, "redemption_id": "o", "session_key": "cart-of-…"},
    )
    yield lambda: engine.redeem("A", session=KEY, redemption_id="o"), {"outcome": "replayed", "credits": 60}
    yield lambda: engine.redeem("A", credits=1, redemption_id="o"), {"outcome": "conflict"}
    yield lambda: engine.get_redemption("A", "o"), {"outcome": "ok", "credits": 60, "redemption_id": "o"}
    yield lambda: engine.get_redemption("A", "none"), {"outcome": "not_found", "redemption_id": "none"}
    yield lambda: engine.rollback("A", "o", credits=61), {"outcome": "refused", "credits": 61}
    yield lambda: engine.rollback("A", "o", credits=10), {"verb": "rollback", "outcome": "ok", "credits": 10}
    yield lambda: engine.rollback("A", "o"), {"outcome": "ok", "credits": 50}
    yield lambda: engine.rollback("A", "o"), {"outcome": "replayed"}
    yield lambda: engine.redeem("A", session=KEY, redemption_id="o"), {"outcome": "rolled_back"}
    yield lambda: engine.release("A", KEY), {"outcome": "not_found"}
    yield (
        lambda: engine.put_voucher(Voucher(code="A"), if_exists="raise"),
        {"verb": "put_voucher", "codes": ("A",), "outcome": "exists"},
    )
    yield lambda: engine.adjust("A", credits=-101), {"outcome": "refused", "credits": -101}
    yield lambda: engine.adjust("A", credits=5, adjustment_id="a"), {"outcome": "ok", "credits": 5, "points": 0}
    yield lambda: engine.adjust("A", credits=5, adjustment_id="a"), {"outcome": "replayed"}
    yield lambda: engine.adjust("A", credits=6, adjustment_id="a"), {"outcome": "conflict"}
    yield (
        lambda: engine.validate_stack(["B", Redeemable(code="A", credits=3)], session=lock(KEY)),
        {"verb": "validate_stack", "codes": ("B", "A"), "outcome": "ok", "credits": 3},
    )
    yield (
        lambda: engine.validate_stack(["A", "B"]),
        {"outcome": "held", "reason": "quantity_exceeded", "locked_by_others": True},
    )
    yield lambda: engine.extend_stack(["A", "B"], KEY), {"verb": "extend_stack", "outcome": "ok", "credits": 3}
    yield (
        lambda: engine.redeem_stack(["A", "B"], session=KEY, redemption_id="s"),
        {"verb": "redeem_stack", "codes": ("A", "B"), "outcome": "ok", "credits": 3, "redemption_id": "s"},
    )
    yield lambda: engine.redeem_stack(["A", "B"], session=KEY, redemption_id="s"), {"outcome": "replayed"}
    yield lambda: engine.rollback_stack(["A", "B"], "s"), {"verb": "rollback_stack", "outcome": "ok", "credits": 3}
    yield lambda: engine.rollback_stack(["A", "B"], "s"), {"outcome": "replayed"}
    yield lambda: engine.release_stack(["A", "B"], KEY), {"verb": "release_stack", "outcome": "not_found"}
    yield lambda: engine.audit("A"), {"verb": "audit", "codes": ("A",), "outcome": "ok"}
    yield lambda: engine.audit("Z"), {"verb": "audit", "codes": ("Z",), "outcome": "not_found"}
    yield lambda: engine.repair("A"), {"verb": "repair", "outcome": "ok"}
    yield lambda: list(engine.iter_sessions("A")), {"verb": "iter_sessions", "codes": ("A",), "outcome": "ok"}
    yield lambda: list(engine.iter_sessions("Z")), {"verb": "iter_sessions", "outcome": "not_found"}
    yield lambda: engine.delete_voucher("B"), {"verb": "delete_voucher", "outcome": "ok"}
    yield lambda: engine.delete_voucher("B"), {"verb": "delete_voucher", "outcome": "not_found"}
    yield engine.ping, {"verb": "ping", "codes": (), "outcome": "ok"}


def test_one_event_for_each_call(observed: VoucherSessions, events: list[CallEvent]) -> None:
    verbs = set()
    for call, expected in of_verb(observed):
        ended = outcome(call)
        event = told(events)
        assert {name: getattr(event, name) for name in expected} == expected, event
        assert event.outcome in get_args(Outcome)
        assert event.error == (ended if isinstance(ended, Exception) else None)
        assert event.locked_by_others == (event.outcome == "held")
        assert KEY not in repr(event)
        verbs.add(event.verb)
    assert verbs == _methods() - {"check_server"}


def _methods() -> set[str]:
    """The methods of an engine that ask the server."""
    others = {"client", "close", "from_url", "pipeline"}
    return {name for name, _ in inspect.getmembers(VoucherSessions) if not name.startswith("_")} - others


def test_check_server(observed: VoucherSessions, events: list[CallEvent], backend: Backend) -> None:
    outcome(observed.check_server)  # fakeredis does not know all that it asks
    assert told(events).verb == "check_server"


@pytest.mark.parametrize(
    ("verb", "arguments", "codes"),
    [
        ("validate", ("A", -1), ("A",)),
        ("get_voucher", ("",), ()),
        ("get_voucher", (5,), ()),
        ("put_voucher", (Voucher(code="N"), "no figures"), ("N",)),
        ("put_voucher", (None,), ()),
        ("redeem_stack", (["A", {"code": "B", "credits": -1}],), ("A", "B")),
        ("redeem_stack", ([Redeemable(code="A"), {}, None, "A"],), ("A", "A")),
        ("validate_stack", ([],), ()),
        ("release_stack", (("A", "A"), KEY), ("A", "A")),
        ("extend", ("A", KEY, -5), ("A",)),
        ("audit", ("",), ()),
        ("iter_sessions", ("A", 0), ("A",)),
    ],
)
def test_a_wrong_parameter(
    observed: VoucherSessions, events: list[CallEvent], verb: str, arguments: Any, codes: tuple[str, ...]
) -> None:
    names = list(inspect.signature(getattr(VoucherSessions, verb)).parameters)[1:]
    positional = 2 if verb in {"release_stack", "extend"} else 1
    named = dict(zip(names[positional:], arguments[positional:], strict=False))
    with pytest.raises(InvalidRequest) as refused:
        getattr(observed, verb)(*arguments[:positional], **named)
    event = told(events)
    assert (event.verb, event.outcome, event.codes, event.error) == (verb, "invalid", codes, refused.value)
    assert event.session_key is None


class Hostile:
    """An object of an application, the methods of which fail."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class HostileList(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("iter")


@pytest.mark.parametrize("make", [lambda: [Hostile()], lambda: HostileList(["A"])], ids=["item", "list"])
def test_objects_whose_methods_fail(observed: Any, events: list[CallEvent], make: Any) -> None:
    with pytest.raises(InvalidRequest):
        observed.validate_stack(make())
    assert told(events).outcome == "invalid"


def test_a_pipeline_call_by_call(observed: Any, events: list[CallEvent], execute: Callable[..., list[Any]]) -> None:
    pipeline = observed.pipeline()
    pipeline.validate("A", credits=2, session=lock(KEY)).get_voucher("Z").validate_stack(["A", "B"])
    with pytest.raises(InvalidRequest):
        pipeline.redeem("A", credits=-1)
    assert told(events).outcome == "invalid"
    execute(pipeline, raise_on_error=False)
    assert [(each.verb, each.codes, each.outcome) for each in events] == [
        ("validate", ("A",), "ok"),
        ("get_voucher", ("Z",), "not_found"),
        ("validate_stack", ("A", "B"), "ok"),
    ]
    assert len({each.seconds > 0 for each in events}) == 1


def test_an_iteration_has_one_event(observed: Any, events: list[CallEvent]) -> None:
    for number in range(5):
        observed.validate("A" if number < 3 else "B", session=lock(f"{KEY}{number}"))
    events.clear()
    walk = observed.iter_sessions("A", batch=1)
    next(walk)
    assert events == []
    assert len(list(walk)) == 2
    event = told(events)
    assert (event.outcome, event.session_key, event.credits) == ("ok", None, None)


def test_several_observers_and_one_that_fails(
    make_engine: Make, events: list[CallEvent], caplog: pytest.LogCaptureFixture
) -> None:
    def failing(event: CallEvent) -> None:
        raise ValueError("no disk")

    engine = make_engine(on_call=[failing, events.append, failing, events.append])
    engine.put_voucher(Voucher(code="A"))
    with pytest.raises(VoucherNotFound):
        engine.get_voucher("Z")
    assert [event.outcome for event in events] == ["ok", "ok", "not_found", "not_found"]
    assert [(record.name, record.levelno) for record in caplog.records] == [("voucher_sessions", logging.ERROR)] * 4
    assert all("failing" in record.message for record in caplog.records)


def test_the_log_does_not_have_the_error_of_the_call(make_engine: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The loader's error may have a password in its text."""

    def loader(code: str) -> Voucher:
        raise RuntimeError("postgresql://user:secret@database")

    def failing(event: CallEvent) -> None:
        try:
            raise ValueError("the observer's first")
        except ValueError as error:
            raise TypeError("the observer's second") from error

    with pytest.raises(RuntimeError):
        make_engine(loader=loader, on_call=failing).get_voucher("A")
    (record,) = caplog.records
    text = logging.Formatter().format(record)
    assert "the observer's first" in text
    assert "the observer's second" in text
    assert "secret" not in text


def test_the_loader_belongs_to_the_call(make_engine: Make, events: list[CallEvent]) -> None:
    def loader(code: str) -> Voucher | None:
        if code == "bad":
            raise RuntimeError("the database is down")
        return Voucher(code=code, quantity=1) if code == "A" else None

    engine = make_engine(loader=loader, on_call=events.append)
    engine.validate("A")
    event = told(events)
    assert (event.verb, event.outcome) == ("validate", "ok")
    engine.validate("unknown")
    assert told(events).outcome == "not_found"
    with pytest.raises(RuntimeError):
        engine.redeem("bad")
    event = told(events)
    assert (event.verb, event.outcome, event.codes) == ("redeem", "unavailable", ("bad",))


def test_bulk_has_an_event_for_each_row(backend: Backend, events: list[CallEvent]) -> None:
    with backend.client() as client:
        engine = VoucherSessions(client, on_call=events.append)
        put_vouchers(engine, [Voucher(code="A", credits=9), Voucher(code="B")])
        assert [(each.verb, each.codes, each.outcome) for each in events] == [
            ("put_voucher", ("A",), "ok"),
            ("put_voucher", ("B",), "ok"),
        ]
        row = {"code": "A", "id": "o", "credits": 9, "points": 0}
        for expected in ("ok", "replayed"):
            events.clear()
            import_redemptions(engine, [row], count=True)
            event = told(events)
            assert (event.verb, event.redemption_id, event.outcome, event.credits) == (
                "import_redemption",
                "o",
                expected,
                9,
            )


@pytest.mark.parametrize("on_call", [5, "text", [None], [print, 3], {}], ids=lambda value: type(value).__name__)
def test_what_is_not_a_function_is_refused(backend: Backend, on_call: Any) -> None:
    makes: list[Callable[..., object]] = [
        lambda **options: VoucherSessions(fakeredis.FakeRedis(), **options),
        lambda **options: AsyncVoucherSessions(fakeredis.FakeAsyncRedis(), **options),
        lambda **options: VoucherSessions.from_url("memory://", **options),
        lambda **options: AsyncVoucherSessions.from_url("memory://", **options),
    ]
    for make in makes:
        with pytest.raises(InvalidRequest, match="on_call"):
            make(on_call=on_call)


def test_a_sequence_that_cannot_be_read_is_refused(backend: Backend) -> None:
    with backend.client() as client, pytest.raises(InvalidRequest, match="on_call") as refused:
        VoucherSessions(client, on_call=HostileList([print]))
    assert refused.value.__context__ is None


async def coroutine_function(event: CallEvent) -> None:
    raise AssertionError(event)


def test_the_sync_engine_refuses_coroutine_functions(backend: Backend) -> None:
    with backend.client() as client, pytest.raises(InvalidRequest, match="AsyncVoucherSessions"):
        VoucherSessions(client, on_call=coroutine_function)


def test_a_function_that_returns_a_coroutine_is_logged_by_the_sync_engine(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    def returning(event: CallEvent) -> object:
        return coroutine_function(event)

    with backend.client() as client:
        VoucherSessions(client, on_call=returning).put_voucher(Voucher(code="A"))
    (record,) = caplog.records
    assert "cannot await" in (record.exc_text or "")


class TestAsyncio:
    """A coroutine function is awaited before the call returns."""

    def run(self, backend: Backend, act: Callable[[AsyncVoucherSessions, list[CallEvent]], Any]) -> None:
        async def acting() -> None:
            events: list[CallEvent] = []

            async def see(event: CallEvent) -> None:
                await asyncio.sleep(0)
                events.append(event)

            async with backend.async_client() as client, AsyncVoucherSessions(client, on_call=see) as engine:
                await engine.put_voucher(Voucher(code="A", quantity=2))
                assert told(events).verb == "put_voucher"
                await act(engine, events)

        asyncio.run(acting())

    def test_calls(self, backend: Backend) -> None:
        async def act(engine: AsyncVoucherSessions, events: list[CallEvent]) -> None:
            with pytest.raises(VoucherNotFound):
                await engine.get_voucher("Z")
            assert told(events).outcome == "not_found"
            await engine.pipeline().get_voucher("A").get_voucher("A").execute()
            assert [event.outcome for event in events] == ["ok", "ok"]

        self.run(backend, act)

    def test_a_wrong_parameter_of_a_method_that_is_not_a_coroutine(self, backend: Backend) -> None:
        async def act(engine: AsyncVoucherSessions, events: list[CallEvent]) -> None:
            with pytest.raises(InvalidRequest):
                engine.pipeline().get_voucher("")
            with pytest.raises(InvalidRequest):
                engine.iter_sessions("")
            await asyncio.sleep(0.01)
            assert [(event.verb, event.outcome) for event in events] == [
                ("get_voucher", "invalid"),
                ("iter_sessions", "invalid"),
            ]

        self.run(backend, act)

    def test_a_walk_that_the_caller_ends(self, backend: Backend) -> None:
        async def act(engine: AsyncVoucherSessions, events: list[CallEvent]) -> None:
            for number in range(2):
                await engine.validate("A", session=lock(f"{KEY}{number}"))
            events.clear()
            walk: Any = engine.iter_sessions("A", batch=1)
            await anext(walk)
            await walk.aclose()
            assert told(events).outcome == "ok"

        self.run(backend, act)

    def test_an_observer_whose_own_task_was_cancelled(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        async def see(event: CallEvent) -> None:
            own = asyncio.ensure_future(asyncio.sleep(10))
            own.cancel()
            await own

        async def acting() -> None:
            async with backend.async_client() as client, AsyncVoucherSessions(client, on_call=see) as engine:
                await engine.put_voucher(Voucher(code="A"))

        asyncio.run(acting())
        assert len(caplog.records) == 1

    def test_a_call_that_is_cancelled_while_its_observer_runs(self, backend: Backend) -> None:
        """The other observers are notified of all calls; the coroutine function does not delay the end of the task."""

        async def acting() -> None:
            waits = asyncio.Event()
            events: list[CallEvent] = []

            async def see(event: CallEvent) -> None:
                waits.set()
                await asyncio.sleep(10)

            on_call = [see, events.append]
            async with backend.async_client() as client, AsyncVoucherSessions(client, on_call=on_call) as engine:
                pipe = engine.pipeline().put_voucher(Voucher(code="A")).get_voucher("A")
                task = asyncio.create_task(pipe.execute())
                await waits.wait()
                task.cancel()
                async with asyncio.timeout(5):
                    with pytest.raises(asyncio.CancelledError):
                        await task
            assert [(event.verb, event.outcome) for event in events] == [("put_voucher", "ok"), ("get_voucher", "ok")]

        asyncio.run(acting())


def test_a_walk_that_the_caller_ends(backend: Backend, events: list[CallEvent]) -> None:
    with backend.client() as client, VoucherSessions(client, on_call=events.append) as engine:
        engine.put_voucher(Voucher(code="A"))
        for number in range(2):
            engine.validate("A", session=lock(f"{KEY}{number}"))
        events.clear()
        walk: Any = engine.iter_sessions("A", batch=1)
        next(walk)
        walk.close()
        assert told(events).outcome == "ok"


def test_the_time_between_the_items_of_a_walk_does_not_count(
    make_engine: Make, events: list[CallEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(on_call=events.append)
    engine.put_voucher(Voucher(code="A"))
    for number in range(3):
        engine.validate("A", session=lock(f"{KEY}{number}"))
    events.clear()
    hours = [0.0]
    monkeypatch.setattr("voucher_sessions.observed_calls.perf_counter", lambda: time.perf_counter() + 3600 * hours[0])
    walk = engine.iter_sessions("A", batch=1)
    hours[0] += 1
    for _ in walk:
        hours[0] += 1
    assert told(events).seconds < 3600


# --- Calls that fail: the servers are scripted, since the engine alone judges --------------------------------------


LOST = redis.exceptions.ConnectionError("Connection closed by server.")
FAILURES = [
    (lambda engine: engine.redeem("A", session=KEY), LOST, "unknown"),
    (lambda engine: engine.get_voucher("A"), LOST, "unavailable"),
    (lambda engine: engine.validate("A"), LOST, "unavailable"),
    (lambda engine: engine.redeem("A"), redis.exceptions.OutOfMemoryError("OOM command not allowed"), "server_refused"),
    (lambda engine: engine.redeem("A"), redis.exceptions.ResponseError("CORRUPT book"), "corrupt"),
    (lambda engine: engine.redeem("A"), redis.exceptions.ResponseError("FORMAT 9 book"), "corrupt"),
    (lambda engine: engine.get_voucher("A"), [b"nonsense"], "corrupt"),
    (lambda engine: engine.redeem("A"), KeyboardInterrupt(), "unknown"),
    (lambda engine: engine.get_voucher("A"), KeyboardInterrupt(), "unavailable"),
    (lambda engine: engine.repair("A"), KeyboardInterrupt(), "unknown"),
    (lambda engine: engine.audit("A"), KeyboardInterrupt(), "unavailable"),
    (lambda engine: engine.pipeline().redeem("A").get_voucher("A").execute(), KeyboardInterrupt(), "unknown"),
]


@pytest.mark.parametrize(("act", "failure", "expected"), FAILURES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_calls_that_fail(
    backend: Backend, act: Any, failure: Any, expected: str, asynchronous: bool, events: list[CallEvent]
) -> None:
    async def acting() -> None:
        client: Any = AsyncScriptedClient(failure)
        await act(AsyncVoucherSessions(client, on_call=events.append))

    def acting_at_once() -> None:
        client: Any = ScriptedClient(failure)
        act(VoucherSessions(client, on_call=events.append))

    with pytest.raises((VoucherSessionsError, KeyboardInterrupt)) as raised:
        asyncio.run(acting()) if asynchronous else acting_at_once()
    assert events[0].outcome == expected
    assert events[0].error is not None
    assert isinstance(raised.value, type(events[0].error) | KeyboardInterrupt)

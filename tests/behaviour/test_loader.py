"""DESIGN.md 3.21: a loader returns the vouchers that Redis does not know."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import fakeredis
import pytest
import redis.exceptions
from conftest import Backend, BlockingAsync
from core.both_engines import outcome
from support import untyped
from support.scripted_clients import AsyncScriptedClient, ScriptedClient

from behaviour.test_semantics import figures, lock
from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    QuantityExceeded,
    ServerRefused,
    ServerUnavailable,
    Used,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions._transport import urls

Make = Callable[..., VoucherSessions]
# The engine, not the server, calls the loader. So one real server is enough.
two_backends = pytest.mark.parametrize("backend", ["fakeredis", "valkey"], indirect=True)
on_valkey = pytest.mark.parametrize("backend", ["valkey"], indirect=True)


class Shop:
    """A loader that returns the given values by code, or raises them if they are exceptions. It records each call."""

    def __init__(self, **known: object) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, code: str) -> Any:
        self.asked.append(code)
        found = self.known.get(code)
        if isinstance(found, BaseException):
            raise found
        return found


def gift(code: str = "A", credits: int = 100) -> Voucher:
    return Voucher(code=code, quantity=5, credits=credits)


ASKING: dict[str, Callable[[Any, str], Any]] = {
    "validate": lambda engine, code: engine.validate(code, credits=5),
    "a session": lambda engine, code: engine.validate(code, credits=5, session=lock("cart")),
    "redeem": lambda engine, code: engine.redeem(code, credits=5, redemption_id="order"),
    "get_voucher": lambda engine, code: engine.get_voucher(code),
    "adjust": lambda engine, code: engine.adjust(code, credits=7, adjustment_id="top-up"),
    "validate_stack": lambda engine, code: engine.validate_stack([code, "known"], session=lock("cart")),
    "redeem_stack": lambda engine, code: engine.redeem_stack(
        [{"code": "known"}, {"code": code, "credits": 5}], redemption_id=code
    ),
}
CHANGES: dict[str, tuple[int, int, int]] = {  # of credits: the limit, used and locked afterwards
    "validate": (100, 30, 0),
    "a session": (100, 30, 5),
    "redeem": (100, 35, 0),
    "get_voucher": (100, 30, 0),
    "adjust": (107, 30, 0),
    "validate_stack": (100, 30, 0),
    "redeem_stack": (100, 35, 0),
}


# --- When it is asked -----------------------------------------------------------------------------------------------


def test_it_is_asked_for_a_code_that_redis_does_not_know(make_engine: Make) -> None:
    shop = Shop(**{name: (gift(name), Used(quantity=1, credits=30)) for name in ASKING})
    engine = make_engine(loader=shop)
    engine.put_voucher(Voucher(code="known"))
    for name, call in ASKING.items():
        shop.asked.clear()
        call(engine, name)
        assert shop.asked == [name]
        assert figures(engine, name)["credits"][:3] == CHANGES[name], name
        assert figures(engine, name)["quantity"][1] == 1 + ("redeem" in name)
        call(engine, name)
        assert shop.asked == [name], "now Redis knows it"
        assert not engine.audit(name).differs


@two_backends
def test_it_is_not_asked_by_other_verbs(make_engine: Make, backend: Backend, execute: Callable[..., list[Any]]) -> None:
    shop = Shop(A=gift(), B=gift("B"))
    engine = make_engine(loader=shop)
    others: list[Callable[[Any], Any]] = [
        lambda engine: engine.release("A", "cart"),
        lambda engine: engine.release_stack(["A", "B"], "cart"),
        lambda engine: engine.extend("A", "cart"),
        lambda engine: engine.extend_stack(["A", "B"], "cart"),
        lambda engine: engine.get_session("A", "cart"),
        lambda engine: engine.list_sessions("A"),
        lambda engine: engine.rollback("A", "order"),
        lambda engine: engine.rollback("A", "order", credits=1),
        lambda engine: engine.rollback_stack(["A", "B"], "order"),
        lambda engine: engine.get_redemption("A", "order"),
        lambda engine: engine.delete_voucher("A"),
    ]
    pipe = engine.pipeline()
    for call in others:
        outcome(partial(call, engine))
        call(pipe)
    outcome(partial(engine.audit, "A"))
    outcome(partial(engine.repair, "A"))
    execute(pipe, raise_on_error=False)
    assert not backend.keys()
    engine.put_voucher(gift(credits=3))
    assert shop.asked == []


@two_backends
def test_it_is_not_asked_if_there_is_a_receipt(make_engine: Make) -> None:
    shop = Shop(A=gift())
    engine = make_engine(loader=shop)
    for name in ("redeem", "adjust"):
        ASKING[name](engine, "A")
    engine.delete_voucher("A")
    shop.asked.clear()
    assert ASKING["redeem"](engine, "A").replayed
    again = ASKING["adjust"](engine, "A")
    assert (again.replayed, again.voucher) == (True, None)
    assert shop.asked == []


@two_backends
def test_a_voucher_that_the_loader_does_not_know_either(make_engine: Make, backend: Backend) -> None:
    shop = Shop()
    engine = make_engine(loader=shop)
    assert (engine.validate("A").reason, engine.validate("A", session=lock()).reason) == ("not_found", "not_found")
    assert [each.reason for each in engine.validate_stack(["A", "B"]).validations] == ["not_found"] * 2
    for name in ("redeem", "get_voucher", "adjust"):
        with pytest.raises(VoucherNotFound) as missing:
            ASKING[name](engine, "A")
        assert missing.value.codes == ("A",)
    with pytest.raises(VoucherNotFound) as missing:
        engine.redeem_stack(["A", "B"])
    assert missing.value.codes == ("A", "B")
    assert shop.asked == ["A", "A", "A", "B", "A", "A", "A", "A", "B"], "each time, since it may be there by now"
    assert not backend.keys()


@two_backends
def test_of_a_stack_what_the_loader_knows_is_put(make_engine: Make) -> None:
    shop = Shop(A=gift(), C=gift("C"))
    engine = make_engine(loader=shop)
    with pytest.raises(VoucherNotFound) as missing:
        engine.redeem_stack(["A", "B", "C"])
    assert (missing.value.codes, shop.asked) == (("B",), ["A", "B", "C"])
    assert figures(engine, "A")["quantity"] == (5, 0, 0, 5)
    shop.known["B"] = gift("B")
    assert engine.validate_stack(["A", "B", "C"], session=lock("cart")).valid
    assert shop.asked == ["A", "B", "C", "B"]


@two_backends
def test_a_deleted_voucher_is_asked_for_again(make_engine: Make) -> None:
    shop = Shop(A=gift())
    engine = make_engine(loader=shop)
    engine.redeem("A", credits=40)
    engine.delete_voucher("A")
    assert engine.get_voucher("A").credits.used == 0
    del shop.known["A"]
    engine.delete_voucher("A")
    assert engine.validate("A").reason == "not_found"
    assert shop.asked == ["A", "A", "A"]


@two_backends
def test_a_session_that_is_not_live_is_refused_after_loading(make_engine: Make) -> None:
    engine = make_engine(loader=Shop(A=gift()))
    with pytest.raises(VoucherSessionsError) as refused:
        engine.redeem("A", session="cart")
    assert type(refused.value).__name__ == "SessionNotFound"
    assert engine.redeem("A", credits=5, session="cart", if_session_missing="redeem").credits == 5


# --- Several askers at once -----------------------------------------------------------------------------------------


@two_backends
def test_what_another_has_put_meanwhile_is_kept(make_engine: Make, backend: Backend) -> None:
    other = VoucherSessions(backend.client())

    def slow(code: str) -> tuple[Voucher, Used]:
        other.put_voucher(gift(code, credits=50))
        other.redeem(code, credits=20)
        return gift(code, credits=100), Used(credits=3)

    assert make_engine(loader=slow).redeem("A", credits=10).credits == 10
    assert figures(other, "A")["credits"] == (50, 30, 0, 20)


@two_backends
def test_threads_that_ask_at_once_put_one_voucher(backend: Backend) -> None:
    all_ask = threading.Barrier(4, timeout=60)

    def loader(code: str) -> tuple[Voucher, Used]:
        at = all_ask.wait()
        return gift(code, credits=100 + at), Used(credits=at)

    with VoucherSessions(backend.client(), loader=loader) as engine, ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda at: engine.redeem("A", credits=10, redemption_id=f"r{at}").credits, range(4)))
    state = engine.get_voucher("A")
    assert done == [10] * 4
    assert state.credits.limit is not None
    assert state.credits.used == 40 + (state.credits.limit - 100), "limit and used are of the same asker"


@two_backends
def test_tasks_that_ask_at_once_put_one_voucher(backend: Backend) -> None:
    async def run() -> None:
        asked, all_ask = 0, asyncio.Event()

        async def loader(code: str) -> tuple[Voucher, Used]:
            nonlocal asked
            asked += 1
            mine = asked
            if asked == 4:
                all_ask.set()
            await all_ask.wait()
            return gift(code, credits=100 + mine), Used(credits=mine)

        async with backend.async_client() as client, AsyncVoucherSessions(client, loader=loader) as engine:
            await asyncio.gather(*(engine.redeem("A", credits=10) for _ in range(4)))
            credits = (await engine.get_voucher("A")).credits
            assert credits.limit is not None
            assert credits.used == 40 + (credits.limit - 100)

    asyncio.run(asyncio.wait_for(run(), 60))


@two_backends
def test_a_slow_loader_does_not_block_other_calls(backend: Backend) -> None:
    async def run() -> None:
        is_asked, answers = asyncio.Event(), asyncio.Event()

        async def loader(code: str) -> Voucher:
            is_asked.set()
            await answers.wait()
            return gift(code)

        async with backend.async_client() as client, AsyncVoucherSessions(client, loader=loader) as engine:
            await engine.put_voucher(gift("known"))
            waiting: list[asyncio.Task[Any]] = [asyncio.create_task(engine.get_voucher(code)) for code in ("A", "B")]
            waiting.append(asyncio.create_task(engine.redeem("A", redemption_id="order", credits=1)))
            await is_asked.wait()
            assert (await engine.redeem("known", credits=5)).credits == 5
            assert (await engine.put_voucher(gift())).credits.limit == 100
            assert (await engine.redeem("A", credits=5, redemption_id="other")).credits == 5
            assert not any(task.done() for task in waiting)
            answers.set()
            await asyncio.gather(*waiting)
            assert (await engine.get_voucher("A")).credits.used == 6

    asyncio.run(asyncio.wait_for(run(), 60))


@two_backends
def test_a_call_that_is_cancelled_while_the_loader_works_changes_nothing(backend: Backend) -> None:
    async def run() -> None:
        is_asked = asyncio.Event()

        async def loader(code: str) -> Voucher:
            is_asked.set()
            await asyncio.Event().wait()
            raise AssertionError("it waits for ever")

        async with backend.async_client() as client, AsyncVoucherSessions(client, loader=loader) as engine:
            waiting = asyncio.create_task(engine.redeem("A", credits=1))
            await is_asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(asyncio.wait_for(run(), 60))
    assert not backend.keys()


# --- What it may be, return and raise -------------------------------------------------------------------------------


async def coroutine_loader(code: str) -> Voucher:
    return gift(code)


def returns_an_awaitable(code: str) -> Awaitable[Voucher]:
    return coroutine_loader(code)


class AsyncCallable:
    async def __call__(self, code: str) -> Voucher:
        return gift(code)


class MyAwaitable:
    """An awaitable that is no coroutine."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __await__(self) -> Generator[Any, None, Voucher]:
        yield from ()
        return gift(self._code)


ASYNC_LOADERS: list[Any] = [
    coroutine_loader,
    returns_an_awaitable,
    AsyncCallable(),
    MyAwaitable,
    partial(coroutine_loader),
]


def kind(loader: object) -> str:
    """A test id that is the same in every process. A repr contains an address."""
    name: str = getattr(loader, "__name__", type(loader).__name__)
    return name


@pytest.mark.parametrize("loader", [*ASYNC_LOADERS, gift], ids=kind)
def test_the_asyncio_engine_takes_every_kind_of_function(loader: Any) -> None:
    async def run() -> None:
        async with AsyncVoucherSessions.from_url("memory://", loader=loader) as engine:
            assert (await engine.redeem("A", credits=5)).credits == 5
            found: list[Any] = await engine.pipeline().get_voucher("B").get_voucher("A").execute()
            assert [state.credits.used for state in found] == [0, 5]

    asyncio.run(run())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loader", ASYNC_LOADERS, ids=kind)
def test_the_sync_engine_takes_no_coroutine(loader: Any) -> None:
    client = fakeredis.FakeRedis()
    with pytest.raises(InvalidRequest) as refused:
        untyped.VoucherSessions(client, loader=loader).get_voucher("A")
    assert refused.value.field == "loader"
    assert not client.keys()


@pytest.mark.parametrize(
    "loader", [coroutine_loader, partial(coroutine_loader), 5, "loader", {}, gift(), True], ids=kind
)
def test_what_is_no_loader_is_refused_when_the_engine_is_made(monkeypatch: pytest.MonkeyPatch, loader: Any) -> None:
    monkeypatch.setattr(urls, "open_url", None)
    makes: list[Callable[..., object]] = [
        partial(untyped.VoucherSessions, fakeredis.FakeRedis()),
        partial(untyped.VoucherSessions.from_url, "embedded://"),
    ]
    if not callable(loader):
        makes += [
            partial(untyped.AsyncVoucherSessions, fakeredis.FakeAsyncRedis()),
            partial(untyped.AsyncVoucherSessions.from_url, "embedded://"),
        ]
    for make in makes:
        with pytest.raises(InvalidRequest) as refused:
            make(loader=loader)
        assert refused.value.field == "loader"


def test_a_loader_is_an_option_of_from_url() -> None:
    with VoucherSessions.from_url("memory://", loader=lambda code: (gift(code), Used(credits=9))) as engine:
        assert engine.get_voucher("A").credits.used == 9
    with VoucherSessions.from_url("memory://", loader=None) as engine, pytest.raises(VoucherNotFound):
        engine.get_voucher("A")


def of_stack(engine: Any, code: str) -> object:
    return engine.redeem_stack(["Z", code])


NOT_LOADED: list[Any] = [
    gift("a"),
    (gift("B"), Used()),
    gift().model_dump(),
    "A",
    0,
    False,
    [gift(), Used()],
    (gift(),),
    (gift(), Used(), None),
    (Used(), gift()),
    (gift(), 5),
    (None, Used()),
    Voucher,
    Voucher.model_construct(code="A", quantity=-1, credits=0, points=0),
    (gift(), Used.model_construct(quantity=0, credits="9", points=0)),
    ValueError("returned, not raised"),
]


@two_backends
def test_what_is_no_voucher_of_that_code_is_refused(
    make_engine: Make, backend: Backend, execute: Callable[..., list[Any]]
) -> None:
    given: Any = None
    engine = make_engine(loader=lambda code: given if code == "A" else gift(code))
    pipe = engine.pipeline()
    for given in NOT_LOADED:
        for call in (*ASKING.values(), of_stack):
            with pytest.raises(InvalidRequest) as refused:
                call(engine, "A")
            assert refused.value.field.partition(".")[0] == "loader", given
        pipe.get_voucher("A")
    for refused_at_its_place in execute(pipe, raise_on_error=False):
        assert isinstance(refused_at_its_place, InvalidRequest)
    assert not backend.keys(), "nor the other vouchers of a stack"


@two_backends
@pytest.mark.parametrize(
    "error", [LookupError("no database"), VoucherNotFound("A"), redis.exceptions.RedisError("x")], ids=kind
)
def test_what_it_raises_reaches_the_caller_and_nothing_has_changed(
    make_engine: Make, backend: Backend, execute: Callable[..., list[Any]], error: Exception
) -> None:
    engine = make_engine(loader=Shop(A=error, Z=gift("Z"), known=gift("known")))
    for call in (*ASKING.values(), of_stack):
        with pytest.raises(type(error)) as raised:
            call(engine, "A")
        assert raised.value is error
        assert not backend.keys()
    assert execute(engine.pipeline().get_voucher("A").redeem_stack(["Z", "A"]), raise_on_error=False) == [error, error]
    assert not backend.keys()


def test_keyboard_interrupt_and_system_exit_reach_the_caller(backend: Backend) -> None:
    for error in (KeyboardInterrupt(), SystemExit(3)):
        engine = VoucherSessions(backend.client(), loader=Shop(A=error))
        with pytest.raises(type(error)) as raised:
            engine.redeem("A")
        assert raised.value is error
        with pytest.raises(type(error)):
            engine.pipeline().redeem("A").execute()
    assert not backend.keys()


@two_backends
@pytest.mark.parametrize("error", [StopIteration("x"), StopAsyncIteration("x")], ids=kind)
def test_the_end_of_an_iteration_reaches_the_caller(
    make_engine: Make, backend: Backend, execute: Callable[..., list[Any]], error: Exception
) -> None:
    """A loader raises it by ``next`` of an empty cursor. A coroutine cannot: Python makes a RuntimeError of it."""
    engine: Any = make_engine(loader=Shop(A=error, Z=gift("Z"), known=gift("known")))
    is_wrapped = isinstance(engine, BlockingAsync) and isinstance(error, StopIteration)
    acts: list[Callable[[], object]] = [partial(call, engine, "A") for call in (*ASKING.values(), of_stack)]
    acts.append(lambda: execute(engine.pipeline().get_voucher("Z").get_voucher("A")))
    for act in acts:
        with pytest.raises(RuntimeError if is_wrapped else type(error)) as raised:
            act()
        assert (raised.value.__cause__ if is_wrapped else raised.value) is error
        if act is not acts[-1]:
            assert not backend.keys()
    assert execute(engine.pipeline().get_voucher("A"), raise_on_error=False) == [error]


# --- Pipelines ------------------------------------------------------------------------------------------------------


def test_in_a_pipeline_only_calls_whose_voucher_was_loaded_are_sent_again(
    make_engine: Make, execute: Callable[..., list[Any]]
) -> None:
    broken = LookupError("no database")
    shop = Shop(A=gift(), B=(gift("B"), Used(credits=9)), broken=broken, wrong=gift("other"))
    engine = make_engine(loader=shop)
    engine.put_voucher(gift("known"))
    pipe = engine.pipeline()
    pipe.redeem("known", credits=1).get_voucher("A").validate("A", credits=20, session=lock("cart"))
    pipe.redeem("A", session="cart").get_voucher("nobody").get_voucher("broken").validate("wrong")
    pipe.redeem_stack(["A", "nobody"]).validate_stack(["A", "broken"], session=lock("cart"))
    pipe.validate("nobody").release("B", "cart").redeem_stack(
        [{"code": "B", "credits": 2}, {"code": "known", "credits": 3}]
    )
    results = execute(pipe, raise_on_error=False)
    first, state, validation, redemption, nobody, failed, wrong, no_stack, failed_stack, not_found, release, stack = (
        results
    )
    assert (first.credits, state.credits.used, validation.valid, redemption.credits) == (1, 0, True, 20)
    assert (nobody.codes, failed, wrong.field) == (("nobody",), broken, "loader")
    assert (no_stack.codes, failed_stack, not_found.reason) == (("nobody",), broken, "not_found")
    assert (release.released, len(stack.redemptions)) == (False, 2)
    assert sorted(shop.asked) == ["A", "B", "broken", "nobody", "wrong"], "each code once"
    assert (figures(engine, "A")["quantity"][1], figures(engine, "A")["credits"][:3]) == (1, (100, 20, 0))
    assert (figures(engine, "B")["credits"][1], figures(engine, "known")["credits"][1]) == (11, 4)
    engine.delete_voucher("A")
    with pytest.raises(LookupError) as raised:
        execute(engine.pipeline().get_voucher("broken").redeem("A", credits=3))
    assert raised.value is broken
    assert figures(engine, "A")["credits"] == (100, 3, 0, 97), "the others were called"


@two_backends
def test_in_a_pipeline_a_call_whose_voucher_is_loaded_runs_after_those_behind_it(
    make_engine: Make, execute: Callable[..., list[Any]]
) -> None:
    engine = make_engine(loader=Shop(A=gift()))
    validation, release, extension = execute(
        engine.pipeline().validate("A", session=lock("cart")).release("A", "cart").extend("A", "cart"),
        raise_on_error=False,
    )
    assert (validation.valid, release.released, type(extension)) == (True, False, VoucherNotFound)
    assert engine.get_session("A", "cart").key == "cart", "the lock stays"
    assert execute(engine.pipeline().release("A", "cart"))[0].released, "the next pipeline finds it"


@two_backends
def test_a_refusal_after_loading_has_its_place(make_engine: Make, execute: Callable[..., list[Any]]) -> None:
    engine = make_engine(loader=lambda code: Voucher(code=code, quantity=1))
    first, second = execute(engine.pipeline().redeem("A").redeem("A"), raise_on_error=False)
    assert (first.quantity, type(second)) == (1, QuantityExceeded)


# --- Lost replies, and durability -----------------------------------------------------------------------------------

NOT_FOUND = [b"answered", 5, b"not_found", 0, 0, 0, 0, 0, 0, 0, 0]
MISSING = [b"voucher_missing", 1]
LOST = redis.exceptions.ConnectionError("gone")
NOT_SENT = redis.exceptions.MaxConnectionsError("no connection is free")
SCRIPTED: dict[str, tuple[list[Any], Callable[[Any], Any], dict[str, str] | None]] = {
    "validate": (NOT_FOUND, lambda engine: engine.validate("A"), None),
    "a session": (NOT_FOUND, lambda engine: engine.validate("A", session=lock("cart")), {"session_key": "cart"}),
    "get_voucher": (MISSING, lambda engine: engine.get_voucher("A"), None),
    "redeem": (
        MISSING,
        lambda engine: engine.redeem("A", session="cart", redemption_id="order"),
        {"session_key": "cart", "redemption_id": "order"},
    ),
    "adjust": (
        MISSING,
        lambda engine: engine.adjust("A", credits=1, adjustment_id="top-up"),
        {"adjustment_id": "top-up"},
    ),
}


def on_both_with_loader(act: Callable[[Any], Any], *replies: Any) -> list[tuple[Any, int]]:
    """The outcome on the sync and on the asyncio engine, and how many commands were sent."""
    client, async_client = ScriptedClient(*replies), AsyncScriptedClient(*replies)
    sync = untyped.VoucherSessions(client, loader=gift)
    waiting = untyped.AsyncVoucherSessions(async_client, loader=coroutine_loader)

    async def run() -> Any:
        return await act(waiting)

    return [
        (outcome(lambda: act(sync)), len(client.sent)),
        (outcome(lambda: asyncio.run(run())), len(async_client.sent)),
    ]


@pytest.mark.parametrize("verb", SCRIPTED)
def test_a_lost_reply_of_its_put_is_the_outer_calls(verb: str) -> None:
    reply, act, carried = SCRIPTED[verb]
    for error, _ in on_both_with_loader(act, reply, LOST):
        assert type(error) is (OutcomeUnknown if carried else ServerUnavailable)
        assert (error.verb, error.codes) == ("validate" if verb == "a session" else verb, ("A",))
        for name, value in (carried or {}).items():
            assert getattr(error, name) == value
        assert "put_voucher" not in str(error)
        assert "cart" not in repr(error.__cause__)


@pytest.mark.parametrize("verb", SCRIPTED)
def test_if_its_put_was_not_sent_nothing_has_changed(verb: str) -> None:
    reply, act, _ = SCRIPTED[verb]
    for error, _ in on_both_with_loader(act, reply, NOT_SENT):
        assert type(error) is ServerUnavailable
        assert error.verb == ("validate" if verb == "a session" else verb)


@pytest.mark.parametrize("verb", SCRIPTED)
def test_if_its_put_is_refused_the_call_is_refused_for_the_same_reason(verb: str) -> None:
    reply, act, _ = SCRIPTED[verb]
    for error, _ in on_both_with_loader(act, reply, redis.exceptions.OutOfMemoryError("full")):
        assert type(error) is ServerRefused


@pytest.mark.parametrize("verb", SCRIPTED)
def test_a_lost_reply_after_its_put(verb: str) -> None:
    reply, act, carried = SCRIPTED[verb]
    put = [b"put", 1, 5, 100, 0, 0, 0, 0, 0, 0, 0]
    for error, _ in on_both_with_loader(act, reply, put, LOST):
        assert type(error) is (OutcomeUnknown if carried else ServerUnavailable)


def test_in_a_pipeline_a_lost_reply_of_its_put_is_each_calls() -> None:
    def act(engine: Any) -> Any:
        pipe = engine.pipeline().redeem("A", redemption_id="order").get_voucher("A").validate("A", session=lock("cart"))
        return pipe.execute(raise_on_error=False)

    for errors, _ in on_both_with_loader(act, MISSING, MISSING, NOT_FOUND, LOST):
        assert list(map(type, errors)) == [OutcomeUnknown, ServerUnavailable, OutcomeUnknown]
        assert [each.verb for each in errors] == ["redeem", "get_voucher", "validate"]
        assert (errors[0].redemption_id, errors[2].session_key) == ("order", "cart")


def test_in_a_pipeline_a_refused_put_fails_only_the_calls_that_need_it() -> None:
    def act(engine: Any) -> Any:
        return engine.pipeline().get_voucher("A").get_voucher("B").execute(raise_on_error=False)

    full = redis.exceptions.OutOfMemoryError("full")
    state = [b"state", 5, 100, 0, 0, 0, 0, 0, 0, 0]
    for (refused, found), _ in on_both_with_loader(act, MISSING, state, full):
        assert type(refused) is ServerRefused
        assert found.credits.limit == 100


@on_valkey
def test_a_put_that_is_not_durable_does_not_stop_the_call(
    make_engine: Make, backend: Backend, execute: Callable[..., list[Any]]
) -> None:
    """No replica is there to confirm anything."""
    shop = Shop(**{code: gift(code) for code in "ABCDEF"})
    engine = make_engine(loader=shop, durability=Durability(replicas=1, timeout_ms=1))
    assert engine.get_voucher("A").credits.limit == 100
    for call, code, fact in (
        (lambda: engine.redeem("B", credits=5), "B", "credits"),
        (lambda: engine.validate("C", credits=5, session=lock("cart")), "C", "valid"),
        (lambda: engine.validate_stack(["D"], session=lock("cart")), "D", "valid"),
    ):
        with pytest.raises(NotDurable) as raised:
            call()
        assert getattr(raised.value.result, fact)
        assert shop.asked[-1] == code
    first, second = execute(
        engine.pipeline().validate("E", session=lock("cart")).redeem("F", credits=5), raise_on_error=False
    )
    assert (type(first), first.result.valid, type(second), second.result.credits) == (NotDurable, True, NotDurable, 5)
    assert shop.asked == list("ABCDEF")
    with pytest.raises(NotDurable) as raised:
        engine.validate("nobody", session=lock("cart"))
    assert raised.value.result.reason == "not_found"

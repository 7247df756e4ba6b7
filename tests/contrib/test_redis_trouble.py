"""What ``redis_trouble`` does to the engines of a test: on fakeredis and on a real server, sync and asyncio."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from conftest import BlockingAsync
from redis.exceptions import ConnectionError as RedisConnectionError
from support.sessions import lock

from voucher_sessions import Durability, OutcomeUnknown, ServerUnavailable, Voucher, VoucherSessions
from voucher_sessions.contrib import testing
from voucher_sessions.contrib.testing import RedisTrouble, Server

MakeEngine = Callable[..., Any]


@pytest.fixture(scope="module")
def embedded() -> Iterator[Server]:
    with testing.embedded_server() as server:
        yield server


@pytest.fixture(params=["memory", "embedded"])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "memory":
        return testing.memory_server()
    server: Server = request.getfixturevalue("embedded")
    return server


@pytest.fixture
def trouble() -> RedisTrouble:
    return RedisTrouble()


@pytest.fixture
def untroubled(server: Server, request: pytest.FixtureRequest) -> Iterator[VoucherSessions]:
    """An engine over the same vouchers that sees none of the trouble, as that of another shop would."""
    with VoucherSessions.from_url(server.url, prefix=request.node.name, **server.client_options) as engine:
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        yield engine


@pytest.fixture(params=["sync", "async"])
def make_engine(
    server: Server, trouble: RedisTrouble, loop: asyncio.AbstractEventLoop, request: pytest.FixtureRequest
) -> MakeEngine:
    def make(**options: Any) -> Any:
        options = {"prefix": request.node.name, **options}
        if request.param == "async":
            return BlockingAsync(testing.async_engine(server, trouble, options), loop)
        opened = testing.sync_engine(server, trouble, options)
        request.addfinalizer(lambda: opened.__exit__(None, None, None))
        return opened.__enter__()

    return make


@pytest.fixture
def engine(untroubled: VoucherSessions, make_engine: MakeEngine) -> Any:
    return make_engine()


def used(engine: VoucherSessions) -> int:
    return engine.get_voucher("GIFT").credits.used


def test_a_lost_reply_leaves_the_outcome_unknown_and_the_change_done(
    engine: Any, trouble: RedisTrouble, untroubled: VoucherSessions
) -> None:
    trouble.lose_replies(1)
    with pytest.raises(OutcomeUnknown) as caught:
        engine.redeem("GIFT", credits=30, redemption_id="order")
    assert caught.value.redemption_id == "order"
    assert trouble.replies_to_lose == 0
    assert used(untroubled) == 30
    assert engine.redeem("GIFT", credits=30, redemption_id="order").replayed
    assert used(untroubled) == 30


def test_as_many_replies_are_lost_as_named(engine: Any, trouble: RedisTrouble, untroubled: VoucherSessions) -> None:
    trouble.lose_replies(3)
    for left in (2, 1, 0):
        with pytest.raises(OutcomeUnknown):
            engine.redeem("GIFT", credits=30, redemption_id=f"order-{left}")
        assert trouble.replies_to_lose == left
    assert engine.redeem("GIFT", credits=10, redemption_id="order").credits == 10
    assert used(untroubled) == 100


def test_the_lost_reply_to_a_call_that_only_reads(engine: Any, trouble: RedisTrouble) -> None:
    trouble.lose_replies(2)
    for read in (engine.ping, lambda: engine.get_voucher("GIFT")):
        with pytest.raises(ServerUnavailable, match=r"redis_trouble.lose_replies\(\): the reply was lost"):
            read()
    assert engine.get_voucher("GIFT").credits.limit == 100


def test_an_execution_of_a_pipeline_is_one_reply(
    engine: Any, trouble: RedisTrouble, untroubled: VoucherSessions, execute: Callable[..., list[Any]]
) -> None:
    trouble.lose_replies(1)
    pipe = engine.pipeline()
    for number in range(3):
        pipe.redeem("GIFT", credits=10, redemption_id=f"order-{number}")
    assert [type(each) for each in execute(pipe, raise_on_error=False)] == [OutcomeUnknown] * 3
    assert trouble.replies_to_lose == 0
    assert used(untroubled) == 30


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_lost_reply_with_durability(
    make_engine: MakeEngine, trouble: RedisTrouble, untroubled: VoucherSessions
) -> None:
    """A script that the server does not know has not run: the reply that says so is not one of those to be lost."""
    untroubled.client.script_flush()
    engine = make_engine(durability=Durability(fsync=True))
    trouble.lose_replies(1)
    with pytest.raises(OutcomeUnknown):
        engine.redeem("GIFT", credits=30, redemption_id="order")
    assert used(untroubled) == 30
    assert engine.redeem("GIFT", credits=30, redemption_id="order").replayed


def test_while_the_server_is_down_nothing_changes(
    engine: Any, trouble: RedisTrouble, untroubled: VoucherSessions, execute: Callable[..., list[Any]]
) -> None:
    engine.validate("GIFT", credits=30, session=lock("cart"))
    trouble.down()
    pipe = engine.pipeline()
    pipe.redeem("GIFT", credits=1)
    for call in (
        engine.ping,
        lambda: engine.get_voucher("GIFT"),
        lambda: engine.validate("GIFT", credits=10, session=lock("cart")),
        lambda: engine.redeem("GIFT", credits=30, session="cart"),
        lambda: execute(pipe),
    ):
        with pytest.raises(ServerUnavailable, match=r"redis_trouble.down\(\): the server is down"):
            call()
    assert used(untroubled) == 0
    trouble.end()
    assert engine.redeem("GIFT", session="cart").credits == 30


def test_a_slow_server_does_what_it_was_asked_for(
    engine: Any, trouble: RedisTrouble, untroubled: VoucherSessions
) -> None:
    engine.ping()
    trouble.slow(500)
    begun = time.monotonic()
    assert engine.redeem("GIFT", credits=30).credits == 30
    assert time.monotonic() - begun > 0.49
    assert used(untroubled) == 30
    trouble.end()
    begun = time.monotonic()
    engine.ping()
    assert time.monotonic() - begun < 0.49


def test_a_slow_call_that_is_cancelled_has_taken_effect(
    server: Server, trouble: RedisTrouble, untroubled: VoucherSessions, request: pytest.FixtureRequest
) -> None:
    async def give_up() -> None:
        engine = testing.async_engine(server, trouble, {"prefix": request.node.name})
        await engine.ping()
        with trouble.slow(60_000), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await engine.redeem("GIFT", credits=30)
        await engine.ping()

    asyncio.run(give_up())
    assert used(untroubled) == 30


@pytest.mark.parametrize("method", ["down", "lose_replies", "slow"])
def test_in_a_with_statement_the_trouble_ends_with_the_block(engine: Any, trouble: RedisTrouble, method: str) -> None:
    arguments = {"down": (), "lose_replies": (5,), "slow": (500,)}[method]
    begun = time.monotonic()
    expected = nullcontext() if method == "slow" else pytest.raises(ServerUnavailable)
    with getattr(trouble, method)(*arguments), expected:
        engine.ping()
    assert method != "slow" or time.monotonic() - begun > 0.49
    begun = time.monotonic()
    engine.ping()
    assert time.monotonic() - begun < 0.49
    assert trouble.replies_to_lose == 0


@pytest.mark.parametrize("make_engine", ["sync"], indirect=True)
def test_the_client_of_the_engine_has_the_same_trouble(engine: Any, trouble: RedisTrouble) -> None:
    with trouble.down(), pytest.raises(RedisConnectionError):
        engine.client.get("something of the shop's own")


def test_both_engines_of_a_test_have_the_same_vouchers_and_the_same_trouble(
    server: Server, trouble: RedisTrouble, request: pytest.FixtureRequest
) -> None:
    options = {"prefix": request.node.name}
    asynchronous = testing.async_engine(server, trouble, options)
    with testing.sync_engine(server, trouble, options) as engine:
        engine.put_voucher(Voucher(code="GIFT", credits=100))
        trouble.lose_replies(2)
        with pytest.raises(OutcomeUnknown):
            engine.redeem("GIFT", credits=10)
        with pytest.raises(OutcomeUnknown):
            asyncio.run(asynchronous.redeem("GIFT", credits=10))
        assert asyncio.run(asynchronous.get_voucher("GIFT")).credits.used == 20


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_more_calls_at_once_than_a_pool_has_connections(
    kind: str, server: Server, trouble: RedisTrouble, request: pytest.FixtureRequest
) -> None:
    """redis-py's pools have 100 by default. A shop's own engine waits for one of them; no call fails for the lack of it."""
    calls, options = 120, {"prefix": request.node.name}
    with testing.sync_engine(server, trouble, options) as engine:
        engine.put_voucher(Voucher(code="GIFT", credits=calls))
        trouble.slow(100)
        if kind == "sync":
            with ThreadPoolExecutor(calls) as threads:
                list(threads.map(lambda _: engine.redeem("GIFT", credits=1), range(calls)))
        else:
            asynchronous = testing.async_engine(server, trouble, options)

            async def redeem_at_once() -> None:
                await asyncio.gather(*(asynchronous.redeem("GIFT", credits=1) for _ in range(calls)))

            asyncio.run(redeem_at_once())
        trouble.end()
        assert used(engine) == calls


def test_an_asyncio_engine_serves_many_tasks_and_one_event_loop_after_the_other(
    server: Server, trouble: RedisTrouble, request: pytest.FixtureRequest
) -> None:
    engine = testing.async_engine(server, trouble, {"prefix": request.node.name})

    async def redeem_often() -> None:
        await engine.put_voucher(Voucher(code="GIFT", credits=100), if_exists="keep")
        await asyncio.gather(*(engine.redeem("GIFT", credits=1) for _ in range(20)))

    for _ in range(3):
        asyncio.run(redeem_often())
    assert asyncio.run(engine.get_voucher("GIFT")).credits.used == 60


def test_without_fakeredis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    with pytest.raises(ImportError, match=r"voucher-sessions\[memory\]"):
        testing.memory_server()

"""The connection that all tasks of an event loop share: order, cancellation, overload, timeouts and lost replies."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio
from support.servers import Server, running
from support.sessions import lock
from support.waiting import until

from transport.relay import Relay, packed
from transport.shared_engines import (
    CODES,
    all_credits_of,
    connections,
    credits_of,
    engine_on,
    fill,
    ids,
    no_retries,
    number_of,
    stalled,
)
from voucher_sessions import (
    AsyncVoucherSessions,
    CorruptState,
    Durability,
    OutcomeUnknown,
    ServerUnavailable,
    Voucher,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions._transport import clients, group_commit, keys_in_use, shared_connection

NUMBERS = list(map(number_of, CODES))


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Iterator[Server]:
    server = server_of("valkey")
    fill(server)
    yield server
    with server.client() as client:
        assert not any(VoucherSessions(client).audit(code).differs for code in CODES)


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with Relay(server.socket) as relay:
        yield relay


async def until_idle(relay: Relay) -> None:
    """Until all that was sent has its reply."""
    await asyncio.to_thread(until, lambda: relay.replies == len(relay.calls))


# --- Many at once --------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
@pytest.mark.parametrize("number", [1_000, 10_000])
def test_thousands_of_tasks_at_once_use_one_connection(server: Server, number: int) -> None:
    codes = [CODES[at % len(CODES)] for at in range(number)]

    async def main() -> None:
        async with engine_on(server) as engine:
            orders = (engine.redeem(code, credits=1, redemption_id=f"{at}") for at, code in enumerate(codes))
            read, paid = await asyncio.gather(all_credits_of(engine, codes), asyncio.gather(*orders))
            assert read == list(map(number_of, codes))
            assert [(each.code, each.id) for each in paid] == [(code, f"{at}") for at, code in enumerate(codes)]
            assert len(connections(server)) == 1

    asyncio.run(main())


def test_calls_are_written_together_and_none_waits_for_the_reply_to_another(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await credits_of(engine, CODES[0])
            relay.hold()
            reading = asyncio.create_task(all_credits_of(engine, CODES))
            await relay.came(100)
            assert relay.replies == 0
            assert len(relay.reads) <= 100 / shared_connection._WRITTEN_AT_ONCE + 4
            relay.let_go()
            assert await reading == NUMBERS

    asyncio.run(main())
    assert relay.connections == 1


def test_replies_of_different_lengths_reach_their_own_tasks(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server) as engine:
            await asyncio.gather(*(engine.validate("V0", session=lock(f"cart-{at}")) for at in range(200)))
            listed: Any
            listed, sessions, *read = await asyncio.gather(
                engine.list_sessions("V0", limit=200),
                engine.list_sessions("V1"),
                *(credits_of(engine, code) for code in CODES),
            )
            assert (len(listed), sessions, read) == (200, [], NUMBERS)

    asyncio.run(main())


def test_a_pipeline_shares_the_connection(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            pipe = engine.pipeline()
            for code in CODES:
                pipe.get_voucher(code)
            states: Any
            states, read = await asyncio.gather(pipe.execute(), all_credits_of(engine, CODES))
            assert [each.credits.limit for each in states] == read == NUMBERS

    asyncio.run(main())
    assert relay.connections == 1


# --- Cancelled -----------------------------------------------------------------------------------------------------


def test_a_call_that_is_cancelled_before_it_is_written_is_not_sent(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await engine.redeem("V0", credits=1)
            relay.forget()
            task = asyncio.create_task(engine.redeem("V1", credits=1))
            await asyncio.sleep(0)
            task.cancel()
            assert await credits_of(engine, "V2") == number_of("V2")
            assert [command[3] for command in relay.calls] == [b"vs:{V2}"]
            assert task.cancelled()

    asyncio.run(main())


def test_the_reply_to_a_cancelled_call_is_dropped(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await credits_of(engine, "V0")
            relay.hold()
            tasks = [asyncio.create_task(credits_of(engine, code)) for code in CODES]
            await relay.came(100)
            for task in tasks[::2]:
                task.cancel()
            relay.let_go()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[1::2] == NUMBERS[1::2]
            assert all(isinstance(each, asyncio.CancelledError) for each in results[::2])
            assert await credits_of(engine, "V0") == number_of("V0")

    asyncio.run(main())
    assert relay.connections == 1


# --- Overload ------------------------------------------------------------------------------------------------------


def reads(engine: AsyncVoucherSessions, at: int) -> Any:
    return engine.get_voucher(CODES[at % 100])


def changes(engine: AsyncVoucherSessions, at: int) -> Any:
    return engine.redeem(CODES[at % 100], credits=1, redemption_id=f"order-{at}")


def changes_of_one_key(engine: AsyncVoucherSessions, at: int) -> Any:
    return engine.put_voucher(Voucher(code="one"))


@pytest.fixture
def at_most_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many calls may wait."""
    monkeypatch.setattr(shared_connection, "MAX_EXCHANGES", 10)


@pytest.mark.parametrize("retry_seconds", [0, 30], ids=["one server", "as with Sentinel"])
@pytest.mark.parametrize("call", [reads, changes])
@pytest.mark.usefixtures("at_most_ten")
def test_what_is_too_much_is_refused_at_once_and_not_sent(
    server: Server, relay: Relay, call: Any, retry_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "retry_period_seconds", lambda client: retry_seconds)

    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await call(engine, 99)
            relay.hold()
            tasks = [asyncio.ensure_future(call(engine, at)) for at in range(15)]
            done, waiting = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                with pytest.raises(ServerUnavailable, match="10 calls wait for this server already"):
                    task.result()
            assert (len(done), len(waiting)) == (5, 10)
            relay.let_go()
            await asyncio.gather(*waiting)
            assert len(relay.calls) == 10
            await asyncio.gather(*(call(engine, at) for at in range(10)))

    asyncio.run(main())


@pytest.mark.parametrize("durability", [None, Durability(replicas=1, timeout_ms=20)], ids=["", "durable"])
@pytest.mark.parametrize("call", [reads, changes, changes_of_one_key])
def test_a_producer_that_never_waits_fills_no_more_than_the_queue(
    server: Server, relay: Relay, call: Any, durability: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (shared_connection, group_commit, keys_in_use):
        monkeypatch.setattr(module, "MAX_EXCHANGES" if module is not keys_in_use else "MAX_WAITING", 50)

    async def main() -> None:
        # A busy machine takes more than the 5 seconds of redis-py.
        async with engine_on(server, durability, port=relay.port, socket_timeout=60) as engine:
            await credits_of(engine, "V99")
            relay.hold()
            refused: list[Exception] = []

            async def one(at: int) -> None:
                try:
                    await call(engine, at)
                except VoucherSessionsError as error:
                    refused.append(error)

            tasks = set()
            for at in range(2_000):
                tasks.add(task := asyncio.ensure_future(one(at)))
                task.add_done_callback(tasks.discard)
                if at % 10 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(tasks) <= 3 * 50
            assert {type(each) for each in refused} == {ServerUnavailable}
            assert all("calls wait for" in str(each) for each in refused)
            relay.let_go()
            await asyncio.gather(*tasks)

    asyncio.run(main())


# --- Timeouts ------------------------------------------------------------------------------------------------------


def test_a_server_that_stops_answering_makes_calls_fail_as_what_they_are(server: Server) -> None:
    async def main(stopped: Server) -> None:
        async with engine_on(stopped, socket_timeout=0.5, retry=no_retries()) as engine:
            await credits_of(engine, "V0")
            os.kill(stopped.process.pid, signal.SIGSTOP)
            try:
                calls = [call(engine, at) for at in range(20) for call in (reads, changes)]
                results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
                later = await asyncio.wait_for(asyncio.gather(*calls_again(engine), return_exceptions=True), 30)
            finally:
                os.kill(stopped.process.pid, signal.SIGCONT)
            assert [type(each) for each in results] == [ServerUnavailable, OutcomeUnknown] * 20
            assert all(stalled(each) for each in results if isinstance(each, BaseException))
            assert [type(each) for each in later] == [ServerUnavailable] * 2, "nothing was sent: no connection"
            assert (await engine.redeem("V0", credits=1, redemption_id="order-0")).id == "order-0"

    def calls_again(engine: AsyncVoucherSessions) -> list[Any]:
        return [reads(engine, 0), changes(engine, 0)]

    with running("valkey") as stopped:
        fill(stopped)
        asyncio.run(main(stopped))


def test_calls_that_wait_for_a_connection_to_a_silent_server_fail_as_not_sent() -> None:
    async def main(port: int) -> None:
        async with redis.asyncio.Redis(port=port, socket_timeout=0.3, retry=no_retries()) as client:
            engine = AsyncVoucherSessions(client)
            calls = [call(engine, at) for at in range(20) for call in (reads, changes)]
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
            assert {type(each) for each in results} == {ServerUnavailable}
            await engine.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(main(listening.getsockname()[1]))


def test_replies_that_come_one_by_one_are_waited_for_longer_than_the_timeout(server: Server, relay: Relay) -> None:
    """Each comes within ``socket_timeout`` after the one before it."""

    async def main() -> None:
        async with engine_on(server, port=relay.port, socket_timeout=1.5, retry=no_retries()) as engine:
            await credits_of(engine, "V0")
            relay.hold()
            reading = asyncio.create_task(all_credits_of(engine, CODES[:7]))
            await relay.came(7)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            while not reading.done():
                await asyncio.wait([reading], timeout=0.4)
                relay.let_go(1)
            assert loop.time() - begun > 1.5
            assert await reading == NUMBERS[:7]

    asyncio.run(main())


def test_calls_made_at_the_moment_of_the_timeout_use_a_new_connection(server: Server, relay: Relay) -> None:
    """They must not be written to the connection that has just been given up."""

    async def main() -> None:
        async with engine_on(server, port=relay.port, socket_timeout=30, retry=no_retries()) as engine:
            await credits_of(engine, "V0")
            relay.hold()
            given_up = asyncio.ensure_future(credits_of(engine, "V1"))
            await relay.came(1)
            relay.let_go(0)
            (shared,) = all_shared(engine)
            few = shared_connection._WRITTEN_AT_ONCE - 1  # more would be written at once
            late = [asyncio.ensure_future(credits_of(engine, code)) for code in CODES[:few]]
            await asyncio.sleep(0)  # they are about to be written
            shared._last_progress -= 30
            shared._check_progress()
            relay.let_go()
            with pytest.raises(ServerUnavailable, match="no reply within 30 s"):
                await given_up
            assert await asyncio.gather(*late) == NUMBERS[:few]

    asyncio.run(main())


def all_shared(engine: AsyncVoucherSessions) -> list[Any]:
    """The shared connections of this event loop."""
    sender: Any = engine._transport._sender
    return [each.shared for each in sender._servers[asyncio.get_running_loop()].values()]


# --- Connections that end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocked", [False, True])
def test_a_connection_that_the_server_closed_while_it_was_idle_costs_no_error(server: Server, blocked: bool) -> None:
    """Not even if the event loop was blocked, so that it has not seen it."""

    def closed() -> bool:
        with server.client() as admin:
            for number in ids(connections(server)):
                admin.client_kill_filter(_id=number)
        return not connections(server)

    def idle_since(begun: float) -> Callable[[], bool]:
        return lambda: time.monotonic() > begun + 0.002

    async def main() -> None:
        async with engine_on(server, retry=no_retries()) as engine:
            for at in range(5):
                if blocked:
                    until(closed)
                    until(idle_since(asyncio.get_running_loop().time()))
                else:
                    await asyncio.to_thread(until, closed)
                assert (await changes(engine, at)).id == f"order-{at}"

    asyncio.run(main())


def test_a_connection_that_was_idle_longer_than_the_health_check_interval_is_replaced(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, retry=no_retries(), health_check_interval=1) as engine:
            await credits_of(engine, "V0")
            first = ids(connections(server))
            await credits_of(engine, "V0")
            assert ids(connections(server)) == first
            (shared,) = all_shared(engine)
            shared._last_progress -= 1.1
            await credits_of(engine, "V0")
            await asyncio.to_thread(until, lambda: len(connections(server)) == 1)
            assert ids(connections(server)) != first

    asyncio.run(main())


def test_calls_in_flight_are_sent_again_when_the_connection_is_cut(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server) as engine:
            for at in range(0, 1000, 100):
                paying = [asyncio.ensure_future(changes(engine, at + number)) for number in range(100)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                with server.client() as admin, suppress(redis.ResponseError):
                    for number in ids(connections(server)):
                        admin.client_kill_filter(_id=number)
                assert [each.id for each in await asyncio.gather(*paying)] == [f"order-{at + n}" for n in range(100)]
        with server.client() as client:
            assert [VoucherSessions(client).get_voucher(code).quantity.used for code in CODES] == [10] * 100

    asyncio.run(main())


# --- Replies that are not to be expected ---------------------------------------------------------------------------

FOREIGN = {
    "text": b"$7\r\nforeign\r\n",
    "error": b"-ERR foreign\r\n",
    "script-error": b"-ERR foreign script: x, on @user_script:1.\r\n",
    "noscript": b"-NOSCRIPT foreign\r\n",
    "list": b"*2\r\n$3\r\nabc\r\n:1\r\n",
}


@pytest.mark.parametrize("foreign", [*FOREIGN.values(), None], ids=[*FOREIGN, "dropped"])
@pytest.mark.parametrize("at", [0, 1, 50, 98])
def test_a_connection_out_of_step_gives_no_task_the_answer_to_another(
    server: Server, relay: Relay, foreign: bytes | None, at: int
) -> None:
    def alter(number: int, reply: bytes) -> list[bytes]:
        if number != at:
            return [reply]
        return [] if foreign is None else [foreign, reply]

    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await asyncio.gather(credits_of(engine, "V0"), changes(engine, 1000))
            relay.forget()
            relay.alter = alter
            calls = [call(engine, number) for number in range(50) for call in (reads, changes)]
            results = await asyncio.gather(*calls)
            assert [each.credits.limit for each in results[::2]] == NUMBERS[:50]
            assert [(each.code, each.id) for each in results[1::2]] == [(f"V{n}", f"order-{n}") for n in range(50)]

    asyncio.run(main())
    assert relay.connections == 2


def test_without_retries_calls_on_a_connection_out_of_step_are_right_or_unknown(server: Server, relay: Relay) -> None:
    async def main() -> None:
        async with engine_on(server, port=relay.port, retry=no_retries()) as engine:
            await asyncio.gather(credits_of(engine, "V0"), changes(engine, 1000))
            relay.forget()
            relay.alter = lambda number, reply: [reply] if number != 30 else []
            calls = [call(engine, number) for number in range(50) for call in (reads, changes)]
            results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
            for at, result in enumerate(results):
                if isinstance(result, Exception):
                    assert isinstance(result, OutcomeUnknown if at % 2 else ServerUnavailable)
                else:
                    assert result.code == CODES[at // 2]

    asyncio.run(main())


def test_an_error_of_the_server_is_proven_by_echo_on_the_same_connection(server: Server, relay: Relay) -> None:
    with server.client() as admin:
        admin.lpush("vs:{other}", "x")

    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            await credits_of(engine, "V0")
            relay.forget()
            *read, refused = await asyncio.gather(
                *(credits_of(engine, code) for code in CODES), engine.get_voucher("other"), return_exceptions=True
            )
            assert read == NUMBERS
            assert isinstance(refused, CorruptState)
            assert [command[0] for command in relay.others] == [b"ECHO"]
            assert relay.others[0][1] in relay.calls[-1]

    asyncio.run(main())
    assert relay.connections == 1
    with server.client() as admin:
        admin.delete("vs:{other}")


def test_the_relay_knows_where_replies_end() -> None:
    from transport.relay import end_of, words_of

    for reply in (*FOREIGN.values(), b"%1\r\n+a\r\n*2\r\n:1\r\n_\r\n", b"*-1\r\n", b"$-1\r\n", packed("ECHO", "x")):
        assert end_of(reply + b"more") == len(reply)
        assert all(end_of(reply[:cut]) == -1 for cut in range(len(reply)))
    assert words_of(packed("ECHO", "", "x\r\ny")) == [b"ECHO", b"", b"x\r\ny"]

"""Failures at an unlucky moment: between the replies of one call, while an engine is closed, at the end of a loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError
from redis.retry import Retry
from support.servers import Server
from support.waiting import until

from transport.relay import CLOSE, Relay
from transport.shared_engines import NAME, connections, engine_on, fill, ids, no_retries
from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    OutcomeUnknown,
    ServerUnavailable,
    VoucherSessions,
)
from voucher_sessions._transport import shared_connection


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Iterator[Server]:
    server = server_of("valkey")
    fill(server)
    with server.client() as client:
        VoucherSessions(client).release("V0", "cart")  # so that the server has the script
    yield server
    until(lambda: not connections(server), 10)


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with Relay(server.socket) as relay:
        yield relay


def close_connections(server: Server) -> None:
    """From the server's side, all that engines have."""
    with server.client() as admin:
        for number in ids(connections(server)):
            admin.client_kill_filter(_id=number)


def release(engine: Any, at: int = 0) -> Any:
    return engine.release("V0", f"cart-{at}")


# --- Replies -------------------------------------------------------------------------------------------------------


@pytest.fixture
def weak_user(server: Server) -> Iterator[str]:
    """May run scripts, but not what they run."""
    commands = ["+@all", "-@hash", "-@string", "-@sortedset", "-@keyspace", "+set"]
    with server.client() as admin:
        admin.acl_setuser("weak", enabled=True, nopass=True, keys="*", channels="*", commands=commands)
        yield "weak"
        admin.acl_deluser("weak")


@pytest.mark.parametrize("durability", [None, Durability(replicas=1, timeout_ms=100)], ids=["ECHO", "WAIT"])
@pytest.mark.parametrize("in_a_pipeline", [False, True])
def test_a_script_that_ended_half_way_is_not_sent_again_when_the_connection_is_lost_behind_it(
    relay: Relay,
    weak_user: str,
    engine_at: Callable[..., Any],
    execute: Callable[..., list[Any]],
    durability: Durability | None,
    in_a_pipeline: bool,
) -> None:
    url = f"redis://{weak_user}:any@127.0.0.1:{relay.port}"
    engine = engine_at(url, retries=3, durability=durability, client_name=NAME)

    replies: list[bytes] = []

    def lose_the_rest(_: int, reply: bytes) -> list[bytes]:
        replies.append(reply)
        return [reply, CLOSE]

    relay.alter = lose_the_rest
    with pytest.raises(OutcomeUnknown):
        execute(release(engine.pipeline())) if in_a_pipeline else release(engine)
    assert b"@user_script" in replies[0]
    assert len(relay.calls) == 1


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("garbage", [b"?garbage\r\n", b"*2\r\n:x\r\n"], ids=["no reply", "no number"])
def test_a_change_whose_reply_is_garbage_may_have_run(
    relay: Relay, engine_at: Callable[..., Any], garbage: bytes, retries: int
) -> None:
    engine = engine_at(f"redis://127.0.0.1:{relay.port}", retries=retries, client_name=NAME)
    relay.alter = lambda *_: [garbage]
    with pytest.raises(OutcomeUnknown):
        release(engine)


# --- Connections ---------------------------------------------------------------------------------------------------


def test_many_calls_at_once_after_the_server_closed_the_idle_connection_are_no_error(server: Server) -> None:
    async def main() -> None:
        async with engine_on(server, retry=no_retries()) as engine:
            await release(engine)
            close_connections(server)
            until(lambda: not connections(server))  # the event loop has not seen it
            await asyncio.gather(*(release(engine, at) for at in range(20)))

    asyncio.run(main())


def test_one_call_after_the_server_closed_twelve_idle_connections_needs_few_retries(server: Server) -> None:
    with server.client(client_name=NAME, retry=Retry(NoBackoff(), 3)) as client, VoucherSessions(client) as engine:
        with server.client() as admin, ThreadPoolExecutor(12) as threads:
            admin.client_pause(60_000, all=False)
            calls = [threads.submit(release, engine, at) for at in range(12)]
            until(lambda: len(connections(server)) == 12)
            admin.client_unpause()
            for call in calls:
                call.result()
        close_connections(server)
        assert not release(engine).released


class VaultError(Exception):
    """It cannot be copied: its constructor needs what it does not keep."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code} {reason}")


class VaultRefusal(AuthenticationError):
    """The same as an error of redis-py."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code} {reason}")


@pytest.mark.parametrize("kind", [VaultError, VaultRefusal])
def test_an_error_of_a_credential_provider_that_cannot_be_copied_reaches_all_calls(
    server: Server, relay: Relay, kind: Any
) -> None:
    class Vault(CredentialProvider):
        asked = 0

        async def get_credentials_async(self) -> tuple[str, str]:
            self.asked += 1
            raise kind(7, reason="sealed")

    async def main() -> None:
        vault = Vault()
        options = {"port": relay.port, "credential_provider": vault}  # over a Unix socket, redis-py wraps the error
        async with engine_on(server, retry=no_retries(), **options) as engine, asyncio.timeout(20):
            errors: list[Any] = await asyncio.gather(*(release(engine, at) for at in range(5)), return_exceptions=True)
        assert [str(error) for error in errors] == ["7 sealed"] * 5
        assert [type(error) for error in errors] == [kind] * 5
        assert vault.asked == 1

    asyncio.run(main())


# --- Too many calls ------------------------------------------------------------------------------------------------


def test_ping_says_that_all_connections_are_in_use(server: Server, relay: Relay) -> None:
    options: Any = {"connection_class": redis.Connection, "port": relay.port, "client_name": NAME}
    pool = redis.BlockingConnectionPool(max_connections=1, timeout=0.05, **options)
    with VoucherSessions(redis.Redis(connection_pool=pool)) as engine, ThreadPoolExecutor(1) as threads:
        relay.hold()
        call = threads.submit(release, engine)
        relay.wait(lambda: len(relay.calls) == 1)
        with pytest.raises(ServerUnavailable) as caught:
            engine.ping()
        assert caught.value.verb == "ping"
        relay.let_go()
        call.result()


def test_ping_says_that_too_many_tasks_wait(server: Server, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_connection, "MAX_EXCHANGES", 1)

    async def main() -> None:
        async with engine_on(server, port=relay.port) as engine:
            relay.hold()
            call = asyncio.ensure_future(release(engine))
            await relay.came(1)
            with pytest.raises(ServerUnavailable):
                await engine.ping()
            relay.let_go()
            await call

    asyncio.run(main())


# --- The end of an engine ------------------------------------------------------------------------------------------


def test_close_with_calls_in_flight_and_waiting_leaves_no_connection(server: Server, relay: Relay) -> None:
    options: Any = {"connection_class": redis.Connection, "port": relay.port, "client_name": NAME}
    pool = redis.BlockingConnectionPool(max_connections=1, timeout=60, **options)
    engine = VoucherSessions(redis.Redis(connection_pool=pool))
    relay.hold()
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(release, engine, at) for at in range(3)]
        relay.wait(lambda: len(relay.calls) == 1)
        engine.close()
        relay.let_go()
        for call in calls:
            call.result()
    until(lambda: not connections(server), 20)
    assert not release(engine).released, "it can still be used"


@pytest.mark.parametrize("durability", [None, Durability(replicas=1, timeout_ms=1)], ids=["", "durable"])
def test_aclose_with_a_call_in_flight_leaves_no_connection(
    server: Server, relay: Relay, durability: Durability | None
) -> None:
    async def main() -> None:
        client = redis.asyncio.Redis(port=relay.port, client_name=NAME, retry=AsyncRetry(NoBackoff(), 1))
        engine = AsyncVoucherSessions(client, durability=durability)
        relay.hold()
        call = asyncio.ensure_future(release(engine))
        await relay.came(1)
        await engine.aclose()
        await relay.came(2)  # it is sent again, over another connection
        relay.let_go()
        await asyncio.gather(call, return_exceptions=durability is not None)
        await asyncio.to_thread(until, lambda: not connections(server), 20)

    asyncio.run(main())


def test_aclose_while_a_connection_is_opened_leaves_none(server: Server) -> None:
    async def main(turns: int) -> None:
        engine = AsyncVoucherSessions(redis.asyncio.Redis(unix_socket_path=server.socket, client_name=NAME))
        call = asyncio.ensure_future(release(engine))
        for _ in range(turns):
            await asyncio.sleep(0)
        await engine.aclose()
        await call
        await asyncio.to_thread(until, lambda: not connections(server), 20)

    for turns in range(1, 12):
        asyncio.run(main(turns))


def test_an_engine_that_is_dropped_while_the_loop_runs_closes_its_connection_at_once(server: Server) -> None:
    async def main() -> None:
        engine = AsyncVoucherSessions(
            redis.asyncio.Redis(unix_socket_path=server.socket, client_name=NAME, socket_timeout=600)
        )
        await release(engine)
        assert len(connections(server)) == 1
        del engine
        gc.collect()
        await asyncio.to_thread(until, lambda: not connections(server), 20)

    asyncio.run(main())


# --- The end of an event loop --------------------------------------------------------------------------------------


def test_a_generator_that_the_end_of_the_event_loop_closes_can_still_call(server: Server) -> None:
    """The event loop closes the engine's connection at the same time."""
    released: list[bool] = []
    kept: list[Any] = []

    async def shopping(engine: AsyncVoucherSessions) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.to_thread(until, lambda: not connections(server))
            async with asyncio.timeout(20):
                released.append((await release(engine)).released)

    async def main() -> None:
        engine = AsyncVoucherSessions(redis.asyncio.Redis(unix_socket_path=server.socket, client_name=NAME))
        await release(engine)
        kept.append(shopping(engine))
        await anext(kept[0])

    asyncio.run(main())
    assert released == [False]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_calls_of_a_loop_that_was_closed_do_not_keep_their_session_from_another_loop(
    server: Server, relay: Relay
) -> None:
    engine = AsyncVoucherSessions(redis.asyncio.Redis(port=relay.port, client_name=NAME))
    first = asyncio.new_event_loop()
    relay.hold()
    calls = [first.create_task(engine.release("V0", "cart")) for _ in range(4)]
    first.run_until_complete(relay.came(4))
    first.run_until_complete(first.shutdown_default_executor())
    first.close()
    del calls, first
    relay.let_go()

    async def main() -> None:
        async with asyncio.timeout(20):
            assert not (await engine.release("V0", "cart")).released

    asyncio.run(main())
    gc.collect()

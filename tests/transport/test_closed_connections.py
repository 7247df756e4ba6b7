"""Connections of redis.asyncio that another task closed or that are of another event loop are lost replies.

Errors of the same classes that come from the application's code reach the caller as they are.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
import redis
import redis.asyncio
import redis.exceptions
import valkey
import valkey.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from support import untyped
from support.servers import Server

from voucher_sessions import AsyncVoucherSessions, InvalidRequest, OutcomeUnknown, Redemption, Voucher, VoucherSessions
from voucher_sessions._core.client_errors import ConnectionClosed
from voucher_sessions._transport.closed_connections import closed_connection


def mistakes() -> list[Exception]:
    """New ones: an exception keeps the traceback of where it was raised."""
    return [AttributeError("'NoneType' object has no attribute 'read'", name="read", obj=None), RuntimeError("x")]


@pytest.fixture(params=[0, 1], ids=["AttributeError", "RuntimeError"])
def mistake(request: pytest.FixtureRequest) -> Exception:
    chosen: Exception = mistakes()[request.param]
    return chosen


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Iterator[Server]:
    server = server_of("valkey")
    with server.client() as admin:
        admin.flushall()
        VoucherSessions(admin).put_voucher(Voucher(code="A", quantity=100, credits=100))
        yield server
        assert not VoucherSessions(admin).audit("A").differs


def client_of(server: Server, **options: Any) -> Any:
    return redis.asyncio.Redis(unix_socket_path=server.socket, retry=Retry(NoBackoff(), 0), **options)


def used(server: Server) -> int:
    with server.client() as admin:
        return VoucherSessions(admin).get_voucher("A").quantity.used


async def alone(engine: AsyncVoucherSessions, order: str) -> Redemption:
    return await engine.redeem("A", credits=1, redemption_id=order)


async def in_a_batch(engine: AsyncVoucherSessions, order: str) -> Redemption:
    results: Any = await engine.pipeline().redeem("A", credits=1, redemption_id=order).execute()
    redemption: Redemption = results[0]
    return redemption


WAYS: Final = pytest.mark.parametrize("redeem", [alone, in_a_batch])


# --- Closed by another task ----------------------------------------------------------------------------------------


class ClosedMeanwhile(redis.asyncio.UnixDomainSocketConnection):
    """A connection that another task closes, once, when a command is about to be sent or its reply to be read."""

    closes_before = ""

    async def check_health(self) -> None:
        await self._close_in_another_task("sending")
        await redis.asyncio.UnixDomainSocketConnection.check_health(self)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        await self._close_in_another_task("reading")
        return await super().read_response(*args, **options)

    async def _close_in_another_task(self, step: str) -> None:
        if ClosedMeanwhile.closes_before == step:
            ClosedMeanwhile.closes_before = ""
            await asyncio.create_task(self.disconnect())


@WAYS
@pytest.mark.parametrize("step", ["sending", "reading"])
def test_a_connection_that_another_task_closes_during_a_call(
    server: Server, redeem: Callable[..., Awaitable[Redemption]], step: str
) -> None:
    async def main() -> None:
        pool = redis.asyncio.ConnectionPool(connection_class=ClosedMeanwhile, path=server.socket)
        async with redis.asyncio.Redis(connection_pool=pool, retry=Retry(NoBackoff(), 0)) as client:
            engine = AsyncVoucherSessions(client)
            assert (await redeem(engine, "first")).credits == 1
            ClosedMeanwhile.closes_before = step
            with pytest.raises(OutcomeUnknown) as caught:
                await redeem(engine, "second")
            assert ClosedMeanwhile.closes_before == ""
            assert caught.value.redemption_id == "second"
            assert (await redeem(engine, "second")).id == "second"
            assert (await redeem(engine, "third")).id == "third"
            ClosedMeanwhile.closes_before = step
            with pytest.raises(redis.exceptions.ConnectionError):
                await engine.get_voucher("A")  # it only reads, so nothing is unknown
        await pool.disconnect()

    asyncio.run(main())
    assert used(server) == 3


# --- Of another event loop -----------------------------------------------------------------------------------------


@WAYS
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_engine_in_two_runs_of_asyncio(server: Server, redeem: Callable[..., Awaitable[Redemption]]) -> None:
    """The connections of the first run belong to its event loop, which is closed."""
    engine = AsyncVoucherSessions(client_of(server))

    async def until_known(engine: AsyncVoucherSessions, order: str) -> Redemption:
        for _ in range(20):
            try:
                return await redeem(engine, order)
            except OutcomeUnknown as unknown:
                order = unknown.redemption_id or "none"
        raise AssertionError("it stays unknown")

    for run in range(3):
        assert asyncio.run(until_known(engine, f"order-{run}")).id == f"order-{run}"
    with suppress(RuntimeError):  # what is left of the first connections is of closed event loops
        asyncio.run(engine.client.aclose())
    del engine
    gc.collect()  # they are reported as unclosed here, where that is ignored
    assert used(server) == 3


# --- Mistakes of the application -----------------------------------------------------------------------------------


@WAYS
def test_a_mistake_in_a_credential_provider_is_raised(
    server: Server, redeem: Callable[..., Awaitable[Redemption]], mistake: Exception
) -> None:
    """redis-py raises some of them as a ConnectionError that is chained to them."""

    class Provider(CredentialProvider):
        def get_credentials(self) -> Any:
            raise mistake

        async def get_credentials_async(self) -> Any:
            raise mistake

    async def main() -> None:
        async with client_of(server, credential_provider=Provider()) as client:
            (raised,) = await asyncio.gather(redeem(AsyncVoucherSessions(client), "order"), return_exceptions=True)
            assert isinstance(raised, Exception)
            assert not isinstance(raised, OutcomeUnknown)
            assert mistake in (raised, raised.__cause__)

    asyncio.run(main())
    assert used(server) == 0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_mistake_in_a_wrapped_client_is_raised(server: Server, mistake: Exception, after: bool) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            await alone(AsyncVoucherSessions(client), "so that the server has the script")
            execute = client.execute_command

            async def wrapped(*words: Any, **options: Any) -> Any:
                if after:
                    await execute(*words, **options)
                raise mistake

            client.execute_command = wrapped
            engine = AsyncVoucherSessions(client)
            with pytest.raises(type(mistake)) as caught:
                await alone(engine, "order")
            assert caught.value is mistake

    asyncio.run(main())


def test_a_mistake_in_a_wrapped_pipeline_is_raised(server: Server, mistake: Exception) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            pipeline = client.pipeline

            def wrapped(*args: Any, **options: Any) -> Any:
                pipe: Any = pipeline(*args, **options)

                async def execute(**_: Any) -> Any:
                    raise mistake

                pipe.execute = execute
                return pipe

            client.pipeline = wrapped
            engine = AsyncVoucherSessions(client)
            with pytest.raises(type(mistake)) as caught:
                await in_a_batch(engine, "order")
            assert caught.value is mistake

    asyncio.run(main())


def test_which_errors_are_lost_replies() -> None:
    def raised(error: Exception) -> Exception:
        try:
            raise error
        except Exception as seen:  # as it was raised here, in code that is not redis-py's
            return seen

    for error in (*mistakes(), ValueError("x")):
        assert closed_connection(error) is None, "never raised"
        assert closed_connection(raised(error)) is None


def test_a_reader_that_is_gone_is_a_lost_reply(server: Server) -> None:
    """All attributes of a closed connection that redis-py uses, but not those of other objects."""

    async def main() -> None:
        connection: Any = redis.asyncio.UnixDomainSocketConnection(path=server.socket)
        await connection.connect()
        await connection.disconnect()
        with pytest.raises(AttributeError) as caught:
            await connection._send_packed_command([b"x"])
        lost = closed_connection(caught.value)
        assert isinstance(lost, ConnectionClosed)
        assert lost.__cause__ is caught.value

    asyncio.run(main())


# --- Clients that are no clients of redis-py, and wrapped ones -----------------------------------------------------


class OwnValkey(valkey.Valkey):
    """An application's own subclass."""


@pytest.mark.parametrize(
    ("engine", "client"),
    [
        (VoucherSessions, valkey.Valkey()),
        (VoucherSessions, OwnValkey()),
        (AsyncVoucherSessions, valkey.asyncio.Valkey()),
        (VoucherSessions, valkey.asyncio.Valkey()),
        (AsyncVoucherSessions, valkey.Valkey()),
    ],
)
def test_clients_of_valkey_py_are_refused_with_the_way_out(engine: Any, client: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"valkey-py.*redis\.Redis\(.*from_url") as caught:
        engine(client)
    assert caught.value.field == "client"


def test_an_asyncio_client_that_was_wrapped_by_a_plain_function_is_asyncio(server: Server) -> None:
    """As instrumentation does it, with ``functools.wraps`` and without, on the object and on the class."""

    async def main() -> None:
        for keeps_name in (True, False):
            async with client_of(server) as client:
                execute = client.execute_command

                def plain(*words: Any, execute: Any = execute, **options: Any) -> Any:
                    return execute(*words, **options)

                wrapped = functools.wraps(execute)(plain) if keeps_name else plain
                client.execute_command = wrapped
                engine = AsyncVoucherSessions(client)
                assert (await alone(engine, f"order-{keeps_name}")).credits == 1
                with pytest.raises(InvalidRequest, match="use AsyncVoucherSessions"):
                    untyped.VoucherSessions(client)

    asyncio.run(main())


def test_other_objects_are_asyncio_if_their_class_or_what_they_wrap_is() -> None:
    class Waiting:
        async def execute_command(self, *_: Any, **__: Any) -> Any:
            return None

    class Direct:
        def execute_command(self, *_: Any, **__: Any) -> Any:
            return None

    wrapped: Any = Waiting()
    wrapped.execute_command = lambda *words: Waiting().execute_command(*words)
    clients: list[Any] = [Waiting(), wrapped]
    for client in clients:
        AsyncVoucherSessions(client)
        with pytest.raises(InvalidRequest, match="use AsyncVoucherSessions"):
            VoucherSessions(client)
    with pytest.raises(InvalidRequest, match=" use VoucherSessions"):
        untyped.AsyncVoucherSessions(Direct())

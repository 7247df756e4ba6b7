"""asyncio calls cancelled wherever they wait: each has its effect once or never, and no reply goes to another call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final

import pytest
import redis
import redis.asyncio
from support.scripted_clients import TRANSPORTS, client_class
from support.servers import Server

from faults.recorded_replies import RECORDED_CALLS, RecordedCall, books, create_vouchers
from faults.test_shared_engine import PATIENCE, with_vouchers
from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    Redemption,
    Voucher,
    VoucherSessions,
    VoucherSessionsError,
)


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    return with_vouchers(server_of("valkey"))


class Cancelled:
    """Runs a call and cancels its task at the n-th point where it waits: as soon as it begins to, or, ``late``, when
    what it waits for has come and it has not gone on yet.

    A call may outlive that: until Python 3.12, ``asyncio.wait_for``, with which redis-py writes, forgets a cancellation
    that comes when it is done. ``waited``: at how many points it waited until it ended.
    """

    def __init__(self, call: Coroutine[Any, Any, Any], at: int, *, late: bool) -> None:
        self._call = call
        self._at = at
        self._late = late
        self.waited = 0

    def __await__(self) -> Generator[Any, None, Any]:
        raised: BaseException | None = None
        while True:
            try:
                awaited = self._call.send(None) if raised is None else self._call.throw(raised)
            except StopIteration as done:
                return done.value
            if self.waited == self._at:
                self._cancel_at(awaited)
            self.waited += 1
            try:
                yield awaited
                raised = None
            except BaseException as error:
                raised = error

    def _cancel_at(self, awaited: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._late and awaited is not None:
            awaited.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()

    async def run(self) -> None:
        """In a task of its own, whose end is waited for."""

        async def call() -> None:
            await self

        (result,) = await asyncio.gather(asyncio.ensure_future(call()), return_exceptions=True)
        if not isinstance(result, None | asyncio.CancelledError | VoucherSessionsError):
            raise result


class UnnoticedReplyConnection(redis.asyncio.UnixDomainSocketConnection):
    """A connection of which nobody can tell that a reply is still to come: as if it were on its way yet.

    Since it reads in a way of its own, engines use the client, and open no connections themselves.
    """

    async def read_response(self, *args: Any, **options: Any) -> Any:
        return await super().read_response(*args, **options)

    async def can_read(self) -> bool:
        return False

    async def can_read_destructive(self) -> bool:
        return False


async def credits_of(engine: AsyncVoucherSessions, code: str) -> int | None:
    return (await engine.get_voucher(code)).credits.limit


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"single_connection_client": True}, {"protocol": 2}, {"durable": True}),
        *({"own": True}, {"own": True, "protocol": 2}, {"own": True, "durable": True}),
    ],
    ids=str,
)
def test_a_cancelled_call_leaves_no_reply_on_its_connection(
    server: Server, options: dict[str, Any], warm: bool, late: bool
) -> None:
    """With ``durable``, the change goes out with its confirmation. ``own``: over connections of the engine's own."""
    settings = {name: value for name, value in options.items() if name == "protocol"}
    single = {name: value for name, value in options.items() if name == "single_connection_client"}
    durability = Durability(replicas=1, timeout_ms=1) if "durable" in options else None
    connection_class = redis.asyncio.UnixDomainSocketConnection if "own" in options else UnnoticedReplyConnection

    async def cancelled(at: int) -> bool:
        pool = redis.asyncio.ConnectionPool(connection_class=connection_class, path=server.socket, **settings)
        async with redis.asyncio.Redis(connection_pool=pool, **single) as client:
            engine = AsyncVoucherSessions(client, durability=durability)
            if warm:
                assert await credits_of(engine, "B") == 222
            call = engine.put_voucher(Voucher(code="A", credits=111)) if durability else engine.get_voucher("A")
            running = Cancelled(call, at, late=late)
            await running.run()
            assert [await credits_of(engine, code) for code in "BA"] == [222, 111]
            await engine.aclose()
        await pool.disconnect()
        return running.waited > at

    async def main() -> None:
        for at in count():
            if not await cancelled(at):
                assert at > 0
                return

    asyncio.run(main())


# --- Once or not at all --------------------------------------------------------------------------------------------

# What can be repeated: it names its session and its redemption.
REPEATABLE: Final = [
    recorded_call
    for recorded_call in RECORDED_CALLS
    if recorded_call.redemption_id or not recorded_call.verb.startswith("redeem")
]


def attempt(recorded_call: RecordedCall, engine: VoucherSessions) -> None:
    with suppress(VoucherSessionsError):  # some of the acts are refused
        recorded_call.call(engine)


@pytest.mark.parametrize(
    ("warm", "transport"), [(False, TRANSPORTS[0]), (True, TRANSPORTS[0]), (True, TRANSPORTS[1])], ids=str
)
@pytest.mark.parametrize("recorded_call", REPEATABLE, ids=repr)
def test_a_cancelled_call_took_effect_once_or_not_at_all(
    server: Server, recorded_call: RecordedCall, warm: bool, transport: str
) -> None:
    with server.client() as admin:
        engine = VoucherSessions(admin)

        def anew() -> None:
            admin.flushall()
            create_vouchers(admin)
            if not warm:
                admin.script_flush()

        anew()
        before = books(engine)
        attempt(recorded_call, engine)
        once = books(engine)

        async def cancelled(at: int, *, late: bool) -> bool:
            async with client_class("async", transport)(unix_socket_path=server.socket) as client:
                engine = AsyncVoucherSessions(client)
                if warm:
                    await engine.ping()
                running = Cancelled(recorded_call.call(engine), at, late=late)
                await running.run()
                await engine.aclose()
            return running.waited > at

        for at in count():
            more = False
            for late in (False, True):
                anew()
                more = asyncio.run(cancelled(at, late=late)) or more
                assert books(engine) in (before, once), at
                attempt(recorded_call, engine)
                assert books(engine) == once, at
            if not more:
                assert at > 0
                return


def test_the_generated_key_of_a_cancelled_call_can_be_found_by_reading(server: Server) -> None:
    """CancelledError carries nothing: whoever cancels calls names sessions and redemptions, or looks for them."""

    async def main() -> None:
        async with redis.asyncio.Redis(unix_socket_path=server.socket) as client:
            engine = AsyncVoucherSessions(client)
            await client.ping()
            for at in range(3):
                await Cancelled(engine.validate("A", session={"type": "LOCK"}), at, late=True).run()
                await Cancelled(engine.redeem("B", credits=0), at, late=True).run()
            for each in await engine.list_sessions("A"):
                assert each.key.startswith("ssn_")
                assert (await engine.release("A", each.key)).released
            assert (await engine.get_voucher("A")).quantity.locked == 0
            assert 1 <= (await engine.get_voucher("B")).quantity.used <= 3

    asyncio.run(main())


# --- The ways in which apps cancel ---------------------------------------------------------------------------------


@contextmanager
def held(server: Server) -> Iterator[Callable[[int], Coroutine[Any, Any, None]]]:
    """The server takes scripts and does not run them; ``waiting`` waits until it has so many."""
    with server.client() as admin:

        async def waiting(calls: int) -> None:
            deadline = time.monotonic() + PATIENCE
            while sum("b" in each["flags"] for each in admin.client_list()) < calls:
                assert time.monotonic() < deadline, "they do not come"
                await asyncio.sleep(0.002)
            # redis-py sends within ``asyncio.wait_for``, which on Python 3.11 loses a cancellation that comes as it ends.
            for _ in range(20):
                await asyncio.sleep(0)

        admin.execute_command("CLIENT", "PAUSE", 1000 * PATIENCE, "WRITE")
        try:
            yield waiting
        finally:
            admin.execute_command("CLIENT", "UNPAUSE")


async def by_timeout(call: Coroutine[Any, Any, Any], _: Awaitable[None]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await call


async def by_wait_for(call: Coroutine[Any, Any, Any], _: Awaitable[None]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.05)


async def by_task_group(call: Coroutine[Any, Any, Any], waiting: Awaitable[None]) -> None:
    async def fails() -> None:
        await waiting
        raise ZeroDivisionError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(call)
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        await both()


async def by_hand(call: Coroutine[Any, Any, Any], waiting: Awaitable[None]) -> None:
    task = asyncio.ensure_future(call)
    await waiting
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("cancel", [by_timeout, by_wait_for, by_task_group, by_hand])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("options", [{}, {"single_connection_client": True}], ids=str)
def test_a_call_is_cancelled_while_the_server_is_slow(
    server: Server, options: dict[str, Any], transport: str, cancel: Callable[[Any, Any], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with client_class("async", transport)(unix_socket_path=server.socket, **options) as client:
            engine = AsyncVoucherSessions(client)
            assert await credits_of(engine, "A") == 111
            with held(server) as waiting:
                wait = waiting(1)
                await cancel(engine.redeem("A", credits=0, redemption_id="order"), wait)
                wait.close()  # awaited or not
            answers = await asyncio.gather(*(credits_of(engine, code) for code in "BAB"))
            assert answers == [222, 111, 222]
            assert (await engine.redeem("A", credits=0, redemption_id="order")).id == "order"
            assert (await engine.get_voucher("A")).quantity.used == 1

    asyncio.run(main())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_engine_shared_by_tasks_some_of_which_are_cancelled(server: Server, transport: str) -> None:
    """90 tasks redeem and every third is cancelled in mid-flight; then all are repeated under their ids."""

    async def main() -> None:
        async with client_class("async", transport)(unix_socket_path=server.socket) as client:
            engine = AsyncVoucherSessions(client)
            orders = [f"order-{at}" for at in range(90)]
            tasks = [asyncio.ensure_future(engine.redeem("A", credits=0, redemption_id=order)) for order in orders]
            for at, task in enumerate(tasks):
                if at % 3 == 0:
                    await asyncio.sleep(0)
                    task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert any(isinstance(each, asyncio.CancelledError) for each in ended)
            for order, each in zip(orders, ended, strict=True):
                if not isinstance(each, asyncio.CancelledError):
                    assert isinstance(each, Redemption)
                    assert each.id == order
            paid = await asyncio.gather(*(engine.redeem("A", credits=0, redemption_id=order) for order in orders))
            assert [each.id for each in paid] == orders
            assert (await engine.get_voucher("A")).quantity.used == 90

    asyncio.run(main())

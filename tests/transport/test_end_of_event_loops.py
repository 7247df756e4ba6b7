"""An event loop that ends leaves no warning and no waiting task, whatever was under way; engines leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio
from support.servers import Server
from support.sessions import lock
from support.waiting import until

from transport.shared_engines import CODES, NAME, all_credits_of, connections, credits_of, fill, number_of
from voucher_sessions import AsyncVoucherSessions, Durability, NotDurable
from voucher_sessions._transport import shared_connection

NUMBERS = list(map(number_of, CODES))


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Iterator[Server]:
    server = server_of("valkey")
    fill(server)
    yield server
    until(lambda: not connections(server))


def client_of(server: Server, **options: Any) -> redis.asyncio.Redis:
    return redis.asyncio.Redis(unix_socket_path=server.socket, client_name=NAME, **options)


# --- Several event loops -------------------------------------------------------------------------------------------


def test_one_engine_serves_event_loops_one_after_the_other(server: Server) -> None:
    engine = AsyncVoucherSessions(client_of(server))
    loops = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        assert await all_credits_of(engine, CODES) == NUMBERS

    for _ in range(10):
        asyncio.run(main())
    asyncio.run(main())
    gc.collect()
    assert [loop() for loop in loops[:-1]] == [None] * 10, "the engine keeps no closed loop"


def test_one_engine_serves_event_loops_in_threads(server: Server) -> None:
    engine = AsyncVoucherSessions(client_of(server))
    read: list[list[int | None]] = []

    def in_a_thread() -> None:
        read.extend(asyncio.run(all_credits_of(engine, CODES)) for _ in range(3))

    threads = [threading.Thread(target=in_a_thread) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [NUMBERS] * 24


# --- The end, at every moment --------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", [None, Durability(replicas=1, timeout_ms=1)], ids=["", "durable"])
def test_a_task_that_is_cancelled_by_the_end_of_its_event_loop_can_still_release(
    server: Server, durability: Durability | None
) -> None:
    """At whichever turn of the loop it ends: before the connection is open, while a call is in flight, and so on."""
    released = []

    async def shopper(engine: AsyncVoucherSessions, at: int) -> None:
        try:
            while True:
                try:
                    await engine.validate(CODES[at], session=lock("cart"))
                except NotDurable:
                    continue
        finally:
            async with asyncio.timeout(20):
                with suppress(NotDurable):
                    await engine.release(CODES[at], "cart")
            released.append(at)

    async def main(turns: int) -> None:
        engine = AsyncVoucherSessions(client_of(server), durability=durability)
        running = [asyncio.create_task(shopper(engine, at)) for at in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not any(each.done() for each in running)

    for turns in range(1, 40):
        released.clear()
        asyncio.run(main(turns))
        assert sorted(released) == [0, 1, 2], f"after {turns} turns"


# --- Nothing is left -----------------------------------------------------------------------------------------------


def test_engines_leave_no_task_file_connection_or_thread_behind(server: Server) -> None:
    async def one() -> None:
        async with client_of(server) as client, AsyncVoucherSessions(client) as engine:
            assert await credits_of(engine, "V0") == number_of("V0")

    async def main() -> None:
        await one()
        await asyncio.to_thread(until, lambda: not connections(server))

        def left() -> tuple[int, int, int]:
            return len(asyncio.all_tasks()), len(os.listdir("/dev/fd")), threading.active_count()

        before = left()
        for _ in range(100):
            await one()
        await asyncio.sleep(0)
        await asyncio.to_thread(until, lambda: not connections(server))
        assert left() == before

    asyncio.run(main())


SCRIPT = """
import asyncio, gc, logging, sys
import redis, redis.asyncio
from voucher_sessions import AsyncVoucherSessions, Durability, VoucherNotFound
logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that a busy machine is slow
run = {run}
def new_engine(**options):
    client = redis.asyncio.Redis(unix_socket_path={socket!r}, client_name={name!r}, socket_timeout=2)
    return AsyncVoucherSessions(client, **options)
def connected():
    return [each for each in redis.Redis(unix_socket_path={socket!r}).client_list() if each["name"] == {name!r}]
async def forever(engine, code):
    try:
        while True:
            await engine.validate(code, session=dict(type="LOCK", key="cart"))
    finally:
        await engine.release(code, "cart")
"""

ENDINGS = {
    "closed": """
async def main():
    async with new_engine() as engine:
        await engine.get_voucher("V0")
run(main())
""",
    "never closed": """
async def main():
    engine = new_engine()
    await asyncio.gather(*(engine.get_voucher("V0") for _ in range(100)))
run(main())
""",
    "never closed, and kept": """
engine = new_engine()
async def main():
    await asyncio.gather(*(engine.get_voucher("V0") for _ in range(100)))
run(main())
run(main())
""",
    "dropped while the loop runs": """
async def main():
    engine = new_engine()
    await engine.get_voucher("V0")
    assert len(connected()) == 1
    del engine
    for _ in range(600):
        gc.collect()
        await asyncio.sleep(0.05)
        if not connected():
            return
    raise AssertionError("still connected")
run(main())
""",
    "dropped after refusals": """
from contextlib import suppress
async def main():
    engine = new_engine()
    with suppress(VoucherNotFound):
        await engine.get_voucher("unknown")
    with suppress(VoucherNotFound):
        await engine.audit("unknown")
    with suppress(VoucherNotFound):
        async for _ in engine.iter_sessions("unknown"):
            pass
    del engine
    gc.collect()  # if an error kept the engine until now, its connection is reported as unclosed
gc.disable()
run(main())
""",
    "an exception with calls in flight": """
async def main():
    engine = new_engine()
    tasks = [asyncio.create_task(forever(engine, f"V{at}")) for at in range(10)]
    await asyncio.sleep(0.05)
    raise KeyError("expected")
try:
    run(main())
except KeyError:
    pass
""",
    "KeyboardInterrupt with calls in flight": """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may have been told to ignore it
async def main():
    engine = new_engine()
    tasks = [asyncio.create_task(forever(engine, f"V{at}")) for at in range(10)]
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.gather(*tasks)
try:
    run(main())
except KeyboardInterrupt:
    pass
""",
    "durable calls in flight": """
async def main():
    engine = new_engine(durability=Durability(replicas=1, timeout_ms=1000))
    tasks = [asyncio.create_task(engine.redeem(f"V{at}", credits=1)) for at in range(10)]
    await asyncio.sleep(0.05)
run(main())
""",
    "a call that is never answered": """
async def main():
    engine = new_engine()
    await engine.get_voucher("V0")
    redis.Redis(unix_socket_path=SOCKET).client_pause(1500)
    task = asyncio.create_task(engine.redeem("V0", credits=1))
    await asyncio.sleep(0.05)
run(main())
""",
}


def python(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script; any warning is an error."""
    command = [sys.executable, "-X", "dev", "-W", "error", *options, "-c", source]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("run", ["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
@pytest.mark.parametrize("ending", list(ENDINGS))
def test_an_event_loop_ends_without_a_warning(server: Server, ending: str, run: str) -> None:
    if run == "uvloop":
        pytest.importorskip("uvloop")
    runner = "asyncio.run" if run == "asyncio" else "__import__('uvloop').run"
    source = (
        SCRIPT.format(run=runner, socket=server.socket, name=NAME) + f"SOCKET = {server.socket!r}" + ENDINGS[ending]
    )
    done = python(source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_connection_that_is_closed_already_is_left_alone() -> None:
    connection = redis.asyncio.Connection()
    asyncio.run(shared_connection._abort(connection))
    assert not connection.is_connected

"""One engine in many threads, across forks and in worker processes: every call gets its own reply, or an error."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
import redis
import redis.asyncio
from support.servers import Server

from voucher_sessions import (
    AsyncVoucherSessions,
    InvalidRequest,
    LimitExceeded,
    OutcomeUnknown,
    Voucher,
    VoucherSessions,
)

THREADS: Final = 32
CLIENTS: Final[list[dict[str, Any]]] = [{}, {"single_connection_client": True}, {"protocol": 2}]
PATIENCE: Final = 30  # seconds, for what takes some milliseconds


def with_vouchers(server: Server) -> Server:
    """With two vouchers that nobody can mistake for each other."""
    with server.client() as admin:
        admin.flushall()
        engine = VoucherSessions(admin)
        engine.put_voucher(Voucher(code="A", credits=111))
        engine.put_voucher(Voucher(code="B", credits=222))
    return server


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    return with_vouchers(server_of("valkey"))


def credits_of(engine: VoucherSessions, code: str) -> int | None:
    return engine.get_voucher(code).credits.limit


# --- Threads -------------------------------------------------------------------------------------------------------


def kinds_of_pool(server: Server) -> list[Callable[[], redis.Redis]]:
    from_pool: Any = redis.Redis.from_pool
    return [
        server.client,
        lambda: server.client(single_connection_client=True),
        lambda: from_pool(redis.BlockingConnectionPool.from_url(server.url, max_connections=4)),
    ]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["pool", "one connection", "four connections"])
def test_an_engine_shared_by_32_threads_counts_exactly(server: Server, kind: int) -> None:
    """Each thread has a voucher of its own, whose answers nobody else may get, and all share one."""
    with kinds_of_pool(server)[kind]() as client, ThreadPoolExecutor(THREADS) as threads:
        engine = VoucherSessions(client)
        engine.put_voucher(Voucher(code="SHARED", quantity=400, credits=100_000))
        start = threading.Barrier(THREADS, timeout=PATIENCE)

        def work(me: int) -> tuple[int, int]:
            code, spent = f"own-{me}", 0
            start.wait()
            engine.put_voucher(Voucher(code=code, credits=1000 + me))
            for at in range(20):
                key = f"{me}-{at}"
                assert credits_of(engine, code) == 1000 + me
                answer = engine.validate(code, credits=at, session={"type": "LOCK", "key": key})
                assert (answer.code, answer.available.credits) == (code, 1000 + me)
                assert answer.session is not None
                assert (answer.session.key, answer.session.credits) == (key, at)
                assert [each.key for each in engine.list_sessions(code)] == [key]
                assert engine.release(code, key).released
                spent += redeemed(engine, me, at)
            return me, spent

        done = dict(threads.map(work, range(THREADS)))
        state = engine.get_voucher("SHARED")
        assert (state.quantity.used, state.quantity.locked, state.quantity.available) == (400, 0, 0)
        assert state.credits.used == sum(done.values())


def redeemed(engine: VoucherSessions, me: int, at: int) -> int:
    """What this try spent of the shared voucher, every third of them after all given back."""
    redemption_id = f"{me}-{at}"
    try:
        paid = engine.redeem("SHARED", credits=me + 1, redemption_id=redemption_id)
    except LimitExceeded:
        return 0
    assert (paid.id, paid.credits, paid.replayed) == (redemption_id, me + 1, False)
    again = engine.redeem("SHARED", credits=me + 1, redemption_id=redemption_id)
    assert again == paid.model_copy(update={"replayed": True})
    return paid.credits


# --- Forks ---------------------------------------------------------------------------------------------------------


class Child:
    """A forked process that does one thing and tells what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result, pipe = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: that there are threads
            self.pid = os.fork()
        if self.pid == 0:
            try:
                outcome: Any = work()
            except BaseException as error:  # the child must end here, whatever happens
                outcome = error
            os.write(pipe, pickle.dumps(outcome))
            os._exit(0)
        os.close(pipe)

    def result(self) -> Any:
        """Its answer; a child that hangs is killed."""
        deadline = time.monotonic() + PATIENCE
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                os.close(self._result)
                pytest.fail("the child hangs")
            time.sleep(0.005)
        with open(self._result, "rb") as pipe:
            return pickle.load(pipe)


def codes_seen(engine: VoucherSessions, code: str, times: int) -> set[Any]:
    """What came of many calls: figures, and the errors that are ours."""
    answers: set[Any] = set()
    for _ in range(times):
        try:
            answers.add(credits_of(engine, code))
        except InvalidRequest as refused:
            answers.add(refused.field)
    return answers


def right_in_a_child(options: dict[str, Any]) -> set[Any]:
    """A pool opens new connections. A single connection cannot be shared, and that raises an error."""
    return {"client"} if options.get("single_connection_client") else {222}


@pytest.mark.parametrize("options", CLIENTS, ids=str)
def test_an_engine_used_before_and_after_a_fork(server: Server, options: dict[str, Any]) -> None:
    with server.client(**options) as client:
        engine = VoucherSessions(client)
        assert credits_of(engine, "A") == 111
        children = [Child(lambda: codes_seen(engine, "B", 300)) for _ in range(3)]
        assert codes_seen(engine, "A", 300) == {111}
        assert [child.result() for child in children] == [right_in_a_child(options)] * 3
        assert codes_seen(engine, "A", 10) == {111}


@pytest.mark.parametrize("options", CLIENTS, ids=str)
def test_a_fork_while_threads_are_in_calls(server: Server, options: dict[str, Any]) -> None:
    """Whatever they hold at that moment, the child neither waits for it nor hears their answers."""
    over = threading.Event()
    with server.client(**options) as client, ThreadPoolExecutor(8) as threads:
        engine = VoucherSessions(client)

        def work() -> set[Any]:
            answers: set[Any] = set()
            while not over.is_set():
                answers |= codes_seen(engine, "A", 5)
            return answers

        working = [threads.submit(work) for _ in range(8)]
        try:
            for _ in range(10):
                # redis-py 8's pool would wait in the child for its own lock, should another thread hold it now.
                with client.connection_pool._lock:
                    child = Child(lambda: codes_seen(engine, "B", 5))
                assert child.result() == right_in_a_child(options)
        finally:
            over.set()
        assert [each.result(PATIENCE) for each in working] == [{111}] * 8


@pytest.mark.parametrize("options", CLIENTS[:2], ids=str)
def test_an_asyncio_engine_before_and_after_a_fork(server: Server, options: dict[str, Any]) -> None:
    """redis.asyncio gives a child the parent's connections: the child gets an error, the parent its own replies."""

    async def calls(engine: AsyncVoucherSessions, code: str) -> set[Any]:
        answers: set[Any] = set()
        for _ in range(100):
            try:
                answers.add((await engine.get_voucher(code)).credits.limit)
            except InvalidRequest as refused:
                answers.add(refused.field)
        return answers

    async def main() -> None:
        async with redis.asyncio.Redis(unix_socket_path=server.socket, **options) as client:
            unused = AsyncVoucherSessions(client)
            engine = AsyncVoucherSessions(client)
            assert await calls(engine, "A") == {111}

            def in_child() -> set[Any]:
                asyncio._set_running_loop(None)
                return asyncio.new_event_loop().run_until_complete(calls(engine, "B"))

            child = Child(in_child)
            assert await calls(engine, "A") == {111}
            assert await asyncio.to_thread(child.result) <= {222, "client"}
            assert await calls(unused, "A") == {111}

    asyncio.run(main())


def test_an_asyncio_engine_that_was_not_used_before_the_fork(server: Server) -> None:
    """As a server does it that loads the app and then forks its workers."""
    engine = AsyncVoucherSessions(redis.asyncio.Redis(unix_socket_path=server.socket))

    async def in_child() -> int | None:
        try:
            return (await engine.get_voucher("B")).credits.limit
        finally:
            await engine.client.aclose()

    assert Child(lambda: asyncio.run(in_child())).result() == 222


def test_an_asyncio_engine_in_another_event_loop(server: Server) -> None:
    """Each event loop has a connection of its own."""
    with server.client() as admin:
        client = redis.asyncio.Redis(unix_socket_path=server.socket)
        engine = AsyncVoucherSessions(client)
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        first.run_until_complete(engine.get_voucher("A"))
        order: str | None = "order"
        try:
            second.run_until_complete(engine.redeem("A", credits=5, redemption_id=order))
        except OutcomeUnknown as unknown:
            order = unknown.redemption_id
        paid = second.run_until_complete(engine.redeem("A", credits=5, redemption_id=order))
        assert (paid.id, paid.credits) == ("order", 5)
        assert VoucherSessions(admin).get_voucher("A").credits.used == 5
        second.run_until_complete(engine.aclose())
        first.run_until_complete(engine.aclose())  # each loop has connections of its own
        second.run_until_complete(client.aclose())
        first.close()
        second.close()


# --- Processes of multiprocessing ----------------------------------------------------------------------------------

_inherited: list[VoucherSessions] = []


def in_a_worker(task: tuple[str | None, int]) -> set[Any]:
    """With the engine that the fork brought, or, spawned, with one of its own."""
    url, me = task
    engine = _inherited[0] if url is None else VoucherSessions.from_url(url)
    own = f"worker-{me}"
    engine.put_voucher(Voucher(code=own, credits=me))
    answers = {credits_of(engine, own) == me for _ in range(100)}
    engine.redeem("A", credits=0)
    if url is not None:
        engine.close()
    return answers


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing(server: Server, method: str) -> None:
    with server.client() as client, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: that there are threads
        engine = VoucherSessions(client)
        assert credits_of(engine, "A") == 111
        _inherited[:] = [engine]
        url = None if method == "fork" else server.url
        with multiprocessing.get_context(method).Pool(4) as pool:
            answers = pool.map_async(in_a_worker, [(url, me) for me in range(8)], chunksize=1).get(PATIENCE)
        assert answers == [{True}] * 8
        assert engine.get_voucher("A").quantity.used == 8

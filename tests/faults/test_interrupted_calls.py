"""Signal handlers that raise at any moment of a call: no later call reads the reply of the interrupted one."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest
import redis
from support.scripted_clients import TRANSPORTS, client_class
from support.servers import Server

from faults.test_shared_engine import CLIENTS, PATIENCE, credits_of, with_vouchers
from voucher_sessions import VoucherSessions
from voucher_sessions._transport.keys_in_use import MAX_CHANGES


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    return with_vouchers(server_of("valkey"))


class UnnoticedReplyConnection(redis.UnixDomainSocketConnection):
    """A connection of which nobody can tell that a reply is still to come: as if it were on its way yet.

    Since it reads in a way of its own, engines use the client, and open no connections themselves.
    """

    def read_response(self, *args: Any, **options: Any) -> Any:
        return super().read_response(*args, **options)

    def can_read(self, timeout: float = 0) -> bool:
        return False


def run_interrupted(
    at: int, error: type[BaseException], run: Callable[[], object], interrupts: Callable[[str, str], bool] | None = None
) -> str:
    """Which function of redis-py or of ours it was whose beginning raised: there Python runs signal handlers.

    ``interrupts`` gets a profiler's event and a file, and tells whether a handler may raise there.
    """
    numbers, entered = count(), [""]
    interrupts = interrupts or at_a_beginning

    def profile(frame: Any, event: str, _: Any) -> None:
        if interrupts(event, frame.f_code.co_filename) and not in_a_finalizer(frame) and next(numbers) == at:
            sys.setprofile(None)
            entered[0] = f"{event} {frame.f_code.co_qualname}"
            raise error

    sys.setprofile(profile)
    try:
        run()
    except error:
        assert entered != [""]
    finally:
        sys.setprofile(None)
    return entered[0]


def at_a_beginning(event: str, file: str) -> bool:
    return event == "call" and ("/redis/" in file or "/voucher_sessions/" in file)


def at_a_beginning_or_about_a_lock(event: str, file: str) -> bool:
    """Python runs handlers also where a function in C has returned; not of redis-py, which leaves sockets behind then."""
    return at_a_beginning(event, file) or (
        event in ("call", "c_return") and ("/threading.py" in file or "/voucher_sessions/" in file)
    )


def in_a_finalizer(frame: Any) -> bool:
    """There Python itself swallows what is raised."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class TimeLimit(Exception):
    """What a worker's signal handler may raise: an ordinary error for those that catch them."""


def one_by_one(engine: VoucherSessions) -> object:
    return engine.get_voucher("A")


def in_a_batch(engine: VoucherSessions) -> object:
    return engine.pipeline().get_voucher("A").execute()


@pytest.mark.parametrize("call", [one_by_one, in_a_batch])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, TimeLimit])
@pytest.mark.parametrize("options", [*CLIENTS[:2], {"own": True}], ids=str)
def test_an_interrupted_call_leaves_no_reply_on_its_connection(
    server: Server, options: dict[str, Any], error: type[BaseException], call: Callable[[VoucherSessions], object]
) -> None:
    """``own``: over connections of the engine's own."""
    connection_class = redis.UnixDomainSocketConnection if "own" in options else UnnoticedReplyConnection
    settings = {name: value for name, value in options.items() if name != "own"}
    for at in count():
        pool = redis.ConnectionPool(connection_class=connection_class, path=server.socket)
        with redis.Redis(connection_pool=pool, **settings) as client:
            engine = VoucherSessions(client)
            assert credits_of(engine, "B") == 222
            call(engine)  # so that all is connected
            entered = run_interrupted(at, error, partial(call, engine))
            assert [credits_of(engine, "B"), credits_of(engine, "A")] == [222, 111], entered
            engine.close()
        pool.disconnect()
        if not entered:
            assert at > 20, "too few places to show anything"
            return


def test_an_interrupted_redemption_that_is_repeated_happens_once(server: Server) -> None:
    with server.client() as admin:
        books = VoucherSessions(admin)
        for at in count():
            order = f"order-{at}"
            with server.client() as client:
                engine = VoucherSessions(client)
                assert credits_of(engine, "B") == 222
                redeem = partial(engine.redeem, "A", credits=0, redemption_id=order)
                entered = run_interrupted(at, KeyboardInterrupt, redeem)
            books.redeem("A", credits=0, redemption_id=order)
            assert books.get_voucher("A").quantity.used == at + 1, entered
            if not entered:
                return


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # redis-py leaves sockets to the collector
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_engine_that_was_interrupted_often_works_in_every_thread(server: Server, transport: str) -> None:
    """Wherever it was: no lock stays held, and no turn stays taken."""
    with client_class("sync", transport)(unix_socket_path=server.socket) as client:
        engine = VoucherSessions(client)
        redeem = partial(engine.redeem, "A", credits=0, redemption_id="order")
        redeem()
        for at in count():
            for _ in range(MAX_CHANGES + 1):
                entered = run_interrupted(at, KeyboardInterrupt, redeem, at_a_beginning_or_about_a_lock)
            for _ in range(2):
                assert in_another_thread(redeem, entered).replayed
            if not entered:
                assert at > 50, "too few places to show anything"
                return


def in_another_thread(call: Callable[[], Any], entered: str) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, f"it waits for ever, or has failed: {entered}"
    return results[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeLimit])
def test_a_signal_while_the_server_is_slow(server: Server, error: type[BaseException]) -> None:
    def interrupt(*_: object) -> None:
        raise error

    with server.client() as admin, server.client() as client:
        engine = VoucherSessions(client)
        assert credits_of(engine, "A") == 111
        before = signal.signal(signal.SIGUSR1, interrupt)
        admin.execute_command("CLIENT", "PAUSE", 1000 * PATIENCE, "WRITE")
        try:
            other = threading.Thread(target=signal_when_held, args=(admin, threading.get_ident()))
            other.start()
            with pytest.raises(error):
                engine.redeem("A", credits=0, redemption_id="order")
            other.join(PATIENCE)
        finally:
            admin.execute_command("CLIENT", "UNPAUSE")
            signal.signal(signal.SIGUSR1, before)
        assert credits_of(engine, "B") == 222
        assert engine.redeem("A", credits=0, redemption_id="order").id == "order"
        assert engine.get_voucher("A").quantity.used == 1


def signal_when_held(admin: redis.Redis, thread: int) -> None:
    """As soon as somebody's command is held by the server."""
    deadline = time.monotonic() + PATIENCE
    while not any("b" in each["flags"] for each in admin.client_list()):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.002)
    signal.pthread_kill(thread, signal.SIGUSR1)

"""The connections of a sync engine: how many there are, who waits for one, and when one is replaced."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from faults.proxy import Proxy
from redis.auth.token import TokenInterface
from redis.backoff import NoBackoff
from redis.credentials import StreamingCredentialProvider
from redis.retry import Retry
from support.servers import Server, running
from support.waiting import until

from voucher_sessions import ServerUnavailable, Voucher, VoucherSessions
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs
from voucher_sessions._transport import connection_stack
from voucher_sessions._transport.connection_stack import ConnectionStack, exchange

PREFIX = "stack"
ONCE = Retry(NoBackoff(), 0)


@pytest.fixture
def open_engine(server: Server) -> Iterator[Callable[..., VoucherSessions]]:
    """Makes an engine whose client retries nothing; the options are the client's."""
    with ExitStack() as opened:

        def make(**options: Any) -> VoucherSessions:
            if "connection_pool" not in options:
                options = {"unix_socket_path": server.socket, "retry": ONCE, **options}
            client = opened.enter_context(redis.Redis(**options))
            return opened.enter_context(VoucherSessions(client, prefix=PREFIX))

        yield make


@pytest.fixture
def stack(server: Server) -> Iterator[ConnectionStack]:
    """Of at most one connection."""
    with server.client(max_connections=1, retry=ONCE) as client:
        stack = ConnectionStack(client.connection_pool)
        yield stack
        stack.renew()


def received(server: Server) -> int:
    """How many connections the server has been asked for."""
    with server.client() as admin:
        return int(admin.info("stats")["total_connections_received"]) - 1


def by_threads(number: int, call: Callable[[int], object]) -> None:
    """Call it in as many threads, all at once; raises what one of them raises."""
    together = threading.Barrier(number)

    def run(at: int) -> object:
        together.wait(60)
        return call(at)

    with ThreadPoolExecutor(number) as threads:
        for done in [threads.submit(run, at) for at in range(number)]:
            done.result()


class TestNumber:
    def test_calls_one_after_the_other_use_one_connection(
        self, server: Server, open_engine: Callable[..., VoucherSessions]
    ) -> None:
        engine, before = open_engine(), received(server)
        for _ in range(20):
            engine.put_voucher(Voucher(code="A"))
            engine.pipeline().validate("A").redeem("A").execute()
            engine.ping()
        assert received(server) - before == 2, "one for all of it, and one for this count"

    def test_the_connection_that_was_used_last_is_used_next(self, server: Server) -> None:
        with server.client() as client:
            stack = ConnectionStack(client.connection_pool)
            first, second = stack.take(), stack.take()
            for put_back in ((first, second), (second, first)):
                for each in put_back:
                    stack.put_back(each)
                assert [stack.take(), stack.take()] == [*reversed(put_back)]
            for each in (first, second):
                stack.close(each)

    def test_threads_beyond_the_limit_wait_for_their_turn(
        self, server: Server, open_engine: Callable[..., VoucherSessions]
    ) -> None:
        engine, before = open_engine(max_connections=3), received(server)
        by_threads(20, lambda at: [engine.put_voucher(Voucher(code=f"{at}-{each}")) for each in range(20)])
        assert 1 < received(server) - before <= 4

    def test_two_hundred_threads_on_a_default_client_have_a_hundred_connections(
        self, server: Server, open_engine: Callable[..., VoucherSessions]
    ) -> None:
        engine, before = open_engine(), received(server)
        by_threads(200, lambda at: [engine.put_voucher(Voucher(code=f"{at}-{each}")) for each in range(5)])
        assert received(server) - before <= 101

    def test_two_hundred_threads_share_one_voucher(self, open_engine: Callable[..., VoucherSessions]) -> None:
        engine = open_engine()
        engine.put_voucher(Voucher(code="SHARED", quantity=200))
        by_threads(200, lambda at: engine.redeem("SHARED"))
        assert engine.get_voucher("SHARED").quantity.available == 0
        engine.delete_voucher("SHARED")


def is_waited_for(stack: ConnectionStack, threads: int) -> bool:
    return len(stack._waiting) == threads


class TestWaiting:
    def test_a_thread_that_waits_comes_before_one_that_comes_later(self, stack: ConnectionStack) -> None:
        """Otherwise a thread that calls again and again would keep the connection for itself."""
        order: list[str] = []

        def use(name: str) -> None:
            connection = stack.take()
            order.append(name)
            stack.put_back(connection)

        with ThreadPoolExecutor() as threads:
            connection = stack.take()
            for at in range(3):
                threads.submit(use, f"waiting {at}")
                until(partial(is_waited_for, stack, at + 1))
            stack.put_back(connection)
            use("came later")
        assert order == ["waiting 0", "waiting 1", "waiting 2", "came later"]

    def test_the_room_of_a_closed_connection_is_given_to_a_thread_that_waits(self, stack: ConnectionStack) -> None:
        with ThreadPoolExecutor() as threads:
            broken = stack.take()
            waiting = threads.submit(stack.take)
            until(partial(is_waited_for, stack, 1))
            stack.close(broken)
            connection = waiting.result(30)
        assert connection is not broken
        stack.close(connection)

    def test_a_thread_that_an_interrupted_one_took_out_of_the_line_is_served(self, stack: ConnectionStack) -> None:
        with ThreadPoolExecutor() as threads:
            connection = stack.take()
            waiting = threads.submit(stack.take)
            until(partial(is_waited_for, stack, 1))
            with stack._lock:
                stack._waiting.clear()
            stack.put_back(connection)
            assert waiting.result(30) is connection
        stack.close(connection)

    def test_a_connection_that_an_interrupted_call_was_given_goes_to_the_next(self, stack: ConnectionStack) -> None:
        connection, caller = stack.take(), threading.get_ident()

        def give_and_interrupt(*_: object) -> None:
            stack.put_back(connection)
            raise KeyboardInterrupt

        def send_signal() -> None:
            until(partial(is_waited_for, stack, 1))
            signal.pthread_kill(caller, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, give_and_interrupt)
        try:
            with ThreadPoolExecutor() as threads:
                sent = threads.submit(send_signal)
                with pytest.raises(KeyboardInterrupt):
                    stack.take()
                sent.result()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert stack.take() is connection
        stack.close(connection)

    def test_a_blocking_pool_says_how_long_a_call_waits(
        self, server: Server, open_engine: Callable[..., VoucherSessions]
    ) -> None:
        with Proxy(server.socket) as proxy, ThreadPoolExecutor() as threads:
            pool = redis.BlockingConnectionPool(port=proxy.port, max_connections=1, timeout=0.1, retry=ONCE)
            engine = open_engine(connection_pool=pool)
            engine.put_voucher(Voucher(code="A", quantity=1))
            proxy.follow(["delay"])
            first = threads.submit(engine.redeem, "A", redemption_id="order")
            proxy.wait_for(connections=1, calls=2)
            with pytest.raises(ServerUnavailable, match=r"all 1 connections were in use for 0\.1 s"):
                engine.redeem("A", redemption_id="other")
            proxy.let_go()
            assert first.result().id == "order"
            assert engine.get_voucher("A").quantity.available == 0
            engine.delete_voucher("A")
            engine.close()
            pool.disconnect()

    def test_a_blocking_pool_whose_timeout_is_zero_does_not_let_calls_wait(self, server: Server) -> None:
        pool = redis.BlockingConnectionPool(
            connection_class=redis.UnixDomainSocketConnection, path=server.socket, max_connections=1, timeout=0
        )
        stack = ConnectionStack(pool)
        connection = stack.take()
        with pytest.raises(redis.ConnectionError, match="in use for 0 s"):
            stack.take()
        stack.close(connection)

    def test_a_connection_that_cannot_be_opened_does_not_count(self, tmp_path: Path) -> None:
        with redis.Redis(unix_socket_path=f"{tmp_path}/nobody", max_connections=1, retry=ONCE) as client:
            engine = VoucherSessions(client)
            for _ in range(3):
                with pytest.raises(ServerUnavailable, match="nobody"):
                    engine.get_voucher("A")


class TestNeitherStarvesTheOther:
    def test_a_client_whose_pool_is_exhausted_leaves_the_engine_its_connections(
        self, open_engine: Callable[..., VoucherSessions]
    ) -> None:
        engine = open_engine(max_connections=1)
        client: Any = engine.client
        pool = client.connection_pool
        connection = pool.get_connection()
        try:
            assert engine.validate("A").reason == "not_found"
        finally:
            pool.release(connection)

    def test_an_engine_that_uses_all_its_connections_leaves_the_client_its_own(
        self, server: Server, open_engine: Callable[..., VoucherSessions]
    ) -> None:
        with Proxy(server.socket) as proxy, ThreadPoolExecutor() as threads:
            pool = redis.ConnectionPool(port=proxy.port, max_connections=1, retry=ONCE)
            engine = open_engine(connection_pool=pool)
            proxy.follow(["delay"])
            waits = threads.submit(engine.validate, "A")
            proxy.wait_for(connections=1, calls=1)
            assert engine.client.ping()
            assert not waits.done()
            proxy.let_go()
            assert waits.result().reason == "not_found"
            engine.close()
            pool.disconnect()


class TestIdleConnections:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An idle connection is looked at before it is used, however short it was idle."""
        monkeypatch.setattr(connection_stack, "_IDLE_SECONDS", -1)

    def test_one_that_the_server_closed_is_replaced(
        self, server: Server, open_engine: Callable[..., VoucherSessions]
    ) -> None:
        engine = open_engine()
        with server.client() as admin:
            for _ in range(3):
                assert engine.validate("A").reason == "not_found"
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def test_one_of_a_server_that_was_restarted_is_replaced(self) -> None:
        with running("valkey") as own, own.client(retry=ONCE) as client, VoucherSessions(client) as engine:
            for _ in range(2):
                engine.put_voucher(Voucher(code="A"))
                own.stop()
                own.start()

    def test_one_with_an_unread_reply_is_replaced(self, server: Server, stack: ConnectionStack) -> None:
        connection = stack.take()
        connection.send_command("PING")
        until(connection.can_read)
        stack.put_back(connection)
        again = stack.take()
        assert not again.can_read()
        assert exchange(again, (), [("ECHO", "mine")]) == [b"mine"]
        stack.close(again)

    def test_one_whose_look_was_interrupted_is_closed_and_does_not_count(
        self, stack: ConnectionStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted() -> bool:
            raise KeyboardInterrupt

        connection = stack.take()
        stack.put_back(connection)
        monkeypatch.setattr(connection, "can_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stack.take()
        again = stack.take()
        assert again is not connection
        stack.close(again)

    def test_without_a_reason_it_stays_open(self, server: Server, open_engine: Callable[..., VoucherSessions]) -> None:
        engine, before = open_engine(health_check_interval=1), received(server)
        for _ in range(5):
            engine.ping()
        assert received(server) - before == 2


class Token(TokenInterface):
    def __init__(self, password: str) -> None:
        self._password = password

    def is_expired(self) -> bool:
        return False

    def ttl(self) -> float:
        return 1e6

    def try_get(self, key: str) -> str:
        return "shop"

    def get_value(self) -> str:
        return self._password

    def get_expires_at_ms(self) -> float:
        return 1e15

    def get_received_at_ms(self) -> float:
        return 0


class Passwords(StreamingCredentialProvider):
    """Its password changes, as the tokens of Entra ID do."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._told: list[Callable[[Any], Any]] = []

    def get_credentials(self) -> tuple[str, str]:
        return "shop", self._password

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self._told.append(callback)

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        return

    def is_streaming(self) -> bool:
        return True

    def change(self, password: str) -> None:
        self._password = password
        for each in self._told:
            each(Token(password))


@pytest.fixture
def shop(server: Server) -> Iterator[Callable[[str], None]]:
    """Gives the user ``shop`` another password."""
    with server.client() as admin:

        def set_password(password: str) -> None:
            passwords = [f"+{password}"]
            admin.acl_setuser("shop", enabled=True, reset_passwords=True, keys="*", channels="*", commands=["+@all"])
            admin.acl_setuser("shop", enabled=True, passwords=passwords, keys="*", channels="*", commands=["+@all"])

        set_password("first")
        yield set_password
        admin.acl_deluser("shop")


class TestNewToken:
    def test_idle_connections_are_renewed(
        self, server: Server, shop: Callable[[str], None], open_engine: Callable[..., VoucherSessions]
    ) -> None:
        provider = Passwords("first")
        engine = open_engine(credential_provider=provider)
        other = VoucherSessions(engine.client)
        for each in (engine, other):
            each.ping()
        before = received(server)
        for password in ("second", "third"):
            shop(password)
            provider.change(password)
            for each in (engine, other):
                each.ping()
        other.close()
        assert received(server) - before == 5, "two engines, twice, and this count"

    def test_a_connection_in_use_is_renewed_when_its_call_has_ended(
        self, server: Server, shop: Callable[[str], None]
    ) -> None:
        provider = Passwords("first")
        with server.client(credential_provider=provider) as client:
            stack = ConnectionStack(client.connection_pool)
            connection = stack.take()
            shop("second")
            provider.change("second")
            stack.put_back(connection)
            renewed = stack.take()
            assert renewed is not connection
            assert exchange(renewed, (), [("ACL", "WHOAMI")]) == [b"shop"]
            stack.close(renewed)

    def test_the_connections_of_the_client_get_the_token_too(
        self, shop: Callable[[str], None], open_engine: Callable[..., VoucherSessions]
    ) -> None:
        provider = Passwords("first")
        engine = open_engine(credential_provider=provider)
        assert engine.client.ping()
        shop("second")
        provider.change("second")
        assert engine.client.acl_whoami() == "shop"


def test_a_child_process_neither_uses_nor_counts_the_connections_of_its_parent(
    stack: ConnectionStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from within; the test below forks."""
    of_parent, child = stack.take(), os.getpid() + 1
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: child)
        of_child = stack.take()
        assert of_child is not of_parent
        stack.put_back(of_parent)
        stack.put_back(of_child)
        assert stack.take() is of_child
        stack.close(of_parent)
        assert set(stack._open) == {of_child}
        stack.close(of_child)


def script(server: Server, *words: str) -> Any:
    """What a module prints, as JSON; ``words`` name it behind python -m."""
    paths = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", *words, server.socket],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_after_a_fork_parent_and_child_have_different_connections(server: Server) -> None:
    """And each gets the replies to its own calls, although they call at the same time."""
    seen = script(server, "transport.forked_engine")
    assert seen["child"] == seen["parent"] == {"wrong": 0, "calls": 300}
    assert len({seen["before"], seen["of parent"], seen["of child"]}) == 2
    assert seen["of parent"] == seen["before"]
    assert seen["key in use"] == "not_found", "calls of the parent do not hold up the child's"


def test_hundreds_of_greenlets_share_an_engine(server: Server) -> None:
    seen = script(server, "gevent.monkey", "--module", "transport.greenlets")
    assert 1 < seen.pop("connections") <= 100
    assert seen == {"errors": [], "calls": 1500}


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/dev/fd"))


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "dropped"])
def test_a_hundred_engines_leave_nothing_behind(server: Server, is_closed: bool) -> None:
    with server.client() as admin, server.client(client_name="leaking") as shared:
        shared.ping()
        files, threads = open_files(), threading.active_count()
        for _ in range(100):
            engine = VoucherSessions(shared, prefix=PREFIX)
            engine.validate("A")
            if is_closed:
                engine.close()
        del engine
        assert (open_files(), threading.active_count()) == (files, threads)
        until(lambda: sum(each["name"] == "leaking" for each in admin.client_list()) == 1)


def test_a_hundred_engines_with_clients_of_their_own_leave_nothing_behind(server: Server) -> None:
    files, threads = open_files(), threading.active_count()
    for _ in range(100):
        with VoucherSessions.from_url(server.url, prefix=PREFIX) as engine:
            engine.validate("A")
    del engine
    assert (open_files(), threading.active_count()) == (files, threads)


def test_a_closed_engine_keeps_no_connection_that_was_in_use(stack: ConnectionStack) -> None:
    connection = stack.take()
    stack.renew()
    stack.put_back(connection)
    assert not connection._sock


class SendsAndIsInterrupted(redis.UnixDomainSocketConnection):
    """The handler of a signal raises TimeoutError, as those of job queues do, when all is sent."""

    def send_packed_command(self, *words: Any, **options: Any) -> None:
        redis.UnixDomainSocketConnection.send_packed_command(self, *words, **options)
        raise redis.TimeoutError("Timeout writing to socket")


def test_a_call_may_have_run_if_its_sending_was_interrupted(server: Server) -> None:
    call = Verbs(Keys(PREFIX, None), None, None, None).delete_voucher("A")
    connection = redis.ConnectionPool(connection_class=SendsAndIsInterrupted, path=server.socket).make_connection()
    with pytest.raises(redis.TimeoutError):
        exchange(connection, (call,), [call.eval_command()])
    connection.disconnect()
    assert call.may_have_run

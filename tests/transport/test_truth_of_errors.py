"""Which error a call raises that got no reply, and how often it was sent before: the same for both engines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from faults.proxy import Fault, Proxy
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import AbstractBackoff, NoBackoff
from redis.exceptions import BusyLoadingError, NoPermissionError
from redis.retry import Retry
from support.servers import Server, free_port, running
from support.waiting import until

from voucher_sessions import (
    AsyncVoucherSessions,
    OutcomeUnknown,
    ServerRefused,
    ServerUnavailable,
    SessionFields,
    Voucher,
    VoucherSessions,
)

CHANGE = methodcaller("redeem", "A", session="cart", redemption_id="order", if_session_missing="redeem")
READ = methodcaller("validate", "A")
LOST: tuple[Fault, ...] = ("lost", "close", "reset", "torn", "swallow")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


def prepared(engine: Any) -> Any:
    """The engine, with a voucher; the server has the scripts."""
    engine.put_voucher(Voucher(code="A", quantity=10))
    READ(engine)
    engine.redeem("A", redemption_id="earlier")
    return engine


class TestNothingWasSent:
    @pytest.fixture(params=["a port that refuses", "a name that nobody has", "no socket", "a server that hangs up"])
    def engine(self, request: pytest.FixtureRequest, tmp_path: Path, engine_at: Callable[..., Any]) -> Iterator[Any]:
        if request.param == "a server that hangs up":  # before the connection is set up
            with Proxy(f"{tmp_path}/nobody") as proxy:
                yield engine_at(proxy.url, retries=2)
            return
        urls = {
            "a port that refuses": f"redis://127.0.0.1:{free_port()}",
            "a name that nobody has": "redis://nobody.invalid:6379",
            "no socket": f"unix://{tmp_path}/nobody",
        }
        yield engine_at(urls[request.param], retries=2)

    @pytest.mark.parametrize("call", [CHANGE, READ, methodcaller("put_voucher", Voucher(code="A"))], ids=str)
    def test_a_call_says_so(self, engine: Any, call: methodcaller) -> None:
        with pytest.raises(ServerUnavailable) as caught:
            call(engine)
        assert caught.value.codes == ("A",)
        assert isinstance(caught.value.__cause__, redis.ConnectionError)

    def test_each_call_of_a_pipeline_says_so(self, engine: Any, execute: Callable[..., list[Any]]) -> None:
        outcomes = execute(engine.pipeline().redeem("A").validate("A"), raise_on_error=False)
        assert [type(each) for each in outcomes] == [ServerUnavailable, ServerUnavailable]

    def test_ping_says_so(self, engine: Any) -> None:
        with pytest.raises(ServerUnavailable) as caught:
            engine.ping()
        assert caught.value.verb == "ping"


class TestReplyWasLost:
    @pytest.mark.parametrize("fault", LOST)
    @pytest.mark.parametrize("retries", [0, 2])
    def test_of_a_change_it_is_unknown_whether_it_ran(
        self, proxy: Proxy, engine_at: Callable[..., Any], fault: Fault, retries: int
    ) -> None:
        engine = prepared(engine_at(proxy.url, retries=retries, socket_timeout=0.3))
        proxy.follow([fault] * (retries + 1))
        with pytest.raises(OutcomeUnknown) as caught:
            CHANGE(engine)
        assert (caught.value.redemption_id, caught.value.session_key) == ("order", "cart")
        again = CHANGE(engine)
        assert again.replayed == (fault != "lost")
        assert engine.get_voucher("A").quantity.available == 8

    @pytest.mark.parametrize("fault", LOST)
    def test_a_read_has_changed_nothing(self, proxy: Proxy, engine_at: Callable[..., Any], fault: Fault) -> None:
        engine = prepared(engine_at(proxy.url, socket_timeout=0.3))
        proxy.follow([fault])
        with pytest.raises(ServerUnavailable) as caught:
            READ(engine)
        assert (caught.value.verb, caught.value.codes) == ("validate", ("A",))
        assert READ(engine).valid

    @pytest.mark.parametrize("fault", LOST)
    def test_a_pipeline_tells_its_changes_from_its_reads(
        self, proxy: Proxy, engine_at: Callable[..., Any], execute: Callable[..., list[Any]], fault: Fault
    ) -> None:
        engine = prepared(engine_at(proxy.url, socket_timeout=0.3))
        proxy.follow([fault] * 10)  # what got no reply is sent once more, alone
        outcomes = execute(CHANGE(engine.pipeline()).validate("A"), raise_on_error=False)
        assert [type(each) for each in outcomes] == [OutcomeUnknown, ServerUnavailable]

    def test_it_stays_unknown_if_the_last_try_was_refused(
        self, server: Server, proxy: Proxy, engine_at: Callable[..., Any]
    ) -> None:
        rights: Any = {"enabled": True, "nopass": True, "keys": "*", "channels": "*"}
        with server.client() as admin:
            admin.acl_setuser("shop", **rights, commands=["+@all"])
            engine = prepared(engine_at(f"redis://shop:any@127.0.0.1:{proxy.port}", retries=3))
            proxy.follow(["close"])
            proxy.meanwhile = lambda: admin.acl_setuser("shop", **rights, commands=["+@all", "-evalsha", "-eval"])
            with pytest.raises(OutcomeUnknown):
                CHANGE(engine)
            with pytest.raises(ServerRefused, match="permission"):
                CHANGE(engine)
            admin.acl_deluser("shop")

    def test_it_stays_unknown_if_the_last_try_could_not_be_sent(self, engine_at: Callable[..., Any]) -> None:
        with running("valkey") as own, Proxy(own.socket) as proxy:
            engine = prepared(engine_at(proxy.url, retries=1))
            proxy.follow(["close"])
            proxy.meanwhile = own.kill
            with pytest.raises(OutcomeUnknown):
                CHANGE(engine)
            with pytest.raises(ServerUnavailable):
                CHANGE(engine)


class Recording(AbstractBackoff):
    """Keeps the numbers of the failures that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __deepcopy__(self, _: object) -> Recording:
        return self  # a connection has a copy of the client's Retry

    def compute(self, failures: int) -> float:
        self.asked.append(failures)
        return 0


@pytest.fixture
def retry_at(engine_at: Callable[..., Any]) -> Callable[..., Any]:
    """Makes an engine whose client has the Retry of these arguments."""

    def make(url: str, *words: Any) -> Any:
        kind = AsyncRetry if isinstance(engine_at(url).client, redis.asyncio.Redis) else Retry
        return engine_at(url, retry=kind(*words))

    return make


class TestRetry:
    @pytest.mark.parametrize("call", [CHANGE, READ], ids=["change", "read"])
    @pytest.mark.parametrize("retries", [0, 1, 3])
    def test_a_call_is_sent_as_often_as_the_client_says(
        self, proxy: Proxy, engine_at: Callable[..., Any], call: methodcaller, retries: int
    ) -> None:
        engine = prepared(engine_at(proxy.url, retries=retries))
        before = proxy.calls
        proxy.follow(["close"] * 9)
        with pytest.raises((OutcomeUnknown, ServerUnavailable)):
            call(engine)
        assert proxy.calls - before == retries + 1

    def test_the_last_try_can_succeed(self, proxy: Proxy, engine_at: Callable[..., Any]) -> None:
        engine = prepared(engine_at(proxy.url, retries=3))
        proxy.follow(["close"] * 3)
        assert not CHANGE(engine).replayed, "the server knows the call by its id"
        assert engine.get_voucher("A").quantity.available == 8

    def test_its_backoff_is_asked(self, proxy: Proxy, retry_at: Callable[..., Any]) -> None:
        backoff = Recording()
        engine = prepared(retry_at(proxy.url, backoff, 3))
        proxy.follow(["close"] * 9)
        with pytest.raises(OutcomeUnknown):
            CHANGE(engine)
        assert backoff.asked == [1, 2, 3]

    def test_an_error_that_it_does_not_support_is_not_repeated(
        self, proxy: Proxy, retry_at: Callable[..., Any]
    ) -> None:
        engine = prepared(retry_at(proxy.url, NoBackoff(), 3, (redis.TimeoutError,)))
        before = proxy.calls
        proxy.follow(["close"] * 9)
        with pytest.raises(OutcomeUnknown):
            CHANGE(engine)
        assert proxy.calls - before == 1

    def test_an_error_of_the_server_that_it_supports_is_repeated(
        self, server: Server, proxy: Proxy, retry_at: Callable[..., Any]
    ) -> None:
        with server.client() as admin:
            admin.acl_setuser("weak", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-evalsha"])
            engine = retry_at(f"redis://weak:any@127.0.0.1:{proxy.port}", NoBackoff(), 3, (NoPermissionError,))
            with pytest.raises(ServerRefused, match="permission"):
                READ(engine)
            admin.acl_deluser("weak")
        assert proxy.calls == 4

    def test_a_retry_that_is_set_later_counts(self, proxy: Proxy, engine_at: Callable[..., Any]) -> None:
        engine = prepared(engine_at(proxy.url))
        proxy.follow(["close"] * 2)
        engine.client.get_retry().update_retries(2)
        assert not CHANGE(engine).replayed

    def test_ping_is_repeated_too(self, tmp_path: Path, retry_at: Callable[..., Any]) -> None:
        backoff = Recording()
        with pytest.raises(ServerUnavailable):
            retry_at(f"unix://{tmp_path}/nobody", backoff, 3).ping()
        assert backoff.asked == [1, 2, 3]


def parts(retry: Any) -> tuple[int, type, dict[str, Any]]:
    return retry.get_retries(), type(retry._backoff), vars(retry._backoff)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "rediss://127.0.0.1:1", "unix:///no/where", "valkey://[::1]"])
@pytest.mark.parametrize(
    ("engine", "client"), [(VoucherSessions, redis.Redis), (AsyncVoucherSessions, redis.asyncio.Redis)]
)
def test_from_url_repeats_as_redis_does_by_default(engine: Any, client: Any, url: str) -> None:
    assert parts(engine.from_url(url).client.get_retry()) == parts(client().get_retry())
    assert client().get_retry().get_retries() > 0


def test_from_url_takes_another_retry(server: Server) -> None:
    with VoucherSessions.from_url(server.url, retry=Retry(NoBackoff(), 7)) as engine:
        client: Any = engine.client
        assert parts(client.get_retry())[:2] == (7, NoBackoff)


CART: SessionFields = {"type": "LOCK", "key": "cart"}
WORKERS = 8


def restart_twice(own: Server, calls: list[str]) -> None:
    """While calls come: kill it, and start it again."""
    for _ in range(2):
        let_come(calls)
        own.kill()
        own.start()
    let_come(calls)


def let_come(calls: list[str]) -> None:
    enough = len(calls) + 200
    until(lambda: len(calls) >= enough)


def test_a_restart_under_load_is_no_error_for_threads() -> None:
    calls: list[str] = []
    ended = threading.Event()

    def work(engine: VoucherSessions, code: str) -> None:
        while not ended.is_set():
            calls.append(engine.put_voucher(Voucher(code=code)).code)
            calls.append(engine.validate(code, session=CART).code)

    with running("valkey") as own, VoucherSessions.from_url(own.url) as engine, ThreadPoolExecutor(WORKERS) as threads:
        working = [threads.submit(work, engine, str(at)) for at in range(WORKERS)]
        try:
            restart_twice(own, calls)
        finally:
            ended.set()
        for each in working:
            each.result()


def test_a_restart_under_load_is_no_error_for_tasks() -> None:
    async def run(own: Server) -> None:
        calls: list[str] = []
        ended = threading.Event()

        async def work(engine: AsyncVoucherSessions, code: str) -> None:
            while not ended.is_set():
                calls.append((await engine.put_voucher(Voucher(code=code))).code)
                calls.append((await engine.validate(code, session=CART)).code)

        def restart() -> None:
            try:
                restart_twice(own, calls)
            finally:
                ended.set()

        async with AsyncVoucherSessions.from_url(own.url) as engine:
            working = [asyncio.create_task(work(engine, str(at))) for at in range(WORKERS)]
            await asyncio.to_thread(restart)
            await asyncio.gather(*working)

    with running("valkey") as own:
        asyncio.run(run(own))


class TestPing:
    def test_it_returns_nothing_if_the_server_answers(self, server: Server, engine_at: Callable[..., Any]) -> None:
        assert engine_at(server.url).ping() is None

    def test_a_server_that_is_silent_does_not_answer(self, engine_at: Callable[..., Any]) -> None:
        with running("valkey") as own, Proxy(own.socket) as proxy:
            engine = engine_at(proxy.url, socket_timeout=0.2)
            engine.ping()
            proxy.cut()
            with pytest.raises(ServerUnavailable):
                engine.ping()
            proxy.mend()

    def test_a_busy_server_answers(self, engine_at: Callable[..., Any]) -> None:
        with running("valkey") as own:
            engine = engine_at(own.url)
            engine.ping()
            with busy(own):
                assert engine.ping() is None
                with pytest.raises(ServerRefused, match="SCRIPT KILL"):
                    CHANGE(engine)
                with pytest.raises(ServerRefused, match="SCRIPT KILL"):
                    READ(engine)
            assert READ(engine).reason == "not_found"


@contextmanager
def busy(own: Server) -> Iterator[None]:
    """A script that does not end."""

    def run() -> None:
        with own.client(retry=None, socket_timeout=60) as client, suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    with own.client() as admin, ThreadPoolExecutor() as threads:
        admin.config_set("lua-time-limit", 20)
        running_it = threads.submit(run)
        until(lambda: is_busy(admin))
        yield
        admin.script_kill()
        running_it.result()


def is_busy(admin: redis.Redis) -> bool:
    try:
        return not admin.ping()
    except redis.ResponseError:
        return True


@contextmanager
def loading_slowly() -> Iterator[Server]:
    """A server that has voucher A, and that must be started again: it then loads its data for 15 seconds, unless ``key-load-delay`` is set to 0."""
    slow = {"key_load_delay": "3000", "loading_process_events_interval_bytes": "1024"}
    with running("valkey", save="3600 1", **slow) as own:
        with own.client() as admin:
            VoucherSessions(admin).put_voucher(Voucher(code="A", quantity=10))
            admin.mset({f"ballast-{at}": "x" * 1000 for at in range(5_000)})
            admin.save()
        own.kill()
        yield own


def test_a_server_that_loads_its_data_has_run_nothing(engine_at: Callable[..., Any]) -> None:
    with loading_slowly() as own, ThreadPoolExecutor(1) as threads:
        meanwhile = threads.submit(outcomes_while_loading, own, engine_at(own.url, retries=1))
        own.start()  # in this thread, with which the server ends
        outcomes = meanwhile.result()
        assert [type(each) for each in outcomes] == [ServerUnavailable] * 3
        assert all(isinstance(each.__cause__, BusyLoadingError) for each in outcomes)


@pytest.mark.parametrize("through_the_client", [False, True])
def test_a_pipeline_waits_for_a_server_that_loads_its_data_as_a_call_does(
    engine_at: Callable[..., Any], execute: Callable[..., list[Any]], through_the_client: bool
) -> None:
    def hurry_after_refusals() -> None:
        with own.client(retry=None) as probe:
            until(lambda: is_loading(probe))
            until(lambda: probe.info("errorstats").get("errorstat_LOADING", {"count": 0})["count"] > 20)
            probe.config_set("key-load-delay", 0)

    with loading_slowly() as own, ThreadPoolExecutor(2) as threads:
        hurry = threads.submit(hurry_after_refusals)

        def redeem_both() -> list[Any]:
            with own.client(retry=None) as probe:
                until(lambda: is_loading(probe))
            engine = engine_at(own.url, retries=100_000, single_connection_client=through_the_client)
            pipe = engine.pipeline().redeem("A", redemption_id="one").validate("B").redeem("A", redemption_id="two")
            return execute(pipe, raise_on_error=False)

        results = threads.submit(redeem_both)
        own.start()  # in this thread, with which the server ends
        one, none, two = results.result()
        hurry.result()
        assert (one.id, none.reason, two.id, one.replayed or two.replayed) == ("one", "not_found", "two", False)
        with own.client() as admin:
            assert VoucherSessions(admin).get_voucher("A").quantity.used == 2


def test_a_pipeline_is_repeated_as_a_whole_while_a_server_loads_its_data(
    retry_at: Callable[..., Any], execute: Callable[..., list[Any]]
) -> None:
    backoff = Recording()

    def outcomes_of_ten() -> list[Any]:
        with own.client(retry=None) as probe:
            until(lambda: is_loading(probe))
            pipe = retry_at(own.url, backoff, 3).pipeline()
            for at in range(10):
                pipe.validate(f"V{at}")
            outcomes: list[Any] = execute(pipe, raise_on_error=False)
            probe.config_set("key-load-delay", 0)
        return outcomes

    with loading_slowly() as own, ThreadPoolExecutor(1) as threads:
        meanwhile = threads.submit(outcomes_of_ten)
        own.start()  # in this thread, with which the server ends
        assert [type(each) for each in meanwhile.result()] == [ServerUnavailable] * 10
    assert backoff.asked == [1, 2, 3]


def outcomes_while_loading(own: Server, engine: Any) -> list[Any]:
    """Of a change, a read and a ping."""
    with own.client(retry=None) as probe:
        until(lambda: is_loading(probe))
        outcomes = [error_of(call, engine) for call in (CHANGE, READ, methodcaller("ping"))]
        probe.config_set("key-load-delay", 0)
    return outcomes


def is_loading(probe: redis.Redis) -> bool:
    try:
        return not probe.ping()
    except BusyLoadingError:
        return True
    except redis.ConnectionError:
        return False


def error_of(call: methodcaller, engine: Any) -> Exception | None:
    try:
        call(engine)
    except redis.RedisError as error:
        return error
    return None

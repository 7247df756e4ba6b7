"""The proxy does to connections what it promises; otherwise the tests that use it would prove nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from support.servers import Server, running

from faults.proxy import FAULTS, Fault, Proxy, at_random

SCRIPT = "return redis.call('INCR', 'n')"
ERRORS: dict[Fault, tuple[type[Exception], str]] = {
    "lost": (RedisConnectionError, "closed by server"),
    "late": (RedisTimeoutError, "Timeout"),
    "close": (RedisConnectionError, "closed by server"),
    "reset": (RedisConnectionError, "reset by peer"),
    "torn": (RedisConnectionError, "closed by server"),
    "swallow": (RedisTimeoutError, "Timeout"),
    "delay": (RedisTimeoutError, "Timeout"),
}


@pytest.fixture(scope="module")
def server(server_of: Callable[[str], Server]) -> Server:
    return server_of("valkey")


def once(proxy: Proxy, timeout: float) -> redis.Redis:
    return redis.Redis("127.0.0.1", proxy.port, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_does_what_its_name_says(server: Server, fault: Fault) -> None:
    with server.client() as direct, Proxy(server.socket) as proxy, once(proxy, 0.3) as client:
        direct.delete("n")
        client.ping()
        proxy.follow([None, fault])
        assert client.eval(SCRIPT, 0) == 1
        error, text = ERRORS[fault]
        with pytest.raises(error, match=text):
            client.eval(SCRIPT, 0)
        if fault == "late":
            assert direct.get("n") == b"1"
        proxy.let_go()
        proxy.settle(2)
        assert direct.get("n") == (b"1" if fault == "lost" else b"2")
        assert client.eval(SCRIPT, 0) == (2 if fault == "lost" else 3), "the plan has ended"
        assert proxy.injected == {fault: 1}
        assert proxy.calls == 3


def test_other_commands_pass_without_fault(server: Server) -> None:
    with Proxy(server.socket) as proxy, once(proxy, 10) as client:
        proxy.follow(itertools.repeat("close"))
        assert client.set("x", "EVALSHA") is True
        assert client.get("x") == b"EVALSHA"
        assert not proxy.injected


@pytest.mark.parametrize("fault", ["late", "delay"])
def test_a_delay_of_seconds(server: Server, fault: Fault) -> None:
    with Proxy(server.socket, delay=0.05) as proxy, once(proxy, 10) as client:
        proxy.follow([fault])
        assert client.eval("return 7", 0) == 7


def test_meanwhile_comes_between_the_script_and_the_loss_of_its_reply(server: Server) -> None:
    with server.client() as direct, Proxy(server.socket) as proxy, once(proxy, 10) as client:
        direct.delete("n")
        seen = []
        proxy.meanwhile = lambda: seen.append(direct.get("n"))
        proxy.follow([None, "close"])
        client.eval(SCRIPT, 0)
        assert seen == []
        with pytest.raises(RedisConnectionError):
            client.eval(SCRIPT, 0)
        assert seen == [b"2"]


def test_cut_and_mended(server: Server) -> None:
    """What was sent in between arrives when it is mended, as in a network."""
    with server.client() as direct, Proxy(server.socket) as proxy, once(proxy, 0.2) as client:
        direct.delete("n")
        client.ping()
        proxy.cut()
        with pytest.raises(RedisTimeoutError):
            client.eval(SCRIPT, 0)
        with pytest.raises(RedisTimeoutError):
            client.ping()
        assert direct.get("n") is None
        proxy.mend()
        proxy.settle(1)
        assert direct.get("n") == b"1"
        with once(proxy, 10) as patient:
            assert patient.eval(SCRIPT, 0) == 2


def test_a_server_on_a_port(server: Server) -> None:
    with Proxy(server.socket) as inner, Proxy(("127.0.0.1", inner.port)) as outer, once(outer, 10) as client:
        assert client.eval("return 7", 0) == 7


def test_a_server_that_does_not_exist() -> None:
    with Proxy("/nowhere") as proxy, once(proxy, 10) as client, pytest.raises(RedisConnectionError):
        client.ping()


def test_a_server_that_dies(server_of: Callable[[str], Server]) -> None:
    with running("valkey") as mortal, Proxy(mortal.socket) as proxy, once(proxy, 10) as client:
        client.ping()
        mortal.kill()
        with pytest.raises(RedisConnectionError):
            client.ping()


def test_random_faults_depend_only_on_their_seed() -> None:
    one, other = ([*itertools.islice(at_random(seed, 0.3), 200)] for seed in (1, 1))
    assert one == other
    assert set(one) == {None, *FAULTS}
    assert 30 < sum(fault is not None for fault in one) < 90

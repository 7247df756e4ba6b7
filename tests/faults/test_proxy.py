"""The proxy does to connections what it promises; otherwise the tests that use it would prove nothing."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from support.servers import Server, running

from faults.proxy import FAULTS, Fault, Frames, Proxy, at_random

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


# --- Many calls under way on one connection ------------------------------------------------------------------------

CALLS = 6
# Of six calls sent together, of which the third has a fault: the replies that come, and how the connection ends.
SEEN: dict[Fault, tuple[list[int], str]] = {
    "lost": ([1, 2], "closed"),
    "late": ([1, 2, 3, 4, 5, 6], "open"),
    "close": ([1, 2], "closed"),
    "reset": ([1, 2], "closed"),
    "torn": ([1, 2], "closed"),
    "swallow": ([1, 2], "open"),
    "delay": ([1, 2, 3, 4, 5, 6], "open"),
    "drop": ([1, 2, 4, 5, 6], "open"),
    "double": ([1, 2, 3, 3, 4, 5, 6], "open"),
}


class PlainConnection:
    """Sends scripts without waiting, and reads the numbers that come."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)

    def send(self, calls: int) -> None:
        command = f"*3\r\n$4\r\nEVAL\r\n${len(SCRIPT)}\r\n{SCRIPT}\r\n$1\r\n0\r\n"
        self._socket.sendall(calls * command.encode())

    def numbers(self, expected: int) -> tuple[list[int], str]:
        """So many replies, if they come, or those before the end; and whether the connection is still open."""
        received, end = b"", "closed"
        try:
            while data := self._socket.recv(1 << 16):
                received += data
                if received.count(b"\r\n") >= expected:
                    self._socket.settimeout(0.2)  # nothing more comes, or the end
        except TimeoutError:
            end = "open"
        except ConnectionResetError:
            pass
        return [int(line.strip(b":")) for line in received.split(b"\r\n")[:-1]], end

    def close(self) -> None:
        self._socket.close()


@contextmanager
def plain(proxy: Proxy) -> Iterator[PlainConnection]:
    connection = PlainConnection(proxy.port)
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("fault", SEEN)
def test_a_fault_in_the_middle_of_many_calls(server: Server, fault: Fault) -> None:
    with server.client() as direct, Proxy(server.socket) as proxy, plain(proxy) as connection:
        direct.delete("n")
        proxy.follow([None, None, fault])
        connection.send(CALLS)
        proxy.wait_for(1, 3)
        proxy.let_go()
        expected, end = SEEN[fault]
        assert connection.numbers(len(expected)) == (expected, end)
        proxy.settle(3 if fault == "lost" else CALLS)
        assert direct.get("n") == (b"2" if fault == "lost" else b"6")


def test_replies_are_recognised_wherever_they_are_cut() -> None:
    parts = [b"+OK\r\n", b"$-1\r\n", b"$4\r\na\r\nb\r\n", b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n", b"*-1\r\n"]
    parts += [b"%1\r\n+a\r\n~2\r\n:1\r\n,1.5\r\n", b"_\r\n", b"#t\r\n", b"=5\r\ntxt:a\r\n", b"-ERR x\r\n"]
    whole = b"".join(parts)
    for at in range(len(whole)):
        frames = Frames()
        assert [*frames.whole(whole[:at]), *frames.whole(whole[at:])] == parts


def test_what_is_no_redis_protocol_passes_as_it_comes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        Proxy(("127.0.0.1", listening.getsockname()[1])) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection,
    ):
        connection.sendall(b"\x16\x03 hello")
        accepted, _ = listening.accept()
        assert accepted.recv(100) == b"\x16\x03 hello"
        accepted.sendall(b"\x16\x03 and")
        assert connection.recv(100) == b"\x16\x03 and"
        accepted.close()


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

"""The first call of an engine, which compares its ``partition`` with that of others, is no point of failure of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import redis.exceptions
from support import untyped
from support.scripted_clients import AsyncScriptedClient, ScriptedClient

from voucher_sessions import (
    CorruptState,
    InvalidRequest,
    ServerRefused,
    ServerUnavailable,
)
from voucher_sessions._core import scripts
from voucher_sessions._transport import aio, clients, sync

STATE = [b"state", -1, 0, 0, 0, 0, 0, 0, 0, 0]
FAILURES = [
    redis.exceptions.ConnectionError("refused"),
    redis.exceptions.TimeoutError("late"),
    redis.exceptions.ClusterDownError("CLUSTERDOWN Hash slot not served"),
    redis.exceptions.OutOfMemoryError("OOM command not allowed"),
]


class Node(NamedTuple):
    name: str
    cluster: PartitionServerDown

    async def execute_pipeline(self, commands: list[Any]) -> None:
        for command in commands:
            command.result = self.cluster.reply(command.args)


class PartitionServerDown(ScriptedClient):
    """A cluster. The server of the partition's key gives ``failure`` while there is one; other calls find the voucher."""

    failure: Exception | None = None
    stored: bytes | None = None
    seconds = 0.0  # that the failure takes
    meanwhile: Callable[[], object] | None = None  # what another thread does while the failing call waits
    times: list[float]
    node_of_voucher = "another"

    def get_node_from_key(self, key: bytes) -> Node:
        if self.node_of_voucher == "none":
            raise redis.exceptions.SlotNotCoveredError("Slot 5 is not covered")
        return Node("first" if key == b"vs:partition" else self.node_of_voucher, self)

    def get_redis_connection(self, node: Node) -> PartitionServerDown:
        return self

    def get_nodes(self) -> list[Any]:
        return []

    def reply(self, command: tuple[Any, ...]) -> Any:
        if command[1] in (scripts.AGREE_ON_PARTITION.sha, scripts.AGREE_ON_PARTITION.text):
            own: str = command[-1]
            if self.failure:
                self.times[0] += self.seconds
                meanwhile, self.meanwhile = self.meanwhile, None
                if meanwhile:
                    meanwhile()
            self._replies = [self.failure or [b"partition", self.stored or own.encode()]]
        elif command[0] != "ECHO":
            self._replies = [STATE]
        return super().reply(command)

    def times_asked(self) -> int:
        return sum(command[1] == scripts.AGREE_ON_PARTITION.sha for command in self.sent)


class AsyncPartitionServerDown(PartitionServerDown, AsyncScriptedClient):
    """The same for asyncio."""

    async def initialize(self) -> None:
        return None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time of both transports, as the only item."""
    times = [1000.0]
    for module in (sync, aio):
        monkeypatch.setattr(module.time, "monotonic", lambda: times[0])
    monkeypatch.setattr(PartitionServerDown, "times", times, raising=False)
    monkeypatch.setattr(clients, "is_cluster", lambda client: isinstance(client, PartitionServerDown))
    monkeypatch.setattr(clients, "retry_period_seconds", lambda client: 0)
    return times


@pytest.fixture(params=["sync", "async"])
def engine_and_client(request: pytest.FixtureRequest, now: list[float]) -> tuple[Any, PartitionServerDown]:
    """A function that reads a voucher, and the client that it reads it with."""
    if request.param == "sync":
        client = PartitionServerDown()
        engine = untyped.VoucherSessions(client, partition=str.upper)
        return lambda: engine.get_voucher("A"), client
    asyncio_client = AsyncPartitionServerDown()
    waiting = untyped.AsyncVoucherSessions(asyncio_client, partition=str.upper)
    return lambda: asyncio.run(waiting.get_voucher("A")), asyncio_client


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_calls_work_while_the_server_of_the_partition_is_down(
    engine_and_client: tuple[Any, PartitionServerDown], now: list[float], failure: Exception
) -> None:
    get_voucher, client = engine_and_client
    client.failure = failure
    for _ in range(3):
        assert get_voucher().code == "A"
    assert client.times_asked() == 1, "not before each call: that would slow all of them down"
    now[0] += 11
    assert get_voucher().code == "A"
    assert client.times_asked() == 2
    client.failure = None
    now[0] += 11
    for _ in range(3):
        assert get_voucher().code == "A"
    assert client.times_asked() == 3, "and not again once it has succeeded"


def test_another_partition_is_refused_as_soon_as_it_is_known(
    engine_and_client: tuple[Any, PartitionServerDown], now: list[float]
) -> None:
    get_voucher, client = engine_and_client
    client.failure, client.stored = FAILURES[0], b"another"
    assert get_voucher().code == "A"
    client.failure = None
    now[0] += 11
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="partition: "):
            get_voucher()


def test_a_value_that_this_library_did_not_write_is_no_failure_of_a_server(
    engine_and_client: tuple[Any, PartitionServerDown], now: list[float]
) -> None:
    get_voucher, client = engine_and_client
    client.failure = redis.exceptions.ResponseError("CORRUPT vs:partition")
    with pytest.raises(CorruptState):
        get_voucher()


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_calls_that_need_the_same_server_do_not_go_on_without_it(
    engine_and_client: tuple[Any, PartitionServerDown], failure: Exception
) -> None:
    """An engine with another partition must not write: so the failure of the comparison is that of the call."""
    get_voucher, client = engine_and_client
    client.failure, client.node_of_voucher = failure, "first"
    for _ in range(2):
        with pytest.raises((ServerRefused, ServerUnavailable)):
            get_voucher()
    client.failure = None
    assert get_voucher().code == "A"


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_without_a_cluster_no_call_goes_on_without_the_comparison(failure: Exception) -> None:
    client = PartitionServerDown()
    client.failure = failure
    client.times = [0.0]
    with pytest.raises((ServerRefused, ServerUnavailable), match=r"^get_voucher of 'A'.*\(at the key 'vs:partition'\)"):
        untyped.VoucherSessions(client, partition=str.upper).get_voucher("A")


def test_a_pipeline_without_calls_makes_the_first_call_under_its_own_name() -> None:
    client = PartitionServerDown()
    client.failure = FAILURES[-1]
    client.times = [0.0]
    engine = untyped.VoucherSessions(client, partition=str.upper)
    with pytest.raises(ServerRefused, match=r"^agree_on_partition: the server refused the call: OOM"):
        engine.pipeline().execute()


def test_a_server_that_hangs_is_asked_less_often(
    engine_and_client: tuple[Any, PartitionServerDown], now: list[float]
) -> None:
    get_voucher, client = engine_and_client
    client.failure, client.seconds = FAILURES[1], 50
    assert get_voucher().code == "A"
    now[0] += 900
    assert get_voucher().code == "A"
    assert client.times_asked() == 1
    now[0] += 101
    assert get_voucher().code == "A"
    assert client.times_asked() == 2


def test_while_a_slot_has_no_server_the_comparison_is_made_later(
    engine_and_client: tuple[Any, PartitionServerDown],
) -> None:
    get_voucher, client = engine_and_client
    client.failure, client.node_of_voucher = FAILURES[2], "none"
    assert get_voucher().code == "A"


def test_only_one_caller_waits_for_a_server_that_hangs(now: list[float]) -> None:
    client = PartitionServerDown()
    client.failure, client.seconds = FAILURES[1], 5
    engine = untyped.VoucherSessions(client, partition=str.upper)
    assert engine.get_voucher("A").code == "A"
    now[0] += 200
    client.meanwhile = lambda: engine.get_voucher("A")
    assert engine.get_voucher("A").code == "A"
    assert client.meanwhile is None, "it was called"
    assert client.times_asked() == 2


def test_a_slot_table_that_the_user_may_not_read_is_raised_at_once(
    engine_and_client: tuple[Any, PartitionServerDown],
) -> None:
    """The other calls would fail as well, and as slowly."""
    get_voucher, client = engine_and_client
    client.failure = redis.exceptions.ConnectionError("no node can be reached")
    client.failure.__cause__ = redis.exceptions.NoPermissionError("no permissions to run the 'cluster|slots' command")
    for _ in range(2):
        with pytest.raises(redis.exceptions.ConnectionError):
            get_voucher()

"""The fixtures of the behaviour suite for a cluster and for Sentinel, with clients that ``from_url`` builds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
import redis.asyncio
from conftest import Backend, Clock

from cluster.topology import Cluster, Sentinels, running_cluster, running_sentinels
from voucher_sessions import VoucherSessions
from voucher_sessions._transport import urls


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """No failover comes between its tests, however busy the machine."""
    with running_cluster("valkey", node_timeout_ms=10_000) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sentinels() -> Iterator[Sentinels]:
    with running_sentinels("valkey", down_after_ms=10_000) as sentinels:
        yield sentinels


class TopologyBackend(Backend):
    """A cluster or a Sentinel set-up in the place of one server."""

    def __init__(self, name: str, url: str, admin: Any) -> None:
        """``admin``: a server's client or a cluster's, which has the same commands."""
        self.name = name
        self.url = url
        self.is_fake = False
        self.admin = admin
        self.admin.flushall()
        self.clock = Clock(self.admin, None)
        self.opened: list[urls.Opened] = []
        self.opened_async: list[urls.AsyncOpened] = []

    def client(self, **options: Any) -> redis.Redis:
        self.opened.append(urls.open_url(self.url, options))
        client: redis.Redis = self.opened[-1].client
        return client

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        self.opened_async.append(urls.open_url_async(self.url, options))
        client: redis.asyncio.Redis = self.opened_async[-1].client
        return client

    async def close(self) -> None:
        for each in self.opened:
            each.close()
        for each_async in self.opened_async:
            await each_async.close()


@pytest.fixture
def partition() -> str | None:
    """Into which partition the tests' engines put all codes on a cluster."""
    return None


@pytest.fixture(params=["cluster", "sentinel"])
def backend(
    request: pytest.FixtureRequest, partition: str | None, loop: asyncio.AbstractEventLoop
) -> Iterator[Backend]:
    with ExitStack() as closing:
        if request.param == "cluster":
            cluster: Cluster = request.getfixturevalue("cluster")
            backend = TopologyBackend("cluster", cluster.url, closing.enter_context(cluster.admin(partition)))
        else:
            sentinels: Sentinels = request.getfixturevalue("sentinels")
            backend = TopologyBackend("sentinel", sentinels.url, closing.enter_context(sentinels.admin()))
        yield backend
        loop.run_until_complete(backend.close())


@pytest.fixture
def make_engine(
    make_engine: Callable[..., VoucherSessions], backend: Backend, partition: str | None
) -> Callable[..., VoucherSessions]:
    if partition is None or backend.name == "sentinel":
        return make_engine
    return lambda **options: make_engine(**{"partition": lambda code: partition, **options})

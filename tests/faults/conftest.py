"""Servers with proxies in front of them, and how long the random tests run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.moved_clock import ServerClock
from support.servers import BINARIES, Server

from faults.lost_reply_trials import CLIENT_KINDS, PreparedServer, Route, prepare
from faults.moved_clocks import BACKENDS, Shop, shop_on
from faults.proxy import Proxy


@pytest.fixture(scope="session")
def real_servers(server_of: Callable[[str], Server]) -> list[Server]:
    return [server_of(name) for name in BINARIES]


@pytest.fixture(scope="session")
def proxy_of() -> Iterator[Callable[[Server, int], Proxy]]:
    """The proxies of a server, by number, each started when first asked for."""
    opened: dict[tuple[str, int], Proxy] = {}

    def get(server: Server, number: int) -> Proxy:
        name = server.socket, number
        if name not in opened:
            opened[name] = Proxy(server.socket)
        return opened[name]

    yield get
    for proxy in opened.values():
        proxy.close()


@pytest.fixture(scope="module")
def prepared(real_servers: list[Server]) -> Iterator[list[PreparedServer]]:
    with ExitStack() as opened:
        yield [prepare(server, opened.enter_context(server.client())) for server in real_servers]


@pytest.fixture
def routes(
    request: pytest.FixtureRequest, prepared: list[PreparedServer], proxy_of: Callable[[Server, int], Proxy]
) -> list[Route]:
    """One for each kind of caller; from fault to fault they go to another server."""
    turn = request.node.callspec.indices.get("fault", 0)
    found = []
    for at, client_kind in enumerate(CLIENT_KINDS):
        where = prepared[(turn + at + at // 2 + at // 4) % len(prepared)]
        found.append(Route(client_kind, where, proxy_of(where.server, at)))
    return found


@pytest.fixture(scope="session")
def soak_seconds() -> float:
    """How long each random test runs: SOAK_SECONDS of the environment, or as briefly as fits into every run."""
    return float(os.environ.get("SOAK_SECONDS", "4"))


@pytest.fixture(scope="session")
def servers_with_clocks() -> Iterator[tuple[dict[str, tuple[Server, ServerClock]], ExitStack]]:
    """Those that run already, and what ends them. Each is started when a test first needs it."""
    with ExitStack() as stack:
        yield {}, stack


@pytest.fixture(params=BACKENDS)
def shop(
    request: pytest.FixtureRequest, servers_with_clocks: tuple[dict[str, tuple[Server, ServerClock]], ExitStack]
) -> Iterator[Shop]:
    """An empty one, with its clock stopped."""
    with shop_on(request.param, *servers_with_clocks) as shop:
        yield shop

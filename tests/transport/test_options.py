"""Options of ``from_url``, also inside of others: a name that cannot work is refused at once, and the right one named."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from voucher_sessions import AsyncVoucherSessions, InvalidRequest, VoucherSessions
from voucher_sessions._transport import options

ENGINES: Any = (VoucherSessions, AsyncVoucherSessions)
URLS = {
    "redis": "redis://127.0.0.1:1",
    "rediss": "rediss://127.0.0.1:1",
    "unix": "unix:///no/where.sock",
    "redis+cluster": "redis+cluster://127.0.0.1:1",
    "redis+sentinel": "redis+sentinel://127.0.0.1:1/service",
    "embedded": "embedded://",
    "memory": "memory://",
}
SENTINEL = URLS["redis+sentinel"]


@pytest.fixture(params=ENGINES, ids=["sync", "async"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.param


def close(engine: Any) -> None:
    engine.close() if isinstance(engine, VoucherSessions) else asyncio.run(engine.aclose())


# --- The engine's own options ----------------------------------------------------------------------------------------


def test_the_options_of_the_engine_are_all_known(engine: Any) -> None:
    parameters = inspect.signature(engine.from_url).parameters.values()
    assert tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY) == options.ENGINE_OPTIONS


@pytest.mark.parametrize("scheme", URLS)
@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("prefx", "prefix"),
        ("partion", "partition"),
        ("durabilty", "durability"),
        ("recept_ttl", "receipt_ttl"),
        ("default_tll", "default_ttl"),
        ("max_tll", "max_ttl"),
        ("loadr", "loader"),
        ("on_cal", "on_call"),
    ],
)
def test_a_misspelt_option_of_the_engine(engine: Any, scheme: str, misspelt: str, meant: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"did you mean {meant}\?") as refused:
        engine.from_url(URLS[scheme], **{misspelt: 5})
    assert refused.value.field == misspelt


@pytest.mark.parametrize("name", [*options.ENGINE_OPTIONS, "max_tll"])
def test_an_option_of_the_engine_in_the_url(engine: Any, name: str) -> None:
    meant = name.replace("tll", "ttl")
    with pytest.raises(
        InvalidRequest, match=f"has the option {name}.*give {meant} to from_url as an argument"
    ) as refused:
        engine.from_url(f"redis://127.0.0.1:1?{name}=5")
    assert refused.value.field == "url"


# --- Options that pass the constructor and fail at the first call ----------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel", "memory"])
def test_the_name_of_all_further_arguments_is_no_option(engine: Any, scheme: str) -> None:
    for name in ("connection_kwargs", "kwargs", "args", "options"):
        with pytest.raises(InvalidRequest, match="is no option") as refused:
            engine.from_url(URLS[scheme], **{name: {}})
        assert refused.value.field == name


def every_name() -> list[str]:
    """Every argument that a class of redis-py or fakeredis takes, by whatever way."""
    classes: list[Any] = [fakeredis.FakeRedis, fakeredis.FakeAsyncRedis]
    for library in (redis, redis.asyncio):
        of_library: Any = library
        classes += [of_library.Redis, of_library.ConnectionPool, of_library.SSLConnection, of_library.RedisCluster]
        classes += [of_library.UnixDomainSocketConnection, of_library.sentinel.Sentinel]
    signatures = [inspect.signature(base.__init__) for each in classes for base in each.__mro__]
    unnamed = [name for names in (*options._UNNAMED.values(), *options._ASYNC_UNNAMED.values()) for name in names]
    return sorted(
        {name for each in signatures for name in each.parameters if name not in ("self", "url")}.union(unnamed)
    )


def problem_of(make: Callable[[], object]) -> str:
    """The text of the ``TypeError`` that is raised, if one is."""
    try:
        make()
    except TypeError as error:
        return str(error)
    except Exception:  # about the value: redis-py takes the name
        return ""
    return ""


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel"])
def test_an_option_that_is_accepted_is_one_of_the_connections(engine: Any, scheme: str) -> None:
    def make(name: str) -> None:
        opened = engine.from_url(URLS[scheme], **{name: 1 if name == "port" else None})
        accepted.append(name)
        pool = opened.client.connection_pool
        pool.connection_class(**pool.connection_kwargs)

    accepted: list[str] = []
    for name in every_name():
        assert "argument" not in problem_of(partial(make, name)), name
    assert len(accepted) > 20


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_an_option_that_is_accepted_is_one_of_the_client_of_a_cluster() -> None:
    """Only for asyncio: the sync one connects as it is built, and leaves out what it does not know."""
    for name in every_name():
        given: Any = {name: 1 if name == "port" else None}
        assert not problem_of(partial(AsyncVoucherSessions.from_url, URLS["redis+cluster"], **given)), name


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("engine", "scheme"),
    [
        *itertools.product(ENGINES, ("redis", "rediss", "unix", "redis+sentinel")),
        (AsyncVoucherSessions, "redis+cluster"),  # the sync one connects as it is built
    ],
)
def test_an_option_that_is_refused_is_none_of_redis_py(engine: Any, scheme: str) -> None:
    library: Any = redis if engine is VoucherSessions else redis.asyncio

    def make(name: str) -> None:
        given: Any = {name: 1 if name == "port" else None}
        if scheme == "redis+cluster":
            library.RedisCluster(**{"host": "127.0.0.1", **given})
            return
        if scheme == "redis+sentinel":
            client = library.sentinel.Sentinel([("127.0.0.1", 1)], **given).master_for("service")
        else:
            client = library.Redis.from_url(URLS[scheme], **given)
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)

    # redis-py replaces these two of a client from Sentinel, and makes the startup nodes from host and port.
    replaced = {"redis+sentinel": {"connection_pool", "is_master"}, "redis+cluster": {"startup_nodes"}}
    refused: list[str] = []
    for name in every_name():
        try:
            close(engine.from_url(URLS[scheme], **{name: 1 if name == "port" else None}))
        except InvalidRequest:
            refused.append(name)
        except Exception:  # about the value: the engine takes the name
            continue
    assert [name for name in refused if "argument" not in problem_of(partial(make, name))] == [
        name for name in refused if name in replaced.get(scheme, ())
    ]
    assert len(refused) > 10


@pytest.mark.parametrize("name", ["startup_nodes", "connection_kwargs"])
def test_the_nodes_of_a_cluster_are_in_the_url(engine: Any, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.from_url(URLS["redis+cluster"], **{name: []})
    assert refused.value.field == name


@pytest.mark.parametrize("name", ["sentinels", "connection_pool", "unix_socket_path", "single_connection_client"])
def test_what_a_client_from_sentinel_does_not_take(engine: Any, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.from_url(SENTINEL, **{name: None})
    assert refused.value.field == name


def test_tls_with_sentinel_needs_ssl(engine: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"ssl_ca_certs.*it needs ssl=True") as refused:
        engine.from_url(SENTINEL, ssl_ca_certs="/ca.pem")
    assert refused.value.field == "ssl_ca_certs"
    with pytest.raises(InvalidRequest, match=r"ssl_ca_certs.*it needs ssl=True") as refused:
        engine.from_url(f"{SENTINEL}?ssl_ca_certs=/ca.pem")
    assert refused.value.field == "url"
    close(engine.from_url(SENTINEL, ssl=True, ssl_ca_certs="/ca.pem"))
    close(engine.from_url(f"{SENTINEL}?ssl=1&ssl_ca_certs=/ca.pem"))


@pytest.mark.parametrize(
    ("value", "on"),
    [*((word, True) for word in ("true", "True", "1", "yes", "T")), *((word, False) for word in ("false", "0", "No"))],
)
def test_ssl_in_the_url_is_a_boolean(engine: Any, value: str, on: bool) -> None:
    with_sentinel = engine.from_url(f"{SENTINEL}?ssl={value}")
    assert ("SSL" in with_sentinel.client.connection_pool.connection_class.__name__) is on
    close(with_sentinel)
    with_cluster = AsyncVoucherSessions.from_url(f"{URLS['redis+cluster']}?ssl={value}")
    cluster: Any = with_cluster.client
    (node,) = cluster.nodes_manager.startup_nodes.values()
    assert ("SSL" in node.connection_class.__name__) is on
    close(with_cluster)


def test_tls_that_is_turned_off_in_the_url_takes_no_options(engine: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"ssl_ca_certs.*it needs ssl=True"):
        engine.from_url(f"{SENTINEL}?ssl=false&ssl_ca_certs=/ca.pem")
    close(engine.from_url(f"{SENTINEL}?ssl=false&ssl_ca_certs=/ca.pem", ssl=True))


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize("value", ["maybe", "off", "2", "%20"])
def test_ssl_in_the_url_that_is_no_boolean(engine: Any, scheme: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match="has the option ssl, which must be true or false") as refused:
        engine.from_url(f"{URLS[scheme]}?ssl={value}")
    assert refused.value.field == "url"


@pytest.mark.parametrize("option", ["ssl=true", "ssl=maybe", "ssl_cert_reqs=none", "ssl_ca_certs=/ca.pem"])
def test_tls_for_one_server_has_a_scheme_of_its_own(engine: Any, option: str) -> None:
    name, _, value = option.partition("=")
    for url, given in ((f"redis://127.0.0.1:1?{option}", {}), ("redis://127.0.0.1:1", {name: value})):
        with pytest.raises(InvalidRequest, match=rf"{name}.*: use rediss://"):
            engine.from_url(url, **given)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+cluster"])
def test_a_dict_that_the_scheme_does_not_have(engine: Any, scheme: str) -> None:
    with pytest.raises(InvalidRequest, match="sentinel_kwargs, which no client for") as refused:
        engine.from_url(f"{URLS[scheme]}?sentinel_kwargs=x")
    assert refused.value.field == "url"
    for given in ({}, {"pasword": "x"}, 5):
        with pytest.raises(InvalidRequest, match="is no option") as refused:
            engine.from_url(URLS[scheme], sentinel_kwargs=given)
        assert refused.value.field == "sentinel_kwargs"


def test_a_name_in_a_url_that_cannot_be_encoded(engine: Any) -> None:
    for name in ("\ud800", "x" * 10_000):
        with pytest.raises(InvalidRequest) as refused:
            engine.from_url(f"redis://127.0.0.1:1?{name}=1")
        assert refused.value.field == "url"
        assert len(str(refused.value).encode()) < 1000


# --- Options inside of others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"pasword": "x"}, r"has pasword, .*did you mean password\?"),
        ({"max_tll": 5}, "has max_tll"),
        ({"host": "127.0.0.1"}, "has host"),
        ({5: 5}, "has 5"),
        ({"x" * 10_000: 5}, "documentation"),
        ([("password", "x")], "must be a dict"),
        (5, "must be a dict"),
    ],
)
def test_the_options_of_the_clients_of_sentinels(engine: Any, given: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as refused:
        engine.from_url(SENTINEL, sentinel_kwargs=given)
    assert refused.value.field == "sentinel_kwargs"
    assert "max_ttl" not in str(refused.value), "of the engine, and not of a Sentinel's client"
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "given", [None, {}, {"password": "x", "socket_timeout": 3, "ssl": True, "ssl_ca_certs": "/ca"}]
)
def test_right_options_of_the_clients_of_sentinels(engine: Any, given: Any) -> None:
    close(engine.from_url(SENTINEL, sentinel_kwargs=given))


def test_options_of_sockets_that_only_the_server_gets(engine: Any) -> None:
    opened = engine.from_url(SENTINEL, socket_type=socket.SOCK_STREAM, socket_timeout=3)
    pool = opened.client.connection_pool
    assert pool.connection_kwargs["socket_type"] is socket.SOCK_STREAM
    of_sentinel = pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs
    assert of_sentinel["socket_timeout"] == 3
    assert "socket_type" not in of_sentinel
    close(opened)


@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel"])
@pytest.mark.parametrize("given", [{"TCP_KEEPIDLE": 60}, "TCP_KEEPIDLE", [60]])
def test_the_options_of_keepalive(engine: Any, scheme: str, given: Any) -> None:
    with pytest.raises(InvalidRequest, match="must ") as refused:
        engine.from_url(URLS[scheme], socket_keepalive=True, socket_keepalive_options=given)
    assert refused.value.field == "socket_keepalive_options"
    right = {getattr(socket, "TCP_KEEPINTVL", 0): 60}
    close(engine.from_url(URLS[scheme], socket_keepalive=True, socket_keepalive_options=right))


@pytest.mark.parametrize("name", ["sentinel_kwargs", "socket_keepalive_options"])
def test_a_dict_is_not_in_the_url(engine: Any, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"has the option {name}.*as an argument") as refused:
        engine.from_url(f"{SENTINEL}?{name}=password")
    assert refused.value.field == "url"


def test_dicts_are_looked_at_beside_a_function_that_makes_connections(engine: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be a dict"):
        engine.from_url(URLS["redis"], connection_class=lambda **_: None, socket_keepalive_options=5)


# --- Without a server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", ["?a=b", "?decode_responses=True", "?prefix=shop", "/?", "shop?db=3"])
def test_memory_has_no_options_in_the_url(engine: Any, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)  # refused before it is looked for
    with pytest.raises(InvalidRequest, match=r"memory:// has no options in the URL: give them as arguments") as refused:
        engine.from_url(f"memory://{rest}")
    assert refused.value.field == "url"


def test_memory_has_options_as_arguments(engine: Any) -> None:
    opened = engine.from_url("memory://", decode_responses=True, prefix="shop")
    assert opened.client.get_connection_kwargs()["decode_responses"]
    close(opened)
    with pytest.raises(InvalidRequest, match="did you mean decode_responses"):
        engine.from_url("memory://", decode_respones=True)

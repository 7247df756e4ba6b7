"""``durability=``: a change that replicas or disk do not confirm in time raises ``NotDurable`` and can be repeated."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import fakeredis
import pytest
import redis.asyncio
from conftest import BlockingAsync
from support.servers import BINARIES, Server, free_port, running
from support.waiting import until

from voucher_sessions import (
    AsyncVoucherSessions,
    Durability,
    InvalidRequest,
    LimitExceeded,
    NotDurable,
    Redemption,
    Used,
    Voucher,
    VoucherSessions,
)
from voucher_sessions._core import confirmation

LOCK = {"type": "LOCK", "key": "cart"}


@pytest.fixture(scope="module", params=list(BINARIES))
def primary_and_replica(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    port = str(free_port())
    with (
        running(request.param, port=port, bind="127.0.0.1", repl_diskless_sync_delay="0") as primary,
        running(request.param, replicaof=f"127.0.0.1 {port}") as replica,
    ):
        until(lambda: info(primary, "replication").get("slave0", {}).get("state") == "online")
        yield primary, replica


def info(server: Server, section: str) -> Any:
    with server.client() as client:
        return client.info(section)


@pytest.fixture
def engine_on(engine_on: Callable[..., Any]) -> Callable[[Server, Durability], Any]:
    """The same over a server that is emptied first."""

    def make(server: Server, durability: Durability) -> Any:
        with server.client() as admin:
            admin.flushall()
        return engine_on(server, {"decode_responses": True}, durability=durability)

    return make


def test_every_verb_works_where_a_replica_confirms(
    primary_and_replica: tuple[Server, Server], engine_on: Callable[[Server, Durability], Any]
) -> None:
    primary, replica = primary_and_replica
    engine = engine_on(primary, Durability(replicas=1))
    engine.put_voucher(Voucher(code="A", quantity=2, credits=50))
    assert engine.validate("A", credits=20, session=LOCK).valid
    with VoucherSessions(replica.client()) as elsewhere, elsewhere.client:
        assert [session.key for session in elsewhere.list_sessions("A")] == ["cart"], "confirmed is replicated"
    assert engine.redeem("A", session="cart", redemption_id="order").credits == 20
    assert engine.redeem("A", session="cart", redemption_id="order").replayed
    assert engine.rollback("A", "order").credits == 20
    assert engine.release("A", "cart").released is False
    with pytest.raises(LimitExceeded):
        engine.redeem("A", credits=51)
    with primary.client() as admin:
        admin.script_flush()
    assert engine.redeem("A", credits=50).credits == 50, "NOSCRIPT heals here too"
    assert engine.delete_voucher("A")


def test_a_change_without_a_replicas_confirmation_raises_with_its_result_and_can_be_repeated(
    primary_and_replica: tuple[Server, Server], engine_on: Callable[[Server, Durability], Any]
) -> None:
    primary, replica = primary_and_replica
    engine = engine_on(primary, Durability(replicas=1, timeout_ms=50))
    engine.put_voucher(Voucher(code="A", credits=50))
    os.kill(replica.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(NotDurable) as raised:
            engine.redeem("A", credits=20, redemption_id="order")
        assert isinstance(raised.value.result, Redemption)
        assert (raised.value.verb, raised.value.result.credits, raised.value.result.replayed) == ("redeem", 20, False)
        assert "0 of 1 replicas" in str(raised.value)
        with pytest.raises(NotDurable, match="0 of 1 replicas"):
            engine.redeem("A", credits=20, redemption_id="order")
        assert engine.get_voucher("A").credits.used == 20, "reading waits for nobody"
    finally:
        os.kill(replica.process.pid, signal.SIGCONT)
    until(lambda: info(primary, "replication").get("slave0", {}).get("lag", 9) <= 1)
    repeated = repeated_until_confirmed(lambda: engine.redeem("A", credits=20, redemption_id="order"))
    assert repeated.replayed
    assert engine.get_voucher("A").credits.used == 20


def repeated_until_confirmed(repeat: Callable[[], Any]) -> Any:
    """Repeat until it is confirmed: the replica needs a moment after it was stopped."""
    for _ in range(200):
        try:
            return repeat()
        except NotDurable:
            continue
    raise AssertionError("never confirmed")


def test_fewer_replicas_than_required_raise_not_durable(
    primary_and_replica: tuple[Server, Server], engine_on: Callable[[Server, Durability], Any]
) -> None:
    with pytest.raises(NotDurable, match="1 of 2 replicas"):
        engine_on(primary_and_replica[0], Durability(replicas=2, timeout_ms=1000)).put_voucher(Voucher(code="A"))


def test_a_change_is_on_disk_or_raises_not_durable(engine_on: Callable[[Server, Durability], Any]) -> None:
    for name in BINARIES:
        with running(name, appendonly="yes") as server:
            engine = engine_on(server, Durability(fsync=True, timeout_ms=4000))
            if info(server, "server")["redis_version"].startswith("7.0."):
                with pytest.raises(NotDurable, match="cannot confirm it: unknown command 'WAITAOF'") as raised:
                    engine.put_voucher(Voucher(code="A", credits=5))
                assert raised.value.result == engine.get_voucher("A"), "done, and raised with its result"
                continue
            engine.put_voucher(Voucher(code="A", credits=5))
            server.kill()
            server.start()
            assert engine.get_voucher("A").credits.limit == 5


def test_fsync_without_an_append_only_file_raises_not_durable(
    primary_and_replica: tuple[Server, Server], engine_on: Callable[[Server, Durability], Any]
) -> None:
    with pytest.raises(NotDurable, match=r"appendonly is disabled|unknown command"):
        engine_on(primary_and_replica[0], Durability(fsync=True)).put_voucher(Voucher(code="A"))


def test_a_change_is_on_the_replicas_disks_or_raises_not_durable(
    engine_on: Callable[[Server, Durability], Any],
) -> None:
    on_disk = {"repl_diskless_sync_delay": "0", "appendonly": "yes", "appendfsync": "always"}
    for name in sorted(BINARIES.keys() - {"redis7"}):  # which has no WAITAOF
        port = str(free_port())
        with running(name, port=port, bind="127.0.0.1", **on_disk) as primary:
            engine = engine_on(primary, Durability(replicas=1, fsync=True, timeout_ms=300))
            with running(name, replicaof=f"127.0.0.1 {port}"):
                until(lambda: info(primary, "replication").get("slave0", {}).get("state") == "online")
                with pytest.raises(NotDurable, match="0 of 1 replicas"):
                    engine.put_voucher(Voucher(code="A"))
            with running(name, replicaof=f"127.0.0.1 {port}", **on_disk):
                repeated_until_confirmed(partial(engine.put_voucher, Voucher(code="A")))


@pytest.mark.parametrize("asked", [Durability(replicas=1), Durability(fsync=True)])
def test_a_server_without_the_command_raises_not_durable_at_the_first_change(
    asked: Durability, loop: asyncio.AbstractEventLoop
) -> None:
    for engine in (
        VoucherSessions(fakeredis.FakeRedis(), durability=asked),
        BlockingAsync(AsyncVoucherSessions(fakeredis.FakeAsyncRedis(), durability=asked), loop),
    ):
        with pytest.raises(NotDurable, match="cannot confirm it: unknown command") as raised:
            engine.put_voucher(Voucher(code="A"))
        assert raised.value.result == engine.get_voucher("A")


def test_a_user_without_permission_for_wait_gets_not_durable_at_the_first_change(
    primary_and_replica: tuple[Server, Server],
) -> None:
    with primary_and_replica[0].client() as admin:
        admin.acl_setuser("till", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-wait"])
    with (
        VoucherSessions.from_url(
            f"{primary_and_replica[0].url}?username=till", durability=Durability(replicas=1)
        ) as engine,
        pytest.raises(NotDurable, match="no permissions to run the 'wait' command"),
    ):
        engine.put_voucher(Voucher(code="A"))


def test_what_not_durable_advises_never_gives_back_what_others_have_redeemed(loop: asyncio.AbstractEventLoop) -> None:
    server = fakeredis.FakeServer()
    others = VoucherSessions(fakeredis.FakeRedis(server=server))
    gift, used, unconfirmed = Voucher(code="GIFT", credits=100), Used(credits=20), Durability(replicas=1)
    for engine in (
        VoucherSessions(fakeredis.FakeRedis(server=server), durability=unconfirmed),
        BlockingAsync(AsyncVoucherSessions(fakeredis.FakeAsyncRedis(server=server), durability=unconfirmed), loop),
    ):
        with pytest.raises(NotDurable, match=r"If the call sets used=, repeat it with if_exists='keep'"):
            engine.put_voucher(gift, used=used)
        others.redeem("GIFT", credits=70)
        with pytest.raises(NotDurable, match=r"^put_voucher ran"):
            engine.put_voucher(gift, used=used, if_exists="keep")
        assert others.get_voucher("GIFT").credits.used == 90
        others.delete_voucher("GIFT")


def test_not_durable_says_of_each_call_of_a_pipeline_whether_it_changed_something(
    loop: asyncio.AbstractEventLoop,
) -> None:
    durability = Durability(replicas=1)
    engine = VoucherSessions(fakeredis.FakeRedis(), durability=durability)
    waiting = AsyncVoucherSessions(fakeredis.FakeAsyncRedis(), durability=durability)
    pipes: list[Any] = [engine.pipeline(), waiting.pipeline()]
    for pipe in pipes:
        pipe.put_voucher(Voucher(code="A", quantity=1)).delete_voucher("B").release("A", "cart")
        pipe.validate("A", session=LOCK).validate_stack(["A", "B"], session=LOCK).delete_voucher("A")
        executed = pipe.execute(raise_on_error=False)
        outcomes = executed if isinstance(executed, list) else loop.run_until_complete(executed)
        assert {type(each) for each in outcomes} == {NotDurable}
        assert [str(each).partition(" is not confirmed")[0] for each in outcomes] == [
            "put_voucher ran, but what it changed or found",
            "delete_voucher changed nothing, and what it found",
            "release changed nothing, and what it found",
            "validate took effect, but",
            "validate_stack changed nothing, and what it found",
            "delete_voucher took effect, but",
        ]


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([True, 0], "0 of 1 replicas"),
        ([True, [0, 1]], "not on disk"),
        ([True, [1, 0]], "0 of 1 replicas"),
        ([True, b"OK"], "it answered b'OK'"),
        ([True, None], "it answered None"),
        ([True, True], "it answered True"),
        ([True, [1, True]], "it answered [1, True]"),
        ([True, [1]], "it answered [1]"),
        ([redis.ResponseError("OOM"), 1], "OOM"),
    ],
)
def test_replies_that_do_not_confirm_a_change(answers: list[Any], problem: str) -> None:
    durability = Durability(replicas=1, fsync=isinstance(answers[-1], list))
    with pytest.raises(NotDurable) as raised:
        confirmation._check(durability, "redeem", "the result", answers)
    assert problem in str(raised.value)
    assert raised.value.result == "the result"


@pytest.mark.parametrize(
    "bad",
    [
        *({"replicas": value} for value in (-1, 101, True, "1", 1.0)),
        *({"timeout_ms": value} for value in (0, 600_001, True, "5", 5.0)),
        *({"fsync": value} for value in (1, "yes", None)),
        {"timeout": 5},
    ],
)
def test_a_durability_is_checked_when_it_is_made(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Durability(**bad)
    assert refused.value.field == next(iter(bad))


@pytest.mark.parametrize("bad", [Durability(), {"replicas": 1}, 1, "fsync"])
def test_an_engine_refuses_a_durability_that_requires_nothing(bad: Any) -> None:
    for engine in (VoucherSessions, AsyncVoucherSessions):
        with pytest.raises(InvalidRequest, match="durability"):
            engine.from_url("memory://", durability=bad)


def test_replies_that_confirm_a_change() -> None:
    confirmation._check(Durability(replicas=1), "redeem", None, [True, 1])
    confirmation._check(Durability(fsync=True), "redeem", None, [True, [1, 0]])
    confirmation._check(Durability(replicas=1, fsync=True), "redeem", None, [True, [1, 1]])


@pytest.mark.parametrize(
    ("timeout_ms", "options"),
    [(1000, {"socket_timeout": 1}), (2501, {"socket_timeout": 2.5}), (5000, {"socket_timeout": 5})],
)
@pytest.mark.parametrize("engine", [VoucherSessions, AsyncVoucherSessions])
def test_a_socket_timeout_below_the_durability_timeout_is_refused_at_construction(
    engine: Any, timeout_ms: int, options: dict[str, Any]
) -> None:
    durability = Durability(replicas=1, timeout_ms=timeout_ms)
    library = redis.asyncio if engine is AsyncVoucherSessions else redis
    nodes = [library.cluster.ClusterNode("127.0.0.1", 1)]
    for client in (
        library.Redis(**options),
        library.Redis.from_url("unix:///nowhere", **options),
        library.sentinel.Sentinel([("127.0.0.1", 1)], **options).master_for("till"),
        *([library.RedisCluster(startup_nodes=nodes, **options)] if library is redis.asyncio else []),
    ):
        with pytest.raises(InvalidRequest, match=r"socket_timeout, \d+ ms") as refused:
            engine(client, durability=durability)
        assert refused.value.field == "durability.timeout_ms"
        engine(client, durability=durability.model_copy(update={"timeout_ms": timeout_ms - 2}))
    for url in ("memory://", "redis://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/till", "embedded://"):
        with pytest.raises(InvalidRequest, match="socket_timeout"):
            engine.from_url(url, durability=durability, **options)
    engine(library.Redis(socket_timeout=None), durability=durability)


def test_the_timeout_of_a_foreign_client_is_not_checked() -> None:
    class Own:
        def execute_command(self, *words: object) -> None: ...

    client: Any = Own()
    assert VoucherSessions(client, durability=Durability(replicas=1, timeout_ms=600_000)).client is client

"""Servers in trouble: each raises a clear error, no call takes half an effect, and all totals are right afterwards.

Full memory, a replica, loading, busy, no access, a broken disk, a cluster that is down. Keys that were changed by
something other than this library are in test_damaged_keys.py.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.exceptions
from behaviour.test_durability import info
from conftest import BlockingAsync
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.servers import BINARIES, Server, free_port, running
from support.sessions import lock
from support.waiting import until

from faults.audit_of_workers import audit
from faults.history import Op
from faults.linearizable import check
from faults.recount import recount
from faults.redemption_workers import CODES, SHORT_MS, WorkerProcesses
from voucher_sessions import (
    AsyncVoucherSessions,
    OutcomeUnknown,
    Redeemable,
    ServerRefused,
    ServerUnavailable,
    Voucher,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions._transport import clients

WORKERS = 4
ROUNDS = 3
ONCE = {"retry": Retry(NoBackoff(), 0)}
STACK = [Redeemable(code="A", credits=1), Redeemable(code="B", credits=0)]


@pytest.fixture(scope="module", params=list(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    with server.client() as admin:
        admin.flushall()
        yield admin


def contents(admin: redis.Redis) -> dict[bytes, Any]:
    """All that is stored of vouchers, in the server's own form."""
    return {key: admin.dump(key) for key in admin.scan_iter("vs:*", count=1000)}


TWO, ONE = ("cart", "other"), ("cart",)


def create_vouchers(engine: Any, keys: tuple[str, ...] = TWO) -> None:
    """Two vouchers, each with these live sessions and a redemption."""
    for code in "AB":
        engine.put_voucher(Voucher(code=code, quantity=9, credits=100))
        for key in keys:
            assert engine.validate(code, credits=10, session=lock(key)).valid
        engine.redeem(code, credits=5, redemption_id="order")


GROWING = [
    methodcaller("put_voucher", Voucher(code="A", quantity=8)),
    methodcaller("put_voucher", Voucher(code="NEW")),
    methodcaller("validate", "A", session=lock("new")),
    methodcaller("validate", "A", credits=20, session=lock("cart")),
    methodcaller("validate_stack", STACK, session=lock("new")),
    methodcaller("validate_stack", STACK[:1], session=lock("cart"), release=["B"]),
    methodcaller("redeem", "A", credits=1),
    methodcaller("redeem_stack", STACK),
    methodcaller("rollback", "A", "order"),
    methodcaller("rollback_stack", ["A", "B"], "order"),
]
SHRINKING = [
    methodcaller("release", "A", "cart"),
    methodcaller("release_stack", ["A", "B"], "cart"),
    methodcaller("redeem", "A", session="cart"),
    methodcaller("redeem_stack", [Redeemable(code="A"), Redeemable(code="B")], session="cart"),
    methodcaller("delete_voucher", "A"),
]
READING = [
    methodcaller("get_voucher", "A"),
    methodcaller("validate", "A", credits=1),
    methodcaller("validate_stack", STACK),
    methodcaller("list_sessions", "A"),
    methodcaller("get_redemption", "A", "order"),
    methodcaller("redeem", "A", credits=5, redemption_id="order"),
    methodcaller("audit", "A"),
]


def refused(engine: Any, acts: list[methodcaller], admin: redis.Redis, remedy: str) -> None:
    """Each is refused with this remedy, and leaves all as it was."""
    before = contents(admin)
    for act in acts:
        with pytest.raises(ServerRefused) as raised:
            act(engine)
        assert isinstance(raised.value, redis.exceptions.ResponseError)
        assert remedy in raised.value.remedy, raised.value
        assert contents(admin) == before, act


# --- Out of memory ------------------------------------------------------------------------------------------------


@pytest.fixture
def fill_memory(admin: redis.Redis) -> Iterator[Callable[[], bool]]:
    """Leaves the server no memory at all, until the test ends."""
    yield lambda: bool(admin.config_set("maxmemory", 1))
    admin.config_set("maxmemory", 0)


@pytest.mark.parametrize("keys", [TWO, ONE])
def test_a_full_server_refuses_what_grows_and_half_changes_nothing(
    server: Server,
    admin: redis.Redis,
    engine_on: Callable[..., Any],
    fill_memory: Callable[[], bool],
    keys: tuple[str, ...],
) -> None:
    engine = engine_on(server)
    create_vouchers(engine, keys)
    fill_memory()
    refused(engine, GROWING, admin, "memory is full")
    for act in READING:
        act(engine)
    recount(admin, "A", "B")


@pytest.mark.parametrize("keys", [TWO, ONE])
@pytest.mark.parametrize("act", SHRINKING)
def test_a_full_server_still_accepts_releases_and_rollbacks(
    server: Server,
    admin: redis.Redis,
    engine_on: Callable[..., Any],
    fill_memory: Callable[[], bool],
    act: methodcaller,
    keys: tuple[str, ...],
) -> None:
    engine = engine_on(server)
    create_vouchers(engine, keys)
    fill_memory()
    before = contents(admin)
    act(engine)
    assert contents(admin) != before
    recount(admin, "A", "B")
    assert {each.key for each in engine.list_sessions("B")} - {"cart"} == set(keys) - {"cart"}, "that of others stays"


def test_expired_locks_on_a_full_server_are_removed(
    server: Server, admin: redis.Redis, engine_on: Callable[..., Any], fill_memory: Callable[[], bool]
) -> None:
    engine = engine_on(server)
    create_vouchers(engine)
    for at in range(3):
        assert engine.validate("A", credits=10, session=lock(f"passing-{at}", 50)).valid
    assert engine.validate("B", credits=10, session=lock("passing", 50)).valid
    engine.put_voucher(Voucher(code="C", credits=10))
    assert engine.validate("C", credits=10, session=lock("passing", 50)).valid
    fill_memory()
    time.sleep(0.06)
    assert engine.get_voucher("C").credits.locked == 0, "none is left"
    assert engine.get_voucher("A").credits.locked == 20
    assert engine.validate("B", credits=75).available.credits == 75
    recount(admin, "A", "B", "C")


def test_memory_runs_out_repeatedly_under_load(server: Server, admin: redis.Redis, tmp_path: Path) -> None:
    """Somebody else's keys fill it and go, while workers redeem: what was refused has not happened, and the rest has."""
    workers = WorkerProcesses(server.socket, tmp_path, seed=random.randrange(2**32))
    workers.open(WORKERS)
    workers.until_written(20_000)
    try:
        for _ in range(ROUNDS):
            admin.config_set("maxmemory", int(admin.info("memory")["used_memory"]) + 200_000)
            with memory_kept_full(server):
                workers.until_written(60_000)
            admin.config_set("maxmemory", 0)
            admin.unlink("ballast")
            workers.until_written(20_000)
    finally:
        admin.config_set("maxmemory", 0)
        workers.close()
    happened, refusals = without_refusals(workers.history)
    print(f"{len(happened)} calls, and {refusals} that a full server refused")
    assert refusals > 10 * ROUNDS
    time.sleep(max(SHORT_MS) / 1000 + 0.05)
    assert not audit(VoucherSessions(admin), happened).lost
    check(happened)
    recount(admin, *CODES)


def without_refusals(history: list[Op]) -> tuple[list[Op], int]:
    """The history without the calls that the server refused, which must not have changed anything; how many they were."""
    happened = [op for op in history if not (isinstance(op.seen, dict) and op.seen.get("error") == "ServerRefused")]
    return happened, len(history) - len(happened)


@contextmanager
def memory_kept_full(server: Server) -> Iterator[None]:
    """Whatever room there is, somebody takes it."""
    emptied = threading.Event()

    def fill() -> None:
        with server.client() as client:
            while not emptied.is_set():
                with suppress(redis.exceptions.OutOfMemoryError):
                    while not emptied.is_set():
                        client.rpush("ballast", *["x" * 100] * 50)

    filling = threading.Thread(target=fill)
    filling.start()
    yield
    emptied.set()
    filling.join()


# --- A replica, loading, busy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_replica_answers_but_changes_nothing(name: str, engine_on: Callable[..., Any]) -> None:
    port = str(free_port())
    with (
        running(name, port=port, bind="127.0.0.1", repl_diskless_sync_delay="0") as primary,
        running(name, replicaof=f"127.0.0.1 {port}") as replica,
        replica.client() as admin,
    ):
        create_vouchers(engine_on(primary))
        until(lambda: info(primary, "replication").get("slave0", {}).get("state") == "online")
        with primary.client() as of_primary:
            until(lambda: admin.dbsize() == of_primary.dbsize())
        engine = engine_on(replica)
        refused(engine, GROWING + SHRINKING, admin, "connect to the primary")
        for act in READING:
            act(engine)
        with pytest.raises(ServerRefused):
            engine_on(replica, partition=lambda code: code).get_voucher("A")


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_loading_server_runs_nothing_and_loses_nothing(name: str, engine_on: Callable[..., Any]) -> None:
    """The engine knows what it has sent, so it knows that nothing has changed."""
    slow = {"key_load_delay": "3000", "loading_process_events_interval_bytes": "1024"}
    with running(name, save="3600 1", **slow) as server:
        with server.client() as admin:
            create_vouchers(VoucherSessions(admin))
            admin.mset({f"ballast-{at}": "x" * 1000 for at in range(5_000)})
            admin.save()
            before = contents(admin)
        server.kill()
        engine = engine_on(server, ONCE)
        with ThreadPoolExecutor(1) as pool:
            meanwhile = pool.submit(outcomes_while_loading, server, engine)
            server.start()  # in this thread, with which the server ends
        errors = meanwhile.result(0)
        for error in errors:
            assert isinstance(error, ServerUnavailable)
            assert isinstance(error.__cause__, redis.exceptions.BusyLoadingError)
        with server.client() as admin:
            assert contents(admin) == before
            assert engine.redeem("A", session="cart", redemption_id="after").replayed is False
            recount(admin, "A", "B")


def outcomes_while_loading(server: Server, engine: Any) -> list[Exception | None]:
    """Of a change and a read."""
    with server.client(**ONCE) as probe:
        until(lambda: is_loading(probe))
        changing = methodcaller("redeem", "A", session="cart", redemption_id="after")
        outcomes = [error_of(changing, engine), error_of(READING[0], engine)]
        probe.config_set("key-load-delay", 0)  # the rest of 15 s would be too long
    return outcomes


def error_of(act: methodcaller, engine: Any) -> Exception | None:
    try:
        act(engine)
    except Exception as error:  # it is what is tested
        return error
    return None


def is_loading(probe: redis.Redis) -> bool:
    try:
        return not probe.ping()
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.exceptions.ConnectionError:
        return False


@contextmanager
def endless_script(server: Server, admin: redis.Redis) -> Iterator[None]:
    admin.config_set("lua-time-limit", 20)

    def run() -> None:
        with server.client(**ONCE, socket_timeout=60) as client, suppress(redis.exceptions.ResponseError):
            client.eval("while true do end", 0)

    running_it = threading.Thread(target=run)
    running_it.start()
    try:
        until(lambda: is_busy(admin))
        yield
    finally:
        admin.script_kill()
        running_it.join()
        admin.config_set("lua-time-limit", 5000)


def is_busy(admin: redis.Redis) -> bool:
    try:
        return not admin.ping()
    except redis.exceptions.ResponseError as error:
        return "BUSY" in str(error)


def test_a_foreign_script_keeps_the_server_busy(
    server: Server, admin: redis.Redis, engine_on: Callable[..., Any]
) -> None:
    engine = engine_on(server)
    create_vouchers(engine)
    before = contents(admin)
    with endless_script(server, admin):
        for act in (*GROWING, *SHRINKING, *READING):
            with pytest.raises(ServerRefused) as raised:
                act(engine)
            assert "SCRIPT KILL" in raised.value.remedy
    assert contents(admin) == before
    assert engine.redeem("A", session="cart").credits == 10
    recount(admin, "A", "B")


# --- No access ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "credentials", [{}, {"password": "wrong"}, {"username": "till", "password": "secret"}], ids=["none", "wrong", "off"]
)
def test_missing_access_is_reported(
    server: Server, admin: redis.Redis, engine_on: Callable[..., Any], credentials: dict[str, str]
) -> None:
    """By redis-py's own error, and not as an unknown outcome, though redis-py counts it among the failed connections.

    It also tries again as often as it does where a connection failed; here its retries are off.
    """
    create_vouchers(VoucherSessions(admin))
    admin.execute_command("ACL", "SETUSER", "till", "off", ">secret", "~*", "+@all")
    admin.config_set("requirepass", "right")
    try:
        before = contents(admin)
        engine = engine_on(server, ONCE | credentials)
        for act in (*GROWING, *SHRINKING, *READING):
            error = error_of(act, engine)
            assert not isinstance(error, OutcomeUnknown)
            # The asyncio client tells it as the cause of a ConnectionError.
            assert redis.exceptions.AuthenticationError in (type(error), type(error and error.__cause__))
        assert contents(admin) == before
    finally:
        admin.config_set("requirepass", "")
        admin.execute_command("ACL", "DELUSER", "till")


def test_repair_corrects_what_an_aborted_script_left(
    server: Server, admin: redis.Redis, engine_on: Callable[..., Any]
) -> None:
    """No script of Redis is undone. The totals may be behind then, and grant nothing beyond the limit even so."""
    user = {"username": "till", "password": "secret"}
    for command in ("set", "zadd", "zrem", "pexpireat", "unlink", "zremrangebyrank"):
        admin.flushall()
        engine = VoucherSessions(admin)
        create_vouchers(engine)
        assert engine.validate("B", session=lock("passing", 1)).valid
        admin.execute_command("ACL", "SETUSER", "till", "reset", "on", ">secret", "~*", "+@all", f"-{command}")
        crippled = engine_on(server, user)
        times_refused = 0
        for act in (*GROWING, *READING, *SHRINKING):
            try:
                act(crippled)
            except ServerRefused as refusal:
                times_refused += "permission" in refusal.remedy
            except VoucherSessionsError:
                pass  # by what the acts before it have left
        assert times_refused
        admin.execute_command("ACL", "DELUSER", "till")
        for code in ("A", "B"):
            if engine.validate(code).reason != "not_found":
                engine.repair(code)
        engine.put_voucher(Voucher(code="A", quantity=9, credits=100))
        recount(admin, "A", "B")


# --- A broken disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BINARIES))
def test_a_server_that_cannot_save_refuses_every_change(
    name: str, engine_on: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with running(name, save="3600 1", dir=str(folder)) as server, server.client() as admin:
        engine = engine_on(server)
        create_vouchers(engine)
        shutil.rmtree(folder)
        admin.bgsave()
        until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
        refused(engine, GROWING + SHRINKING, admin, "cannot write to its disk")
        for act in READING:
            act(engine)
        admin.config_set("stop-writes-on-bgsave-error", "no")
        admin.config_set("save", "")  # else it would not end without saving
        assert engine.redeem("A", session="cart").credits == 10
        recount(admin, "A", "B")


def test_with_too_few_replicas_every_change_is_refused(
    server: Server, admin: redis.Redis, engine_on: Callable[..., Any]
) -> None:
    engine = engine_on(server)
    create_vouchers(engine)
    admin.config_set("min-replicas-to-write", 1)
    try:
        refused(engine, GROWING + SHRINKING, admin, "min-replicas-to-write")
        for act in READING:
            act(engine)
    finally:
        admin.config_set("min-replicas-to-write", 0)
    recount(admin, "A", "B")


# --- A cluster that is down ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single_node_cluster() -> Iterator[Server]:
    """A cluster of one node, whose slots can be taken from it and given back."""
    options = {"bind": "127.0.0.1", "cluster_enabled": "yes"}
    with running("valkey", port=str(free_port()), cluster_port=str(free_port()), **options) as node:
        with node.client() as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield node


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_calls_wait_for_a_cluster_that_is_down_and_then_raise(
    kind: str, single_node_cluster: Server, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot of which nobody takes care stops the whole cluster, all vouchers alike."""
    with single_node_cluster.client() as admin:
        admin.flushall()
        url = f"redis+cluster://127.0.0.1:{admin.config_get('port')['port']}"
        for patience in (0.2, 20):
            monkeypatch.setattr(clients, "retry_period_seconds", lambda _, patience=patience: patience)
            with engine_of(kind, url, loop) as engine:
                engine.put_voucher(Voucher(code="A", quantity=9, credits=100))
                engine.validate("A", credits=10, session=lock("cart"))
                admin.execute_command("CLUSTER", "DELSLOTS", 0)
                until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "fail")
                back = threading.Timer(0.5, give_back, (single_node_cluster,))
                if patience > 1:
                    back.start()
                    assert engine.redeem("A", session="cart", redemption_id="order").credits == 10
                    back.join()
                    continue
                with pytest.raises(ServerUnavailable):
                    engine.redeem("A", session="cart", redemption_id="order")
                with pytest.raises(ServerUnavailable) as not_read:
                    engine.get_voucher("A")
                assert isinstance(
                    not_read.value.__cause__, redis.exceptions.ClusterError | redis.exceptions.RedisClusterException
                )
                give_back(single_node_cluster)
                recount(admin, "A")
                assert engine.redeem("A", session="cart", redemption_id="order").replayed is False
        recount(admin, "A")


def give_back(node: Server) -> None:
    with node.client() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTS", 0)
        until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


@contextmanager
def engine_of(kind: str, url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    if kind == "sync":
        with VoucherSessions.from_url(url) as engine:
            yield engine
        return
    waiting = AsyncVoucherSessions.from_url(url)
    yield BlockingAsync(waiting, loop)
    loop.run_until_complete(waiting.aclose())

"""``check_server``: which server settings break the engine's guarantees, and which remedy each finding names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.exceptions
from conftest import Backend
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot
from support import untyped
from support.scripted_clients import SCRIPTS, call_id_of
from support.servers import BINARIES, Server, free_port, running
from support.waiting import until

from voucher_sessions import AsyncVoucherSessions, CorruptState, Durability, Finding, Voucher, VoucherSessions
from voucher_sessions._core import scripts, server_check
from voucher_sessions._transport import clients

OK = [b"tried", *[b""] * len(scripts.COMMANDS)]
HEALTHY: dict[str, Any] = {
    "INFO": {
        "redis_version": "7.2.4",
        "role": "master",
        "connected_slaves": 1,
        "maxmemory": 0,
        "maxmemory_policy": "noeviction",
        "aof_enabled": 1,
    },
    "CONFIG GET save": {"save": ""},
    "CONFIG GET appendfsync": {b"appendfsync": b"always"},
    "CONFIG GET lazyfree-lazy-expire": {"lazyfree-lazy-expire": "yes"},
    "EVALSHA": redis.exceptions.NoScriptError("No matching script"),
    "EVAL": OK,
    "ECHO": b"in step",
    "WAIT": 0,
    "WAITAOF": [0, 0],
}
REFUSED = redis.exceptions.NoPermissionError("User till has no permissions to run the 'x' command")


def seconds(at: float) -> tuple[int, int]:
    """In the form of TIME's reply."""
    return int(at), int(at % 1 * 1_000_000)


class StubServer:
    """A client of a server that is well but for what is said; ``clock`` is how far its clock is ahead."""

    def __init__(self, clock: float = 0, slowness: float = 0, **answers: Any) -> None:
        self._answers = HEALTHY | {
            name.replace("_", " ").replace("  ", "-"): answer for name, answer in answers.items()
        }
        self._clock = clock
        self._slowness = slowness

    def execute_command(self, *words: Any, **_: Any) -> Any:
        if words[0] == "TIME" and "TIME" not in self._answers:
            time.sleep(self._slowness)
            return seconds(time.time() + self._clock)
        answer = self._answers[" ".join(words[:2]) if words[0] == "CONFIG GET" else words[0]]
        if isinstance(answer, Exception):
            raise answer
        return [call_id_of(words), *answer] if words[0] in SCRIPTS and type(answer) is list else answer


class AsyncStubServer(StubServer):
    async def execute_command(self, *words: Any, **options: Any) -> Any:
        return super().execute_command(*words, **options)


def findings_for(durability: Durability | None = None, **answers: Any) -> list[Finding]:
    """What both engines find."""
    sync = untyped.VoucherSessions(StubServer(**answers), durability=durability)
    waiting = untyped.AsyncVoucherSessions(AsyncStubServer(**answers), durability=durability)
    findings: list[Finding] = sync.check_server()
    assert [each.model_copy(update={"problem": ""}) for each in asyncio.run(waiting.check_server())] == [
        each.model_copy(update={"problem": ""}) for each in findings
    ], "the problem may tell a clock"
    return findings


def info(**fields: Any) -> dict[str, Any]:
    """What INFO says, otherwise for some fields; None leaves a field out."""
    return {name: value for name, value in (HEALTHY["INFO"] | fields).items() if value is not None}


def trial_answer(**refusals: str) -> list[bytes]:
    """What the script says that tries commands."""
    return [b"tried", *(refusals.get(command, "").encode() for command in scripts.COMMANDS)]


FSYNC = Durability(fsync=True)
REPLICAS = Durability(replicas=2)
FORBIDDEN = "ERR ACL failure in script: User till has no permissions to run the 'x' command"
FORBIDDEN_BY_7_0 = "ERR The user executing the script can't run this command or subcommand"
CLOSED_BY_7_0 = "ERR The user executing the script can't access at least one of the keys mentioned in the command"


def test_a_healthy_server_has_no_findings() -> None:
    assert findings_for() == []
    assert findings_for(durability=FSYNC) == []
    assert findings_for(durability=Durability(replicas=1)) == []
    assert findings_for(EVALSHA=OK) == []
    assert findings_for(INFO=info(redis_version="6.2.0")) == []
    assert findings_for(CONFIG_GET_appendfsync={"appendfsync": "everysec"}, durability=FSYNC) == [], (
        "WAITAOF waits for it"
    )


def test_unreadable_settings_are_not_judged() -> None:
    for durability in (None, FSYNC, Durability(replicas=1)):
        findings = findings_for(INFO=REFUSED, CONFIG_GET_appendfsync={"appendfsync": "no"}, durability=durability)
        assert [each.subject for each in findings] == ["unreadable"]


@pytest.mark.parametrize(
    ("answers", "severity", "subject", "words"),
    [
        ({"INFO": info(redis_version="6.0.20")}, "error", "version", "Redis 6.0.20"),
        ({"INFO": info(redis_version="6.1.99")}, "error", "version", "Redis 6.1.99"),
        ({"INFO": info(redis_version="5.0")}, "error", "version", "PXAT"),
        ({"INFO": info(role="slave", connected_slaves=0)}, "error", "role", "replica"),
        ({"INFO": info(maxmemory=1, maxmemory_policy="allkeys-lru")}, "error", "maxmemory-policy", "vouchers, locks"),
        (
            {"INFO": info(maxmemory=1, maxmemory_policy="volatile-ttl")},
            "error",
            "maxmemory-policy",
            "evicts locks",
        ),
        ({"INFO": info(maxmemory_policy="allkeys-lru")}, "warning", "maxmemory-policy", "once maxmemory is set"),
        ({"INFO": info(aof_enabled=0)}, "error", "persistence", "a restart loses all vouchers"),
        (
            {"INFO": info(aof_enabled=0), "CONFIG_GET_save": {"save": "3600 1"}},
            *("warning", "persistence", "only snapshots"),
        ),
        ({"CONFIG_GET_appendfsync": {"appendfsync": "everysec"}}, "warning", "appendfsync", "once a second"),
        ({"CONFIG_GET_appendfsync": {"appendfsync": "no"}}, "warning", "appendfsync", "operating system decides"),
        (
            {"CONFIG_GET_appendfsync": {"appendfsync": "no"}, "durability": FSYNC},
            "warning",
            "appendfsync",
            "operating system decides",
        ),
        ({"INFO": info(connected_slaves=0)}, "warning", "replicas", "no replica"),
        ({"durability": REPLICAS}, "error", "durability", "asks for 2 replicas and there are 1"),
        (
            {"durability": FSYNC, "INFO": info(aof_enabled=0), "CONFIG_GET_save": REFUSED},
            *("error", "durability", "without an append-only file"),
        ),
        (
            {"durability": FSYNC, "WAITAOF": redis.exceptions.ResponseError("unknown command 'WAITAOF'")},
            *("error", "durability", "needs WAITAOF"),
        ),
        ({"durability": FSYNC, "WAITAOF": REFUSED}, "error", "permissions", "may not call WAITAOF"),
        ({"durability": Durability(replicas=1), "WAIT": REFUSED}, "error", "permissions", "may not call WAIT"),
        ({"EVALSHA": REFUSED}, "error", "permissions", "may not call EVALSHA"),
        ({"EVAL": REFUSED, "EVALSHA": OK}, "error", "permissions", "may not call EVAL"),
        ({"EVAL": trial_answer(ZADD=FORBIDDEN, UNLINK=FORBIDDEN)}, "error", "permissions", "may not call UNLINK, ZADD"),
        ({"EVAL": trial_answer(ZADD=FORBIDDEN_BY_7_0)}, "error", "permissions", "may not call ZADD"),
        (
            {"EVAL": trial_answer(ZADD=CLOSED_BY_7_0)},
            "error",
            "permissions",
            "no access to the keys that begin with 'vs:': ZADD",
        ),
        (
            {"EVAL": trial_answer(SET="READONLY You can't write", ZADD="READONLY You can't write")},
            "error",
            "commands",
            "SET, ZADD",
        ),
        ({"EVAL": redis.exceptions.ResponseError("BUSY Redis is busy")}, "error", "commands", "refuses EVAL: BUSY"),
        ({"CONFIG_GET_lazyfree__lazy__expire": {b"": b"no"}}, "warning", "lazyfree-lazy-expire", "blocks all clients"),
        ({"clock": 1.5}, "warning", "clock", "1.5 s apart"),
        ({"clock": -3600}, "warning", "clock", "3600.0 s apart"),
        ({"INFO": info(maxmemory_policy=None)}, "info", "unreadable", "INFO does not return maxmemory_policy"),
        ({"INFO": REFUSED}, "info", "unreadable", "redis_version, role, connected_slaves, maxmemory, maxmemory_policy"),
        ({"CONFIG_GET_save": REFUSED}, "info", "unreadable", "CONFIG GET does not return save: User till"),
        (
            {"CONFIG_GET_lazyfree__lazy__expire": {}},
            "info",
            "unreadable",
            "CONFIG GET does not return lazyfree-lazy-expire",
        ),
    ],
)
def test_each_problem_is_reported_with_its_remedy(
    answers: dict[str, Any], severity: str, subject: str, words: str
) -> None:
    findings = [each for each in findings_for(**answers) if each.subject != "unreadable" or severity == "info"]
    assert [(each.node, each.severity, each.subject) for each in findings] == [("", severity, subject)]
    assert words in findings[0].problem
    assert findings[0].remedy


def test_findings_are_sorted_by_severity() -> None:
    findings = findings_for(INFO=info(redis_version="4.0.0", connected_slaves=0), CONFIG_GET_save=REFUSED)
    assert [each.severity for each in findings] == ["error", "warning", "info"]


def test_a_forbidden_clock_is_a_forbidden_command() -> None:
    (finding,) = findings_for(TIME=REFUSED, EVAL=trial_answer(TIME=FORBIDDEN))
    assert (finding.subject, finding.remedy) == ("permissions", "ACL SETUSER <user> +time")


@pytest.mark.parametrize("clock", [0, -1.1])
def test_a_slow_answer_is_not_reported_as_a_wrong_clock(clock: float) -> None:
    """The server read its clock at some moment of the 1.2 s that the answer took."""
    assert findings_for(clock=clock, slowness=1.2) == []


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ConnectionError("gone"),
        redis.exceptions.TimeoutError("gone"),
        redis.exceptions.AuthenticationError("WRONGPASS"),
        redis.exceptions.BusyLoadingError("loading"),
    ],
)
def test_a_server_that_does_not_answer_raises_the_clients_error(error: Exception) -> None:
    with pytest.raises(type(error)):
        findings_for(INFO=error)


@pytest.mark.parametrize("answers", [{"EVAL": [b"tried"]}, {"TIME": 5}, {"TIME": {}}])
def test_an_invalid_answer_is_corrupt_state(answers: dict[str, Any]) -> None:
    with pytest.raises(CorruptState):
        findings_for(**answers)


def test_findings_are_frozen_models_like_other_results() -> None:
    (finding,) = findings_for(INFO=info(connected_slaves=0))
    assert finding.model_dump(mode="json") == {
        "node": "",
        "severity": "warning",
        "subject": "replicas",
        "problem": finding.problem,
        "remedy": finding.remedy,
    }


# --- Real servers -------------------------------------------------------------------------------------------------


def test_check_server_works_in_every_protocol_and_changes_nothing(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="A"))
    before = backend.contents()
    subjects = [each.subject for each in engine.check_server()]
    if backend.name == "fakeredis":
        assert subjects == ["unreadable", "unreadable"], (
            "it has no INFO and no CONFIG, and the scripts can do all they do"
        )
    else:
        expected = ["lazyfree-lazy-expire"] if backend.name != "valkey" else []
        assert subjects == ["persistence", "replicas", *expected]
    assert backend.contents() == before


def test_an_engine_of_a_fake_cannot_have_durability() -> None:
    with VoucherSessions.from_url("memory://", durability=FSYNC) as engine:
        first = engine.check_server()[0]
    assert (first.severity, first.subject) == ("error", "durability")


@pytest.fixture(scope="module", params=list(BINARIES))
def healthy(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A primary that nothing is wrong with, and its replica."""
    port = str(free_port())
    options = {"appendonly": "yes", "appendfsync": "always", "lazyfree_lazy_expire": "yes"}
    with (
        running(request.param, port=port, bind="127.0.0.1", repl_diskless_sync_delay="0", **options) as primary,
        running(request.param, replicaof=f"127.0.0.1 {port}"),
        primary.client() as admin,
    ):
        until(lambda: admin.info("replication")["connected_slaves"] > 0)
        yield primary


LOGIN = {"username": "till", "password": "secret"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("maxmemory-policy", "allkeys-lru"),
        ("maxmemory-policy", "volatile-ttl"),
        ("appendfsync", "everysec"),
        ("appendfsync", "no"),
        ("appendonly", "no"),
        ("lazyfree-lazy-expire", "no"),
    ],
)
def test_the_remedy_for_a_setting_removes_the_finding(
    healthy: Server, engine_on: Callable[..., Any], setting: str, value: str
) -> None:
    engine = engine_on(healthy)
    assert engine.check_server() == []
    with healthy.client() as admin:
        admin.config_set(setting, value)
        (finding,) = engine.check_server()
        command, setting, value, *_ = finding.remedy.replace(":", "").replace(",", "").removeprefix("CONFIG ").split()
        assert command == "SET"
        admin.config_set(setting, value)
    assert engine.check_server() == []


def test_check_server_checks_the_requirements_of_durability(healthy: Server, engine_on: Callable[..., Any]) -> None:
    with healthy.client() as admin:
        lacks_waitaof = admin.info("server")["redis_version"].startswith("7.0.")
    problems = [each.problem for each in engine_on(healthy, durability=Durability(replicas=2)).check_server()]
    assert problems == ["durability asks for 2 replicas and there are 1: every change raises NotDurable"]
    problems = [
        each.problem.partition(",")[0]
        for each in engine_on(healthy, durability=Durability(replicas=1, fsync=True)).check_server()
    ]
    assert problems == (["durability needs WAITAOF"] if lacks_waitaof else [])


@pytest.mark.parametrize("command", ["EVALSHA", "EVAL", "WAIT", *scripts.COMMANDS])
def test_a_permission_that_is_missing_is_named_and_its_remedy_grants_it(
    healthy: Server, engine_on: Callable[..., Any], command: str
) -> None:
    with healthy.client() as admin:
        admin.execute_command("ACL", "SETUSER", "till", "reset", "on", ">secret", "~vs:*", "+@all", f"-{command}")
        engine = engine_on(healthy, LOGIN, durability=Durability(replicas=1))
        (finding,) = engine.check_server()
        assert (finding.severity, finding.subject) == ("error", "permissions")
        assert finding.problem == f"the user may not call {command}"
        assert admin.keys() == []
        admin.execute_command(*finding.remedy.replace("<user>", "till").split())
        assert engine.check_server() == []


def test_trial_commands_leave_no_key_even_without_permission_to_delete(
    healthy: Server, engine_on: Callable[..., Any]
) -> None:
    removing = ["-zrem", "-zremrangebyrank", "-unlink", "-pexpireat"]
    with healthy.client() as admin:
        admin.execute_command("ACL", "SETUSER", "till", "reset", "on", ">secret", "~vs:*", "+@all", *removing)
        (finding,) = engine_on(healthy, LOGIN).check_server()
        assert finding.problem == "the user may not call PEXPIREAT, UNLINK, ZREM, ZREMRANGEBYRANK"
        assert admin.keys() == []


def test_keys_without_access_are_reported(healthy: Server, engine_on: Callable[..., Any]) -> None:
    with healthy.client() as admin:
        for keys in ("~other:*", "%R~vs:*"):
            admin.execute_command("ACL", "SETUSER", "till", "reset", "on", ">secret", keys, "+@all")
            (finding,) = engine_on(healthy, LOGIN).check_server()
            assert finding.subject == "permissions"
            assert "no access to the keys that begin with 'vs:'" in finding.problem
            admin.execute_command(*finding.remedy.replace("<user>", "till").split())
            assert engine_on(healthy, LOGIN).check_server() == []


def test_settings_that_the_user_may_not_read_are_reported(healthy: Server, engine_on: Callable[..., Any]) -> None:
    with healthy.client() as admin:
        admin.execute_command("ACL", "SETUSER", "till", "reset", "on", ">secret", "~vs:*", "+@all", "-info", "-config")
    findings = engine_on(healthy, LOGIN).check_server()
    assert [(each.severity, each.subject) for each in findings] == [("info", "unreadable")] * 2


def test_a_server_that_is_gone_raises_the_clients_error(engine_on: Callable[..., Any]) -> None:
    with running("valkey") as gone:
        engine = engine_on(gone, {"retry": None})
        engine.check_server()
    with pytest.raises(redis.exceptions.ConnectionError):
        engine.check_server()


# --- Where the primaries are --------------------------------------------------------------------------------------


def test_each_command_of_the_scripts_has_a_trial_of_its_own() -> None:
    assert tuple(trial.split()[0] for trial in server_check.TRIAL_COMMANDS.split(",")) == scripts.COMMANDS
    assert sorted(server_check._TRIALS) == list(scripts.COMMANDS), "and there are no others"
    assert "ZADD" in scripts.COMMANDS, "found in the scripts"


def test_every_primary_of_a_cluster_is_asked_at_a_slot_of_its_own() -> None:
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=1)
    lone, rest, replica = (ClusterNode("127.0.0.1", port) for port in (7003, 7002, 7001))
    slots = {slot: [rest, replica] for slot in range(8000)} | {9000: [lone]}
    client.nodes_manager.slots_cache = slots
    found = clients.primaries(client)
    assert [each.address for each in found] == ["127.0.0.1:7002", "127.0.0.1:7003"]
    assert [each.options for each in found] == [{"target_nodes": rest}, {"target_nodes": lone}]
    assert [slots[key_slot(b"vs:probe{%s}" % each.tag.encode())][0] for each in found] == [rest, lone]


def test_the_primaries_of_a_cluster_are_known_before_its_first_command(loop: asyncio.AbstractEventLoop) -> None:
    port, bus = free_port(), free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "cluster_enabled": "yes", "cluster_port": str(bus)}
    with running("valkey", **options) as node, node.client() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        expected = [(f"127.0.0.1:{port}", "persistence"), (f"127.0.0.1:{port}", "replicas")]
        with VoucherSessions.from_url(f"redis+cluster://127.0.0.1:{port}") as engine:
            assert [(each.node, each.subject) for each in engine.check_server()] == expected
        waiting = AsyncVoucherSessions.from_url(f"redis+cluster://127.0.0.1:{port}")
        found = loop.run_until_complete(waiting.check_server())
        loop.run_until_complete(waiting.aclose())
        assert [(each.node, each.subject) for each in found] == expected
        assert admin.keys() == []


def test_a_single_server_is_the_only_primary() -> None:
    with redis.Redis() as client:
        assert clients.primaries(client) == [clients.Primary("", {}, "0")]


def refuses_every_code(code: str) -> str:
    raise KeyError(code)


def test_a_partition_that_fails_for_every_code_is_a_finding() -> None:
    """It has the same fingerprint as every other one that always fails."""
    for findings in (
        untyped.VoucherSessions(StubServer(), partition=refuses_every_code).check_server(),
        asyncio.run(untyped.AsyncVoucherSessions(AsyncStubServer(), partition=refuses_every_code).check_server()),
    ):
        assert [(each.node, each.severity, each.subject) for each in findings] == [("", "warning", "partition")]


def test_a_partition_that_fails_for_some_codes_is_no_finding() -> None:
    def of_customers(code: str) -> str:
        customer, _, number = code.partition("-")
        return customer if int(number) else code

    assert untyped.VoucherSessions(StubServer(), partition=of_customers).check_server() == []

"""The ACL rule in docs/server.md: with it everything works; without any one of its commands the error names it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.model import edit_book
from support.servers import BINARIES, Server, running
from support.sessions import lock

from voucher_sessions import Durability, NotDurable, Redeemable, ServerRefused, Voucher, VoucherSessions
from voucher_sessions._core import scripts
from voucher_sessions.bulk import scan_redemptions, scan_vouchers

DOCS = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
RULE: list[str] = DOCS.partition("```text\nACL SETUSER checkout")[2].partition("```")[0].split()
EXTRAS: dict[str, list[str]] = {
    for_: words.replace("\\|", "|").split()
    for for_, words in re.findall(r"^\| (.+) \| `(\+.+)` \|$", DOCS, re.MULTILINE)
}
COMMANDS = [word for word in RULE if word.startswith("+")]


def extra(words: str) -> list[str]:
    """The row of the table that is for this."""
    (row,) = [added for for_, added in EXTRAS.items() if words in for_]
    return row


def lacks(admin: redis.Redis, added: list[str]) -> bool:
    """Whether the server is older than one of these commands; only 7.0 is, as the docs say."""
    known: Any = admin.execute_command("COMMAND INFO", *[word[1:] for word in added])
    version = admin.info("server")["redis_version"]
    assert None not in known or version.startswith("7.0."), known
    return None in known


# Without these, each call still works: on a new connection, a refusal of ECHO proves what ECHO would prove.
DISPENSABLE = {"+echo"}
RECLAIMED_AT = 13  # the position in a book


def everything(engine: Any, admin: redis.Redis | None = None) -> None:
    """Every verb, on every path that calls a command of its own.

    With ``admin``, also that of a clock that went back.
    """
    engine.put_voucher(Voucher(code="A", quantity=9, credits=500))
    engine.put_voucher(Voucher(code="B", quantity=9))
    assert engine.validate("A", credits=5, session=lock("passing", 1)).valid
    time.sleep(0.01)
    assert engine.validate("A", credits=5, session=lock("cart")).valid, "the index has expired as a whole"
    assert engine.validate("A", credits=5, session=lock("passing", 1)).valid
    time.sleep(0.01)
    assert engine.get_voucher("A").credits.locked == 5, "an expired lock beside a live one"
    assert engine.validate("A", credits=7, session=lock("cart", 30_000)).valid
    assert engine.validate("A", credits=500, session=lock("late")).locked_by_others
    assert engine.validate("A", credits=1, session=lock("second", 30_000)).valid
    assert {each.key for each in engine.iter_sessions("A", batch=1)} == {"cart", "second"}
    assert engine.release("A", "second").released
    assert engine.extend("A", "cart", ttl=30, ttl_unit="SECONDS").credits == engine.get_session("A", "cart").credits
    assert engine.adjust("A", credits=1).credits == 1
    assert [each.credits for each in engine.list_sessions("A")] == [7]
    if admin is not None:
        edit_book(admin, "A", RECLAIMED_AT, 2**50)
    assert engine.redeem("A", session="cart", redemption_id="order").credits == 7
    assert engine.get_redemption("A", "order").credits == 7
    assert engine.rollback("A", "order", credits=2).credits == 2
    assert engine.rollback("A", "order").credits == 5
    if isinstance(engine, VoucherSessions):  # the bulk tools are not for asyncio
        assert {each.code for each in scan_vouchers(engine)} == {"A", "B"}
    cart = [Redeemable(code="A", credits=3), Redeemable(code="B")]
    assert engine.validate_stack(cart, session=lock("cart")).valid
    assert engine.validate_stack(cart[:1], session=lock("cart"), release=["B"]).valid
    assert [each.released for each in engine.release_stack(["A", "B"], "cart")] == [True, False]
    assert engine.redeem_stack(cart, redemption_id="stack").redemptions[0].credits == 3
    assert len(engine.rollback_stack(["A", "B"], "stack")) == 2
    assert engine.validate("B", session=lock("other")).valid
    assert engine.release("B", "other").released
    assert engine.audit("A") == engine.repair("A")
    assert engine.delete_voucher("A")
    assert engine.delete_voucher("B")


@pytest.fixture(scope="module", params=list(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    with server.client() as admin:
        admin.flushall()
        admin.acl_log_reset()
        yield admin


@pytest.fixture
def engine_as(server: Server, admin: redis.Redis, engine_on: Callable[..., Any]) -> Callable[..., Any]:
    """Makes an engine over the client of a user who may do just this."""

    def make(*allowed: str, durability: Durability | None = None, receipt_ttl: int | None = None, **client: Any) -> Any:
        admin.execute_command("ACL", "DELUSER", "checkout")
        admin.execute_command("ACL", "SETUSER", "checkout", *allowed)
        user = {"username": "checkout", "password": "secret"}
        return engine_on(server, client | user, durability=durability, receipt_ttl=receipt_ttl)

    return make


# What is tried without being needed: redis-py tells its name, and a scan asks whether the server was restarted.
OPTIONAL = {"client|setinfo", "info"}


def denied(admin: redis.Redis, optional: Collection[str] = OPTIONAL) -> set[str]:
    return {str(each["object"]) for each in admin.acl_log()}.difference(optional)


def test_the_acl_rule_lists_exactly_the_commands_of_the_scripts() -> None:
    assert sorted(COMMANDS) == sorted(f"+{name.lower()}" for name in ("EVAL", "EVALSHA", "ECHO", *scripts.COMMANDS))
    assert len(EXTRAS) == 10


def test_with_the_rule_everything_works(engine_as: Callable[..., Any], admin: redis.Redis) -> None:
    admin.config_resetstat()
    everything(engine_as(*RULE), admin)
    admin.flushall()
    everything(engine_as(*RULE, receipt_ttl=600))
    assert denied(admin) == set()
    called = {name.removeprefix("cmdstat_").upper() for name in admin.info("commandstats")}
    assert {*scripts.COMMANDS} - {"SCAN"} <= called, "nothing in the rule that is not needed"


@pytest.mark.unmeasured
@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_command_permission_is_named(engine_as: Callable[..., Any], admin: redis.Redis, command: str) -> None:
    name = command[1:]
    admin.script_flush()
    engine = engine_as(*[word for word in RULE if word != command])
    if command in DISPENSABLE or (command == "+scan" and not isinstance(engine, VoucherSessions)):
        everything(engine, admin)
    else:
        with pytest.raises(ServerRefused) as refused:
            everything(engine, admin)
        if f"'{name}'" not in str(refused.value):
            assert "The user executing the script can't run this command" in str(refused.value), "Redis 7.0"
    (finding,) = [each for each in engine.check_server() if each.subject == "permissions"]
    assert finding.problem == f"the user may not call {name.upper()}"
    assert name in denied(admin)


def test_a_script_that_is_refused_half_way_is_not_reported_as_done(
    engine_as: Callable[..., Any], admin: redis.Redis
) -> None:
    """The second lock writes the index and the session's key before PEXPIREAT is refused, and the totals after it."""
    engine = engine_as(*[word for word in RULE if word != "+pexpireat"])
    engine.put_voucher(Voucher(code="A", credits=100))
    assert engine.validate("A", credits=60, session=lock("first")).valid
    with pytest.raises(ServerRefused):
        engine.validate("A", credits=40, session=lock("second"))
    repaired = engine_as(*RULE)
    repaired.repair("A")
    assert repaired.get_voucher("A").credits.locked == sum(each.credits for each in repaired.list_sessions("A"))


def test_a_missing_key_permission_is_named(engine_as: Callable[..., Any], admin: redis.Redis) -> None:
    with pytest.raises(ServerRefused, match=r"[Nn]o permissions to access"):
        everything(engine_as(*["~other:*" if word == "~vs:*" else word for word in RULE]))
    assert admin.keys() == []


def without_each(added: list[str]) -> list[tuple[str, list[str]]]:
    """Each word, and the rule with the others."""
    return [(word[1:], RULE + [other for other in added if other != word]) for word in added]


@pytest.mark.parametrize(
    ("row", "durability"),
    [("without `fsync`", Durability(replicas=1, timeout_ms=1)), ("with `fsync`", Durability(fsync=True))],
)
def test_durability_needs_its_row(
    engine_as: Callable[..., Any], admin: redis.Redis, row: str, durability: Durability
) -> None:
    if lacks(admin, extra(row)):
        with pytest.raises(NotDurable, match="unknown command"):
            everything(engine_as(*RULE, durability=durability))
        return
    engine = engine_as(*RULE, *extra(row), durability=durability)
    if durability.fsync:
        everything(engine)
    else:
        with pytest.raises(NotDurable, match="0 of 1 replicas"):
            everything(engine)
    assert denied(admin) == set()
    for name, rule in without_each(extra(row)):
        engine = engine_as(*rule, durability=durability)
        with pytest.raises(NotDurable, match=f"'{name}'"):
            everything(engine)
        assert [each.problem for each in engine.check_server() if each.subject == "permissions"] == [
            f"the user may not call {name.upper()}"
        ]


def test_check_server_needs_its_row(engine_as: Callable[..., Any], admin: redis.Redis) -> None:
    added = extra("`check_server`")
    assert "unreadable" not in [each.subject for each in engine_as(*RULE, *added).check_server()]
    assert denied(admin) == set()
    for name, rule in without_each(added):
        (unreadable,) = [each for each in engine_as(*rule).check_server() if each.subject == "unreadable"]
        assert name.partition("|")[0].upper() in unreadable.problem


def test_health_checks_need_their_row(engine_as: Callable[..., Any], admin: redis.Redis) -> None:
    """Not so often that redis-py pings in the midst of connecting, where it takes other replies for those to its pings."""
    row = extra("`health_check_interval`")
    checked(engine_as(*RULE, *row, health_check_interval=0.3))
    assert denied(admin) == set()
    for name, rule in without_each(row):
        engine = engine_as(*rule, health_check_interval=0.3)
        checked(engine)  # the refusal of a PING is no refusal of the call
        # Tasks share a connection that is opened anew after the interval, without a PING.
        assert denied(admin) == ({name} if isinstance(engine, VoucherSessions) else set())


def checked(engine: Any) -> None:
    """Used again after the interval."""
    engine.validate("A")
    time.sleep(0.31)
    engine.validate("A")


def test_another_database_needs_its_row(engine_as: Callable[..., Any], admin: redis.Redis) -> None:
    row = extra("another database")
    everything(engine_as(*RULE, *row, db=1))
    assert denied(admin) == set()
    for name, rule in without_each(row):
        with pytest.raises(redis.RedisError):  # "Invalid Database", which redis-py tries again and again by default
            everything(engine_as(*rule, db=1, retry=Retry(NoBackoff(), 0)))
        assert denied(admin) == {name}


def test_the_connection_name_is_optional(engine_as: Callable[..., Any], admin: redis.Redis) -> None:
    """Of a server that does not know it, nothing is denied either."""
    row = extra("`CLIENT LIST`")
    everything(engine_as(*RULE, *extra("a restart"), *([] if lacks(admin, row) else row)))
    assert admin.acl_log() == []


def test_a_scan_that_notices_a_restart_needs_its_row(server: Server, admin: redis.Redis) -> None:
    """Without it, it works, and the server logs what it denied."""
    row = extra("a restart")
    for rule, expected in (([*RULE, *row], set()), *((rule, {name}) for name, rule in without_each(row))):
        admin.execute_command("ACL", "DELUSER", "checkout")
        admin.execute_command("ACL", "SETUSER", "checkout", *rule)
        admin.acl_log_reset()
        with server.client(username="checkout", password="secret") as client, VoucherSessions(client) as engine:
            engine.put_voucher(Voucher(code="A"))
            engine.redeem("A", redemption_id="order")
            assert [each.code for each in scan_vouchers(engine)] == ["A"]
            assert [each.id for each in scan_redemptions(engine)] == ["order"]
        assert denied(admin, optional={"client|setinfo"}) == expected

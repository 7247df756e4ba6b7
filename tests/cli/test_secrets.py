"""No output has a whole session key, a password or a part of a URL's credentials."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers import Server
from support.sessions import lock

from cli.running import Cli, Result
from voucher_sessions import OutcomeUnknown, Voucher, VoucherSessions
from voucher_sessions.cli.output import shown, with_shortened_keys

# Texts that appear nowhere by chance: they begin with something that no output has.
KEYS = st.text(string.ascii_letters + string.digits + "-_.:/@ é'\\\"", min_size=1, max_size=40).map(
    lambda text: f"k3Y-{text}-9Zq"
)
PASSWORDS = st.text(string.ascii_letters + string.digits + "-_.:/@%#? \\'\"é", max_size=20).map(
    lambda text: f"p4S{text}w0D"
)
USERS = st.text(string.ascii_lowercase, max_size=5).map(lambda text: f"u5R{text}")
# Commands that use the session KEY, and such that are wrong in some way with KEY or URL in them.
RIGHT = [
    *("show A", "show NOPE", "sessions A", "sessions A --all", "session A KEY", "session B KEY", "session NOPE KEY"),
    *("redemptions A", "redemptions B", "redemption B order", "redemption A order"),
    *("validate A --credits 9 --session KEY", "validate A --credits 101 --session KEY", "validate NOPE --session KEY"),
    *("redeem A --session KEY --id order-2", "redeem B --session KEY", "redeem A --credits 500 --session KEY"),
    *("redeem B --credits 1 --session KEY --if-session-missing redeem --id order-3", "redeem B --credits 9 --id order"),
    *("release A --session KEY", "release B --session KEY", "extend A --session KEY --ttl 1m"),
    *("extend B --session KEY --ttl 1m", "rollback B order", "audit A", "repair A", "check", "delete A"),
    *("reconcile FILE", "import FILE", "export -"),
]
WRONG = [
    *(
        "show A KEY",
        "show A URL",
        "show URL",
        "URL",
        "KEY",
        "session A KEY KEY",
        "session A",
        "show --url",
        "show --KEY A",
    ),
    *("show --ur=URL A", "show --URL A", "validate A --ttl URL", "validate A --ttl KEY", "validate A --session"),
    *("put A --quantity URL", "put A --if-exists KEY", "put A --if-exists URL", "put A URL", "put A --credits=KEY"),
    *("sessions A --limit URL", "check --fail-on URL", "check --fail-on KEY", "import URL", "import URL --format csv"),
    *("import KEY", "import KEY --format csv", "import - --format URL", "export URL", "reconcile URL --format jsonl"),
    *("import - --bad-lines URL", "delete URL", "demo URL", "demo --carts URL", "demo --url nonsense-URL --carts 1"),
    *("demo --uri URL", "demo --uri=URL", "demo --URL", "show A --prefix {URL", "show A --partition URL", "help URL"),
    *("show A --url xURL", "show A --url memory://URL", "watch A --partition=KEY", "--version=URL", "redeem A --id"),
]


def filled(command: str, **values: str) -> list[str]:
    words = command.split()
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    return words


def assert_nothing_secret(result: Result, secrets: list[str]) -> None:
    assert result.status in {0, 1, 2, 3}
    for output in (result.out, result.err):
        for secret in secrets:
            for form in {secret, repr(secret)[1:-1], quote(secret, safe=""), quote(secret), shown(secret)}:
                assert form not in output, (form, output)
        assert "Traceback" not in output


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py pauses between its tries, for four seconds in all."""
    monkeypatch.setattr("redis.retry.sleep", lambda seconds: None)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    return tmp_path / "orders.csv"


@pytest.mark.unmeasured
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), KEYS, USERS, PASSWORDS, st.booleans(), st.sampled_from([60, 120]), st.booleans())
def test_no_command_shows_a_secret(
    server: Server,
    admin: redis.Redis,
    engine: VoucherSessions,
    orders: Path,
    data: st.DataObject,
    key: str,
    user: str,
    password: str,
    as_json: bool,
    columns: int,
    colored: bool,
) -> None:
    admin.flushall()
    engine.put_voucher(Voucher(code="A", credits=100))
    engine.put_voucher(Voucher(code="B", credits=100))
    engine.redeem("B", credits=7, session=key, redemption_id="order", if_session_missing="redeem")
    engine.validate("A", credits=5, session=lock(key))
    orders.write_text(f'code,id,credits,session_key\nB,order,8,"{key}"\n', "utf-8")
    credentials = f"{user}:{quote(password, safe='')}"
    url = server.url.replace("unix://", f"unix://{credentials}@")
    admin.execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", "allkeys", "allcommands")
    if data.draw(st.booleans()):  # the server refuses it
        admin.execute_command("ACL", "SETUSER", user, "resetpass")
    cli = Cli(url, {"FORCE_COLOR": "1"} if colored else {})
    try:
        for command in data.draw(st.lists(st.sampled_from(RIGHT + WRONG), min_size=3, max_size=6)):
            given_url = f"{data.draw(st.sampled_from(['redis', 'rediss', 'nonsense']))}://{credentials}@127.0.0.1:1/x"
            words = filled(command, FILE=str(orders), KEY=key, URL=given_url)
            words += ["--json"] if as_json and not command.startswith("demo") else []
            result = cli(*words, columns=columns, input="code\nC\n")
            validated = command.startswith("validate A --credits 9") and result.status == 0
            # A code may be any text: that of the command line is shown.
            as_code = command.startswith(("delete URL", "show URL")) and key not in words
            assert_nothing_secret(
                result, [password, f"{user}:"] if validated or as_code else [password, f"{user}:", key]
            )
            assert (key in result.json["session"]["key"]) if validated and as_json else True
    finally:
        admin.execute_command("ACL", "DELUSER", user)


@pytest.mark.parametrize("command", WRONG)
@pytest.mark.parametrize(
    "password",
    [
        "p4S'\\w0D",
        pytest.param("p4S-w0D", marks=pytest.mark.long),
        pytest.param("p4S@x/y:zw0D", marks=pytest.mark.long),
    ],
)
def test_wrong_usage_shows_no_secret(
    command: str, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the wrong commands, also with a password that is not percent-encoded."""
    monkeypatch.chdir(tmp_path)
    key = "k3Y-of'a\\customer-9Zq"
    words = filled(command, KEY=key, URL=f"redis://u5R:{password}@127.0.0.1:1/x")
    for options in ([], ["--json"]):
        result = Cli("memory://")(*words, *options, input="code\n")
        assert_nothing_secret(result, [password, "u5R:", key])
        assert "p4S" not in result.out + result.err


def test_an_unknown_option_that_contains_a_blank_is_not_shown() -> None:
    assert "9Zq" not in Cli("memory://")("show", "--k3Y- -9Zq", "A").err


def test_json_is_searched_for_keys_at_every_depth() -> None:
    found: Any = {
        "key": "a-long-session-key",
        "deep": [{"session_key": "another-long-key", "key": None}],
        "keys": "kept",
    }
    assert with_shortened_keys(found) == {
        "key": "a-long-s…",
        "deep": [{"session_key": "another-…", "key": None}],
        "keys": "kept",
    }


def test_an_unknown_outcome_shows_no_key(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> object:
        raise OutcomeUnknown("redeem", ["A"], session_key="k3Y-of-a-customer", redemption_id="order-1")

    monkeypatch.setattr(VoucherSessions, "redeem", lost)
    for options in ([], ["--json"]):
        result = cli("redeem", "A", "--session", "k3Y-of-a-customer", *options)
        assert result.status == 3
        assert "order-1" in result.err
        assert "k3Y-of-a-" not in result.err

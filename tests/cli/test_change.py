"""The commands that change one voucher: what they do, what they print, and when they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import redis
from support.servers import Server
from support.sessions import lock

from cli.examples import KEY, SHORTENED, fill
from cli.running import Cli, Terminal, run_process
from voucher_sessions import (
    ActiveSession,
    OutcomeUnknown,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
)

GENERATED = re.compile(r"ssn_\w{32}")


def only_session(engine: VoucherSessions, code: str) -> ActiveSession:
    (session,) = engine.list_sessions(code)
    return session


def test_put_sets_all_limits(cli: Cli, engine: VoucherSessions) -> None:
    assert cli("put", "A", "--quantity", "3", "--credits", "500", "--points", "7").status == 0
    state = engine.get_voucher("A")
    assert (state.quantity.limit, state.credits.limit, state.points.limit) == (3, 500, 7)
    result = cli("put", "A", "--credits", "600")
    assert "without limit" in result.text
    assert engine.get_voucher("A").quantity.limit is None


def test_put_sets_what_is_used_only_if_asked_to(cli: Cli, engine: VoucherSessions) -> None:
    cli("put", "A", "--credits", "500", "--used-credits", "100", "--used-quantity", "2")
    engine.redeem("A", credits=50)
    cli("put", "A", "--credits", "500")
    assert engine.get_voucher("A").credits.used == 150
    assert engine.get_voucher("A").quantity.used == 3
    cli("put", "A", "--credits", "500", "--used-credits", "10", "--used-points", "4")
    state = engine.get_voucher("A")
    assert (state.quantity.used, state.credits.used, state.points.used) == (0, 10, 4)


@pytest.mark.parametrize(("if_exists", "status", "limit"), [("update", 0, 2), ("keep", 0, 1), ("raise", 1, 1)])
def test_put_and_a_voucher_that_exists(
    if_exists: str, status: int, limit: int, cli: Cli, engine: VoucherSessions
) -> None:
    engine.put_voucher(Voucher(code="A", credits=1))
    result = cli("put", "A", "--credits", "2", "--if-exists", if_exists)
    assert result.status == status
    assert ("there is a voucher 'A' already" in result.err) == (status == 1)
    assert engine.get_voucher("A").credits.limit == limit


def test_adjust_is_done_once_per_id(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", quantity=5, credits=100, points=10))
    words = ("adjust", "A", "--credits", "50", "--quantity", "-2", "--points", "+1", "--id", "top-up")
    assert "-2 quantity, +50 credits, +1 points" in cli(*words).text
    assert "An earlier call with this id made this change" in cli(*words).text
    state = engine.get_voucher("A")
    assert (state.quantity.limit, state.credits.limit, state.points.limit) == (3, 150, 11)
    engine.delete_voucher("A")
    replayed = cli(*words)
    assert replayed.status == 0
    assert "used" not in replayed.text  # there is no voucher to show


def test_adjust_says_why_it_refuses(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    result = cli("adjust", "A", "--credits", "-101", "--json")
    assert result.status == 1
    assert cli("adjust", "A").status == 2  # no change at all


def test_validate_without_a_session_changes_nothing(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    before = engine.list_sessions("GIFT-50")
    assert cli("validate", "GIFT-50", "--credits", "100").status == 0
    assert [each.key for each in engine.list_sessions("GIFT-50")] == [each.key for each in before]
    assert cli("validate", "NOPE").text == "not valid: NOPE: not_found"
    assert "quantity 20, 0 credits" in cli("validate", "SALE-50").text


@pytest.mark.parametrize(
    ("words", "ttl_ms"),
    [
        (["--lock"], 900_000),
        (["--ttl", "15m"], 900_000),
        (["--lock", "--ttl", "500ms"], 500),
        (["--ttl", "1.5h"], 5_400_000),
        (["--ttl", "90s"], 90_000),
        (["--ttl", "1d"], 86_400_000),
    ],
)
def test_validate_prints_the_key_that_it_has_generated(
    words: list[str], ttl_ms: int, cli: Cli, engine: VoucherSessions, admin: redis.Redis
) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    result = cli("validate", "A", "--credits", "60", *words)
    assert result.status == 0
    (key,) = GENERATED.findall(result.out)
    ttl_left = admin.pttl(f"vs:{{A}}:session:{key}") or 0
    assert 0 < ttl_left <= ttl_ms
    assert ttl_left > ttl_ms - 400
    found = cli("validate", "A", "--lock", "--json").json["session"]["key"]
    assert GENERATED.fullmatch(found)


def test_validate_locks_for_the_given_key(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    text = cli("validate", "A", "--credits", "60", "--session", KEY)
    assert f"locked: A session {KEY} locks 1 redemption, 60 credits time left 15m 00s" in text.text
    assert cli("validate", "A", "--credits", "70", "--session", KEY, "--json").json["session"]["key"] == KEY
    assert only_session(engine, "A").credits == 70


def test_a_lock_that_is_refused_stays_as_it_was(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    engine.validate("A", credits=60, session=lock(KEY))
    words = ("validate", "A", "--credits", "101", "--session", KEY)
    result = cli(*words)
    assert result.status == 1
    assert "not valid: A: gift_amount_exceeded" in result.text
    assert "the session stays as it was" in result.text
    assert SHORTENED in result.text
    assert KEY not in result.out
    assert cli(*words, "--json").json["session"]["key"] == SHORTENED
    assert cli(*words, "--json", "--show-keys").json["session"]["key"] == KEY


def test_redeem_asks_for_the_amounts_of_a_gift_card(cli: Cli, engine: VoucherSessions) -> None:
    """Without amounts, the command must redeem neither 0 credits nor all of them."""
    engine.put_voucher(Voucher(code="A", credits=100))
    result = cli("redeem", "A")
    assert result.status == 1
    assert "name the amounts" in result.err
    assert engine.get_voucher("A").credits.used == 0
    assert cli("redeem", "A", "--credits", "30", "--points", "0", "--id", "order-1").status == 0
    again = cli("redeem", "A", "--credits", "30", "--points", "0", "--id", "order-1")
    assert again.status == 0
    assert "An earlier call with this id made this change" in again.text
    assert engine.get_voucher("A").credits.used == 30


def test_redeem_without_its_session(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    words = ("redeem", "A", "--credits", "30", "--session", KEY)
    refused = cli(*words)
    assert refused.status == 1
    assert SHORTENED in refused.err
    assert KEY not in refused.err
    assert cli(*words, "--if-session-missing", "redeem", "--show-keys").text.endswith(f"session {KEY}")


def test_a_refusal_is_one_line_of_text_or_json(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    engine.validate("A", credits=60, session=lock(KEY))
    text = cli("redeem", "A", "--credits", "50")
    assert (text.status, text.out) == (1, "")
    assert text.err.startswith("Error: voucher 'A': 50 credits requested, 40 available; other sessions")
    assert len(text.err.splitlines()) == 1
    found = cli("redeem", "A", "--credits", "50", "--json")
    assert (found.status, found.out) == (1, "")
    facts = json_of(found.err)
    assert facts["error"] == "GiftAmountExceeded"
    assert facts["message"].startswith("voucher 'A': 50 credits requested")
    assert (facts["code"], facts["requested"], facts["available"], facts["locked_by_others"]) == ("A", 50, 40, True)
    facts = json_of(cli("session", "A", "nobody-s-session", "--json").err)
    assert facts["session_key"] == "nobody-s…"
    assert (
        json_of(cli("session", "A", "nobody-s-session", "--json", "--show-keys").err)["session_key"]
        == "nobody-s-session"
    )


def json_of(line: str) -> Any:
    (only,) = line.splitlines()
    return json.loads(only)


def test_a_redemption_that_was_rolled_back_is_shown(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    engine.rollback("GIFT-50", "order-1", credits=200)
    assert "rolled back 200 credits" in cli("redemption", "GIFT-50", "order-1").text
    assert "200 credits" in cli("redemptions", "GIFT-50").text
    engine.rollback("GIFT-50", "order-1")
    assert "rolled back all" in cli("redemption", "GIFT-50", "order-1").text
    refused = cli("redeem", "GIFT-50", "--credits", "700", "--id", "order-1", "--json")
    assert refused.status == 1
    assert json_of(refused.err)["redemption"]["rolled_back"] is True


def test_rollback_gives_back_a_part_once_per_id(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    words = ("rollback", "GIFT-50", "order-1", "--credits", "200", "--id", "refund")
    assert "given back 200 credits" in cli(*words).text
    assert "An earlier call with this id made this change" in cli(*words).text
    assert engine.get_voucher("GIFT-50").credits.used == 500
    assert cli("rollback", "GIFT-50", "order-1", "--credits", "501").status == 1
    assert "rollback rbk_" in cli("rollback", "GIFT-50", "order-1", "--credits", "1").text
    assert "1 redemption, 499 credits" in cli("rollback", "GIFT-50", "order-1").text
    assert cli("rollback", "GIFT-50", "order-2").status == 1


def test_release_ends_a_lock(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    assert cli("release", "GIFT-50", "--session", KEY).status == 0
    again = cli("release", "GIFT-50", "--session", KEY)
    assert (again.status, again.out) == (1, "")
    assert again.err == f"Error: session {SHORTENED} is not live on GIFT-50, but it was a moment ago\n"
    never = cli("release", "GIFT-50", "--session", "somebody-else", "--json")
    assert (never.status, never.err) == (1, "")
    assert never.json == {"code": "GIFT-50", "session_key": "somebo…", "released": False, "ended": False}
    assert cli("release", "GIFT-50", "--session", "somebody-else").err.endswith("is not live on GIFT-50\n")


def test_extend_sets_a_new_expiry(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="A", credits=100))
    engine.validate("A", credits=60, session=lock(KEY))
    assert cli("extend", "A", "--session", KEY, "--ttl", "2h").status == 0
    assert only_session(engine, "A").remaining_ms > 7_100_000
    assert cli("extend", "A", "--session", "somebody-else", "--ttl", "2h").status == 1


def test_delete_without_a_terminal_needs_yes(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    result = cli("delete", "GIFT-50", input="y\n")
    assert (result.status, result.out) == (2, "")
    assert "the command cannot ask: add --yes to do it without a question" in result.err
    assert engine.get_voucher("GIFT-50")
    assert run_process("delete", "GIFT-50", url=cli.url, input="y\n").status == 2
    assert cli("delete", "GIFT-50", "-y").text == "deleted: GIFT-50"
    with pytest.raises(VoucherNotFound):
        engine.get_voucher("GIFT-50")
    assert cli("delete", "GIFT-50", "--yes").status == 1
    missing = cli("delete", "GIFT-50", "--yes", "--json")
    assert (missing.status, missing.json) == (1, False)
    assert cli("delete", "GIFT-50").status == 1  # it need not ask


@pytest.mark.parametrize(("reply", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 130)])
def test_delete_asks_first(
    reply: str,
    status: int,
    answer: Callable[[str, list[str]], int],
    engine: VoucherSessions,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(engine)
    assert answer(reply, ["delete", "GIFT-50"]) == status
    output = capsys.readouterr()
    assert "Delete voucher GIFT-50 and its 2 live sessions? [y/N]" in output.out + output.err
    assert engine.delete_voucher("GIFT-50") == (status != 0)
    assert ("Nothing was changed." in output.err) == (status == 1)


def test_delete_asks_in_a_terminal(server: Server, engine: VoucherSessions) -> None:
    fill(engine)
    with Terminal("delete", "GIFT-50", "--json", url=server.url) as terminal:
        terminal.wait_for("[y/N]")
        terminal.write("y\n")
        assert terminal.end() == 0
        assert terminal.text.split() == ["y", "true"]
    assert not engine.delete_voucher("GIFT-50")


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_at_a_question_changes_nothing(server: Server, engine: VoucherSessions) -> None:
    fill(engine)
    with Terminal("delete", "GIFT-50", url=server.url) as terminal:
        terminal.wait_for("[y/N]")
        terminal.interrupt_until_it_ends()
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
    assert engine.delete_voucher("GIFT-50")


def test_an_unknown_outcome_says_how_to_repeat_the_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "ssn_" + "x" * 32

    def lost(verb: str, **known: str | None) -> Callable[..., object]:
        def fails(*_: object, **__: object) -> object:
            raise OutcomeUnknown(verb, ["A"], **known)

        return fails

    def error(*words: str) -> str:
        result = cli(*words)
        assert result.status == 3
        return result.err

    monkeypatch.setattr(VoucherSessions, "redeem", lost("redeem", session_key=key, redemption_id="rdm x"))
    assert error("redeem", "A").endswith("of this error: --id 'rdm x'\n")
    for odd in ("an\x1bid", "https://an@id"):  # its escaped form would be another id
        monkeypatch.setattr(VoucherSessions, "redeem", lost("redeem", redemption_id=odd))
        assert error("redeem", "A", "--id", odd).endswith("of this error\n")
    monkeypatch.setattr(VoucherSessions, "rollback", lost("rollback", redemption_id="B", rollback_id="rbk"))
    assert error("rollback", "A", "B", "--credits", "1").endswith("of this error: --id rbk\n")
    monkeypatch.setattr(VoucherSessions, "rollback", lost("rollback", redemption_id="B"))
    assert error("rollback", "A", "B").endswith("of this error\n")
    monkeypatch.setattr(VoucherSessions, "adjust", lost("adjust", adjustment_id="adj"))
    assert error("adjust", "A", "--credits", "1").endswith(": --id adj\n")
    monkeypatch.setattr(VoucherSessions, "delete_voucher", lost("delete_voucher"))
    assert error("delete", "A", "--yes").endswith("Repeat the call\n")
    monkeypatch.setattr(VoucherSessions, "validate", lost("validate", session_key=key))
    assert error("validate", "A", "--lock").endswith(f": --session {key}\n")
    assert key not in error("validate", "A", "--session", key)
    assert json_of(error("validate", "A", "--lock", "--json"))["session_key"] == key
    assert key not in error("validate", "A", "--session", key, "--json")


def test_ctrl_c_during_a_change_says_that_it_may_have_been_made(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    for method in ("put_voucher", "redeem", "get_voucher"):
        monkeypatch.setattr(VoucherSessions, method, interrupted)
    for command, note in (("put A", True), ("redeem A", True), ("show A", False)):
        result = cli(*command.split())
        assert (result.status, result.out) == (130, "")
        assert result.err.startswith("Interrupted: the change may or may not have been made.") == note

"""The commands that only read."""

from __future__ import annotations

import re

import pytest
import redis
from support.sessions import lock

from cli.examples import KEY, SHORTENED, fill
from cli.running import Cli
from voucher_sessions import Voucher, VoucherSessions

# What a terminal must never get from a code: the start of a colour, a new line, an invisible character.
ODD_CODE = "[red]\x1b[31m\n\t\x9b\u202e:smile: Ä\\"
SHOWN_CODE = "[red]\\x1b[31m\\n\\t\\x9b\\u202e:smile: Ä\\"


def lock_for(engine: VoucherSessions, *numbers: int) -> None:
    for number in numbers:
        engine.validate("SALE", session=lock(f"session-key-{number:03}", 60_000 + 1000 * number))


def test_show_lists_the_sessions_that_expire_first(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=100))
    assert "no live sessions" in cli("show", "SALE").text
    lock_for(engine, 0)
    assert "1 live session:" in cli("show", "SALE").text
    lock_for(engine, *range(30, 0, -1))
    text = cli("show", "SALE", "--show-keys").text
    assert "31 live sessions, the first 20 to expire:" in text
    assert re.findall(r"session-key-(\d{3})", text) == [f"{number:03}" for number in range(20)]
    assert "credits" not in text


def test_sessions_lists_as_many_as_asked_for(cli: Cli, engine: VoucherSessions) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=500))
    lock_for(engine, *range(120, 0, -1))
    assert len(cli("sessions", "SALE", "--json").json) == 100
    everything = cli("sessions", "SALE", "--all", "--json", "--show-keys").json
    assert [each["key"] for each in everything] == [f"session-key-{number:03}" for number in range(1, 121)]
    assert "120 live sessions, the first 3 to expire:" in cli("sessions", "SALE", "--limit", "3").text
    assert "120 live sessions:" in cli("sessions", "SALE", "--all").text


@pytest.mark.parametrize(
    "command", ["show X", "sessions X", "sessions X --all", "session X K", "redemptions X", "audit X"]
)
def test_a_voucher_that_does_not_exist(command: str, cli: Cli) -> None:
    result = cli(*command.split())
    assert (result.status, result.out) == (1, "")
    assert "there is no voucher 'X'" in result.err


def test_a_session_or_redemption_that_does_not_exist(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    result = cli("session", "GIFT-50", "nobody-s-session")
    assert (result.status, result.out) == (1, "")
    assert "session 'nobody-s…' is not live" in result.err
    assert cli("redemption", "GIFT-50", "order-9").status == 1


def test_redemptions_of_a_voucher(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    assert cli("redemptions", "SALE-50").text == "no redemptions"
    assert cli("redemptions", "SALE-50", "--json").json == []
    engine.redeem("GIFT-50", session=KEY, redemption_id="order-0")
    rows = cli("redemptions", "GIFT-50").out.splitlines()
    assert [row.split()[0] for row in rows] == ["redemption", "order-1", "order-0"]  # by time
    assert SHORTENED in rows[2]
    assert "points" not in rows[0]
    engine.put_voucher(Voucher(code="CARD", points=50))
    engine.redeem("CARD", points=7, redemption_id="order-2")
    assert cli("redemptions", "CARD").out.split()[:2] == ["redemption", "points"]
    engine.delete_voucher("CARD")
    assert "order-2" in cli("redemptions", "CARD").text  # receipts stay


def test_sessions_that_are_not_live_are_not_shown(cli: Cli, engine: VoucherSessions, admin: redis.Redis) -> None:
    engine.put_voucher(Voucher(code="SALE", quantity=5))
    engine.validate("SALE", session=lock(KEY, 1))
    while admin.exists(f"vs:{{SALE}}:session:{KEY}"):
        pass
    assert "no live sessions" in cli("show", "SALE").text


@pytest.mark.parametrize("columns", [60, 120])
def test_control_characters_of_a_code_are_escaped_in_the_terminal(
    columns: int, cli: Cli, engine: VoucherSessions
) -> None:
    engine.put_voucher(Voucher(code=ODD_CODE, credits=100))
    engine.redeem(ODD_CODE, credits=10, redemption_id=ODD_CODE, session=None)
    engine.validate(ODD_CODE, credits=10, session=lock(ODD_CODE))
    for words in (("show",), ("redemptions",), ("redemption", ODD_CODE), ("validate",), ("session", ODD_CODE)):
        result = cli(words[0], ODD_CODE, *words[1:], columns=columns)
        assert result.status == 0
        shown = "[red]" if words[0] == "session" else SHOWN_CODE[:20]  # a key is shortened, and a cell may be divided
        assert shown in result.text
        assert not re.search(r"[^\n\x20-\x7e…█▓░Ä]", result.out)
    missing = cli("show", ODD_CODE + "?", columns=columns)
    assert not re.search(r"[^\n\x20-\x7eÄ]", missing.err)
    assert len(missing.err.splitlines()) == 1


def test_numbers_are_whole_at_60_columns(cli: Cli) -> None:
    largest = str(2**53 - 1)
    words = ("--credits", largest, "--points", largest, "--quantity", largest, "--used-credits", "4503599627370496")
    for result in (cli("put", "A" * 256, *words, columns=60), Cli("memory://")("put", "A" * 256, *words, columns=60)):
        assert result.status == 0
        assert result.text.count(f"of {largest}") == 3
        assert "4503599627370496 used" in result.text
        assert "4503599627370495 available" in result.text
        assert "A" * 256 in "".join(result.out.split())


def test_a_terminal_without_utf_8(cli: Cli, engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.put_voucher(Voucher(code="Ä", credits=100))
    engine.redeem("Ä", credits=30)
    engine.validate("Ä", credits=20, session=lock(KEY))
    monkeypatch.setattr("typer.testing.CliRunner.__init__.__defaults__", ("ascii", None))
    result = cli("show", "Ä", columns=60)
    assert result.status == 0
    assert "# 30 used = 20 locked . 50 available of 100" in result.text
    assert re.search(r"#{10,}={5,}\.{20,}", result.out)
    assert result.out.startswith("\\xc4")

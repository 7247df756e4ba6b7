"""The check of a server, audit and repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import redis
from support.model import read_book, written_book

from cli.examples import fill
from cli.running import Cli
from voucher_sessions import Audit, Finding, VoucherSessions

Severity = Literal["error", "warning", "info"]


def finding(severity: Severity, node: str = "") -> Finding:
    problem = "something is not as it should be, which takes a line of some length to say"
    return Finding(node=node, severity=severity, subject=f"an-{severity}", problem=problem, remedy="change it")


def tamper(admin: redis.Redis, *, next_expiry: bool = False) -> None:
    """Change the totals of the gift card as another program would."""
    text = admin.get("vs:{GIFT-50}")
    assert isinstance(text, bytes)
    values, only_key = read_book(text)
    values[9 if not next_expiry else 11] += 1000
    admin.set("vs:{GIFT-50}", written_book(values, only_key))


@pytest.mark.parametrize(
    ("severities", "fail_on", "status"),
    [
        ([], "error", 0),
        ([], "warning", 0),
        (["info"], "warning", 0),
        (["warning"], "error", 0),
        (["warning", "info"], "warning", 3),
        (["error"], "error", 3),
        (["error"], "warning", 3),
        (["warning", "error", "info", "error"], "error", 3),
    ],
)
def test_check_fails_on_findings(
    severities: list[Severity], fail_on: str, status: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [finding(severity, node="10.0.0.1:6379" if severity == "info" else "") for severity in severities]
    monkeypatch.setattr(VoucherSessions, "check_server", lambda _: findings)
    result = cli("check", "--fail-on", fail_on, columns=60)
    assert result.status == status
    for each in findings:
        assert f"{each.severity} an-{each.severity}" in result.text
        assert each.problem in result.text
        assert "-> change it" in result.text
    assert ("(10.0.0.1:6379)" in result.text) == ("info" in severities)
    assert ("no findings" in result.text) == (not severities)
    assert len(cli("check", "--json").json) == len(severities)


def test_findings_are_coloured_by_severity(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [finding("error"), finding("warning"), finding("info")]
    monkeypatch.setattr(VoucherSessions, "check_server", lambda _: findings)
    output = cli("check", FORCE_COLOR="1").out
    for color, severity in (("1;31", "error"), ("33", "warning"), ("36", "info")):
        assert f"\x1b[{color}m{severity}" in output


def test_audit_finds_a_total_that_is_wrong(cli: Cli, engine: VoucherSessions, admin: redis.Redis) -> None:
    fill(engine)
    tamper(admin)
    result = cli("audit", "GIFT-50")
    assert result.status == 1
    assert "credits 4500 3500" in result.text
    assert "The totals differ." in result.text
    assert cli("audit", "GIFT-50", "--json").json["differs"] is True


def test_audit_finds_an_expiry_that_is_wrong(cli: Cli, engine: VoucherSessions, admin: redis.Redis) -> None:
    fill(engine)
    tamper(admin, next_expiry=True)
    result = cli("audit", "GIFT-50")
    assert result.status == 1
    assert "The stored times of the first and the last expiry are wrong." in result.text


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(("reply", "status"), [("y\n", 0), ("n\n", 1)])
def test_repair_shows_what_it_would_change_and_asks(
    reply: str,
    status: int,
    options: list[str],
    answer: Callable[[str, list[str]], int],
    engine: VoucherSessions,
    admin: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(engine)
    tamper(admin)
    assert answer(reply, ["repair", "GIFT-50", *options]) == status
    output = capsys.readouterr()
    shown = output.err if options else output.out
    assert "credits 4500 3500" in " ".join(shown.split())
    assert "Set the totals of voucher GIFT-50 to what was counted? [y/N]" in output.out + output.err
    assert ("Repaired." in output.out) == (not options and status == 0)
    assert engine.get_voucher("GIFT-50").credits.locked == (3500 if status == 0 else 4500)


def test_repair_without_anybody_to_ask(cli: Cli, engine: VoucherSessions, admin: redis.Redis) -> None:
    fill(engine)
    tamper(admin)
    refused = cli("repair", "GIFT-50")
    assert refused.status == 2
    assert "--yes" in refused.err
    assert engine.audit("GIFT-50").differs
    repaired = cli("repair", "GIFT-50", "--yes")
    assert (repaired.status, repaired.text) == (0, "Repaired.")
    assert not engine.audit("GIFT-50").differs
    assert cli("repair", "GIFT-50", "--yes").text == "Nothing to repair."


def test_a_voucher_that_changes_all_the_time_is_not_repaired(
    cli: Cli, engine: VoucherSessions, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    tamper(admin)
    busy: Audit = engine.audit("GIFT-50").model_copy(update={"exact": False})
    monkeypatch.setattr(VoucherSessions, "audit", lambda *_: busy)
    monkeypatch.setattr(VoucherSessions, "repair", lambda *_: busy)
    assert "the figures are not of one moment" in cli("audit", "GIFT-50").text
    result = cli("repair", "GIFT-50", "--yes")
    assert result.status == 1
    assert "nothing was repaired: try again later" in result.err
    assert cli("repair", "GIFT-50", "--yes", "--json").status == 1

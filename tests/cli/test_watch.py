"""``watch``: live in a terminal, line by line elsewhere, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
import redis
from support.servers import Server, running
from support.sessions import lock

from cli.examples import KEY, SHORTENED, fill
from cli.running import COMMAND, ESCAPES, Cli, Terminal, variables
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.cli import watching

SHOW_CURSOR = "\x1b[?25h"
OWN_SCREEN, FORMER_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What happens between two refreshes, instead of a second of sleep; after the last of them comes Ctrl-C."""

    def happen(*steps: Callable[[], object]) -> None:
        remaining: Iterator[Callable[[], object]] = iter(steps)

        def sleep(seconds: float) -> None:
            assert seconds == 1.0
            step = next(remaining, None)
            if step is None:
                raise KeyboardInterrupt
            step()

        monkeypatch.setattr(watching, "sleep", sleep)

    return happen


@pytest.mark.usefixtures("_interruptible")
def test_in_a_terminal(server: Server, engine: VoucherSessions) -> None:
    fill(engine)
    with Terminal("watch", "GIFT-50", url=server.url, columns=60, rows=24) as terminal:
        shown = terminal.wait_for("cart-471…")
        assert "3500 locked" in shown
        engine.redeem("GIFT-50", session=KEY, redemption_id="order-2")
        terminal.wait_for("3700 used")
        seen = terminal.raw
        terminal.interrupt()
        assert terminal.end() == 0
        assert FORMER_SCREEN in seen + terminal.raw
        assert SHOW_CURSOR in seen + terminal.raw
        last = terminal.text
        assert "3700 used" in last  # the last view stays
        assert "Traceback" not in last
        assert KEY not in last


def test_sigterm_leaves_the_terminal_as_it_was(server: Server, engine: VoucherSessions) -> None:
    fill(engine)
    with Terminal("watch", url=server.url) as terminal:
        terminal.wait_for("SALE-50")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert FORMER_SCREEN in terminal.raw
        assert SHOW_CURSOR in terminal.raw


def test_sigterm_ends_it(cli: Cli, engine: VoucherSessions, between: Callable[..., None]) -> None:
    """Afterwards SIGTERM has its earlier handler again."""
    fill(engine)
    handler = signal.getsignal(signal.SIGTERM)
    between(lambda: signal.raise_signal(signal.SIGTERM))
    result = cli("watch", FORCE_COLOR="1", TERM="xterm")
    assert result.status == 143
    assert "SALE-50" in result.out.split(FORMER_SCREEN)[1]
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.usefixtures("_interruptible")
def test_in_a_pipe(server: Server, engine: VoucherSessions) -> None:
    """A line for each voucher and refresh, at once."""
    fill(engine)
    words = [*COMMAND, "watch", "SALE-50", "GIFT-50"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables(server.url)
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert [line.split("  ", 1)[1] for line in lines[:2]] == [
        "SALE-50  quantity 30+0/50\n",
        "GIFT-50  quantity 1+2  credits 700+3500/5000\n",
    ]
    assert [line.split()[2] for line in lines] == ["SALE-50", "GIFT-50"] * 2


def test_in_a_terminal_that_can_only_print_lines(
    cli: Cli, engine: VoucherSessions, between: Callable[..., None]
) -> None:
    fill(engine)
    between()
    result = cli("watch", FORCE_COLOR="1", TERM="dumb")
    assert len(result.out.splitlines()) == 2
    assert "\x1b" not in result.out


def test_what_has_changed_is_shown(cli: Cli, engine: VoucherSessions, between: Callable[..., None]) -> None:
    fill(engine)
    between(
        lambda: engine.redeem("GIFT-50", credits=100),
        lambda: engine.delete_voucher("GIFT-50"),
        lambda: engine.put_voucher(Voucher(code="GIFT-50", points=7)),
    )
    result = cli("watch", "GIFT-50")
    assert result.status == 0
    figures = [line.split("  ", 2)[2] for line in result.out.splitlines()]
    assert figures == [
        "quantity 1+2  credits 700+3500/5000",
        "quantity 2+2  credits 800+3500/5000",
        "there is no such voucher",
        "quantity 0+0  points 0+0/7",
    ]


def test_json_is_a_line_for_each_refresh(cli: Cli, engine: VoucherSessions, between: Callable[..., None]) -> None:
    fill(engine)
    between(lambda: engine.redeem("GIFT-50", credits=100), lambda: engine.delete_voucher("SALE-50"))
    result = cli("watch", "SALE-50", "GIFT-50", "--json")
    assert result.status == 0
    states = [json.loads(line) for line in result.out.splitlines()]
    assert [[each["code"] for each in state] for state in states] == [["SALE-50", "GIFT-50"]] * 2 + [["GIFT-50"]]
    assert [state[-1]["credits"]["used"] for state in states] == [700, 800, 800]


def test_a_live_view_of_one_voucher(cli: Cli, engine: VoucherSessions, between: Callable[..., None]) -> None:
    fill(engine)
    between(lambda: engine.delete_voucher("GIFT-50"))
    result = cli("watch", "GIFT-50", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm", columns=60, LINES="24")
    assert result.status == 0
    assert OWN_SCREEN in result.out
    first, last = result.out.split(FORMER_SCREEN)
    assert "refreshed each second until Ctrl-C" in first
    assert SHORTENED in first
    assert "not found" in last


def test_a_live_view_has_no_more_than_the_screen(
    cli: Cli, engine: VoucherSessions, between: Callable[..., None]
) -> None:
    between()
    for number in range(30):
        engine.put_voucher(Voucher(code=f"CODE-{number:02}", quantity=5 if number % 2 else None, credits=9))
    engine.validate("CODE-27", session=lock("a-session-key", 5_000))
    engine.validate("CODE-27", session=lock("another-session-key", 50_000))
    terminal = Cli(cli.url, {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"})
    last = terminal("watch", columns=60, LINES="24").out.split(FORMER_SCREEN)[1]
    lines = [line for line in plain(last) if line]
    assert len(lines) <= 24
    assert lines[2].split()[:2] == ["CODE-27", "quantity"]  # the one with sessions comes first
    assert lines[2].endswith(("4.9s", "4.8s", "4.7s", "4.6s", "4.5s"))
    assert lines[3].split()[0] == "credits"
    assert lines[4].split()[:2] == ["CODE-00", "credits"]  # a quantity without limit says nothing
    assert lines[-1].startswith("and ")
    assert lines[-1].endswith(" more: name those that you want to see")
    single = [line for line in plain(terminal("watch", "CODE-27", LINES="12").out.split(FORMER_SCREEN)[1]) if line]
    assert "2 live sessions, the first 1 to expire:" in single
    assert "a-sess…" in single[-1]


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in ESCAPES.sub("", text).splitlines()]


def test_without_codes_it_watches_those_that_exist(
    cli: Cli, engine: VoucherSessions, between: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    between()
    nothing = cli("watch")
    assert (nothing.status, nothing.out) == (1, "")
    assert nothing.err == "Error: there are no vouchers under this prefix\n"
    assert json.loads(cli("watch", "--json").err)["message"] == "there are no vouchers under this prefix"
    fill(engine)
    assert [line.split()[2] for line in cli("watch").out.splitlines()] == ["GIFT-50", "SALE-50"]
    monkeypatch.setattr(watching, "MAX_VOUCHERS", 1)
    result = cli("watch")
    assert len(result.out.splitlines()) == 1
    assert result.err.startswith("Note: these are 1 of the vouchers; name the codes to watch others")


def test_codes_that_do_not_exist(cli: Cli, engine: VoucherSessions, between: Callable[..., None]) -> None:
    fill(engine)
    between()
    missing = cli("watch", "A", "B")
    assert (missing.status, missing.out) == (1, "")
    assert "there is no voucher 'A', 'B'" in missing.err
    assert "there is no such voucher" in cli("watch", "A", "GIFT-50").out


def test_a_server_that_goes_away_and_comes_back(between: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last figures stay, with what is wrong."""
    monkeypatch.setattr("redis.retry.sleep", lambda seconds: None)
    with running("valkey", appendonly="yes", appendfsync="always") as server:
        with VoucherSessions.from_url(server.url) as engine:
            engine.put_voucher(Voucher(code="A", quantity=5))
        for environment in ({}, {"FORCE_COLOR": "1", "TERM": "xterm"}):
            between(server.kill, server.start)
            result = Cli(server.url, environment)("watch", "A", columns=200)
            assert result.status == 0
            assert "get_voucher of 'A' failed" in result.out
            if not environment:
                assert [line.split("  ", 1)[1][:5] for line in result.out.splitlines()] == ["A  qu", "get_v", "A  qu"]
        between(server.kill, server.start)
        as_json = Cli(server.url)("watch", "A", "--json")
        assert len(as_json.out.splitlines()) == 2  # old figures do not pass for new ones
        assert as_json.err.startswith("Error: get_voucher of 'A' failed")
        server.kill()
        down = Cli(server.url)("watch", "A")
    assert (down.status, down.out) == (3, "")
    assert len(down.err.splitlines()) == 1


def test_a_damaged_voucher_ends_it_at_the_beginning(
    cli: Cli, engine: VoucherSessions, admin: redis.Redis, between: Callable[..., None]
) -> None:
    fill(engine)
    between(lambda: admin.set("vs:{SALE-50}", "not ours"))
    last = cli("watch", "SALE-50", "GIFT-50", columns=60).out.splitlines()[-1]  # a line of a log is never wrapped
    assert "contains a value that this library did not write, so nothing was changed" in last
    assert last.endswith("find out what else writes under the prefix")
    assert cli("watch", "SALE-50", "GIFT-50").status == 3

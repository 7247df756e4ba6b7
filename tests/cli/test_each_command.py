"""Each command: its text at both widths, its JSON, its exit status, in this process and as a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.servers import Server

from cli.examples import EXAMPLES, KEY, OTHER_KEY, Example, fill
from cli.running import COLOR, Cli, Result, run_process
from voucher_sessions import VoucherSessions
from voucher_sessions.cli.app import app

by_command = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.command)


def assert_text(example: Example, result: Result, columns: int) -> None:
    assert result.status == example.status, result.err
    assert [text for text in example.texts if text not in result.text] == []
    assert max(map(len, result.out.splitlines())) <= columns
    assert not any(key in result.out + result.err for key in (KEY, OTHER_KEY))


def assert_json(example: Example, result: Result) -> None:
    assert result.status == example.status, result.err
    example.check_json(result.json)
    assert not any(key in result.out + result.err for key in (KEY, OTHER_KEY))


def test_each_command_has_an_example() -> None:
    commands = {
        command.name or (command.callback.__name__ if command.callback else None)
        for part in app.registered_groups
        for command in (part.typer_instance.registered_commands if part.typer_instance else [])
    }
    assert commands - {"watch", "demo", "serve"} == {example.command.split()[0] for example in EXAMPLES}


@by_command
@pytest.mark.parametrize("columns", [60, 120])
def test_text(example: Example, columns: int, cli: Cli, engine: VoucherSessions, tmp_path: Path) -> None:
    fill(engine)
    result = cli(*example.words(tmp_path), columns=columns, input=example.input)
    assert_text(example, result, columns)
    assert "\x1b" not in result.out  # the output is no terminal


@by_command
def test_no_color(example: Example, cli: Cli, engine: VoucherSessions, tmp_path: Path) -> None:
    """In a terminal, which FORCE_COLOR stands for here."""
    fill(engine)
    words = example.words(tmp_path)
    assert not COLOR.search(cli(*words, input=example.input, FORCE_COLOR="1", NO_COLOR="1").out)


@by_command
def test_json(example: Example, cli: Cli, engine: VoucherSessions, tmp_path: Path) -> None:
    fill(engine)
    result = cli(*example.words(tmp_path), "--json", input=example.input, FORCE_COLOR="1")
    assert_json(example, result)


# Each process takes half a second; the commands themselves are the same as in this process.
AS_PROCESSES = [
    pytest.param(example, id=example.command, marks=[pytest.mark.long] if number % 5 else [])
    for number, example in enumerate(EXAMPLES)
]


@pytest.mark.parametrize("example", AS_PROCESSES)
def test_as_a_process(example: Example, server: Server, engine: VoucherSessions, tmp_path: Path) -> None:
    fill(engine)
    result = run_process(*example.words(tmp_path), url=server.url, columns=60, input=example.input)
    assert_text(example, result, 60)


@pytest.mark.parametrize("example", EXAMPLES[::8], ids=lambda example: example.command)
def test_json_as_a_process(example: Example, server: Server, engine: VoucherSessions, tmp_path: Path) -> None:
    fill(engine)
    options = ("--json", "--url", server.url)  # before the command
    assert_json(example, run_process(*options, *example.words(tmp_path), input=example.input))


def test_a_terminal_has_colours(cli: Cli, engine: VoucherSessions) -> None:
    fill(engine)
    assert COLOR.search(cli("show", "GIFT-50", FORCE_COLOR="1").out)

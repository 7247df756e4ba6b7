"""docs/command-line.md: each command prints what the page shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from documents.examples import ROOT

from cli.running import Cli
from voucher_sessions.cli.app import app

PAGE = ROOT / "docs" / "command-line.md"
BLOCKS: list[str] = re.findall(r"```console\n(\$ .+?)```", PAGE.read_text("utf-8"), re.DOTALL)
# What differs from run to run.
VARIABLE = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-11-28 14:03:05"),
    (r"\b(?:15m 00s|14m 5\d\.?\d*s)", "14m 59s"),
    (r"\d+\.\d s, \d+ rows per second", "0.1 s, 1000 rows per second"),
    (r' retry_after_ms": \d+', ' retry_after_ms": 1'),
    (r" +$", ""),
)


def steps(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with its output."""
    parts = re.split(r"^\$ (.+)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def stable(text: str) -> str:
    for pattern, replacement in VARIABLE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def ran(command: str, output: str, cli: Cli) -> str:
    """What a command prints. ``cat`` of a file that does not exist creates it, as the page shows it."""
    words = shlex.split(command)
    if words[0] == "cat":
        if not Path(words[1]).exists():
            Path(words[1]).write_text(output, "utf-8")
        return Path(words[1]).read_text("utf-8")
    assert words[0] == "voucher-sessions"
    result = cli(*words[1:], columns=80)
    return result.err + result.out


def test_each_command_prints_what_the_page_shows(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 4
    for block in BLOCKS:
        for command, output in steps(block):
            assert stable(ran(command, output, cli)) == stable(output), command


def test_the_page_names_every_command_and_option() -> None:
    text = PAGE.read_text("utf-8")
    for part in app.registered_groups:
        for command in part.typer_instance.registered_commands if part.typer_instance else []:
            name = command.name or (command.callback.__name__ if command.callback else "")
            assert re.search(rf"`{name}\b", text), name
    options = set(re.findall(r"--[a-z-]{3,}", Cli(None)("--help", columns=200).out))
    for option in options - {"--help", "--version"}:
        assert option in text

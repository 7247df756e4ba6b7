"""The command that lints the scripts: what it reports of luacheck's findings, and what it does without luacheck."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
from lua_tools import lint
from lua_tools import sources as lua_sources
from lua_tools.sources import Place

pytestmark = pytest.mark.unmeasured

needs_luacheck = pytest.mark.skipif(not shutil.which("luacheck") and not os.environ.get("CI"), reason=lint.MISSING)

Change = Callable[[str, str, str], None]


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Changes a file in ``lua/`` for the test."""

    def change(file: str, code: str, changed: str) -> None:
        source = lua_sources.source
        assert code in source(file)
        monkeypatch.setattr(
            lua_sources, "source", lambda name: source(name).replace(code, changed) if name == file else source(name)
        )

    return change


def number_of(verb: str, place: Place) -> int:
    return [line.place for line in lua_sources.assembled(verb)].index(place) + 1


def place_of(file: str, code: str) -> Place:
    return Place(file, next(at for at, line in enumerate(lua_sources.source(file).splitlines(), 1) if code in line))


def test_a_finding_has_the_line_of_the_file_once() -> None:
    place = place_of("book", "local time = ")
    lines = [f"{verb}.lua:{number_of(verb, place)}:1: (W113) a problem" for verb in ("redeem", "validate")]
    assert lint.findings("\n".join(lines)) == [f"{place}: (W113) a problem"]


@pytest.mark.parametrize("code", ["W211", "W231", "W311"])
def test_what_is_unused_in_a_block_is_a_finding_if_no_script_uses_it(code: str) -> None:
    place = place_of("book", "local LIFE, CALL_IDS")
    verbs = [verb for verb in lua_sources.verbs() if place in {line.place for line in lua_sources.assembled(verb)}]
    assert len(verbs) > 5
    lines = [f"{verb}.lua:{number_of(verb, place)}:7: ({code}) unused variable 'LIFE'" for verb in verbs]
    assert lint.findings("\n".join(lines)) == [f"{place}: ({code}) unused variable 'LIFE'"]
    assert lint.findings("\n".join(lines[1:])) == []


def test_output_of_another_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a finding: Checking"):
        lint.findings("Checking redeem.lua")


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_without_luacheck_the_command_fails_only_in_ci(
    ci: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    assert lint.main() == status
    assert "apt-get install lua-check" in capsys.readouterr().err


@needs_luacheck
def test_the_scripts_have_no_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint.main() == 0
    assert capsys.readouterr().out == ""


@needs_luacheck
@pytest.mark.parametrize(
    ("file", "code", "changed", "problem"),
    [
        ("redeem", "local books, again", "books, again", "(W111) setting non-standard global variable 'books'"),
        ("redeem", "local books, again", "redis, again", "(W121) setting read-only global variable 'redis'"),
        ("audit", "if again then", "if agian then", "(W113) accessing undefined variable 'agian'"),
        ("audit", "if again then", "if os.time() then", "(W113) accessing undefined variable 'os'"),
        ("book", "local time = redis", "local unused, time = 1, redis", "(W211) unused variable 'unused'"),
        ("book", "for _, member in", "for at, member in", "(W213) unused loop variable 'at'"),
        ("release", "local reply, books =", "local reply, books, set\nset = 1\nreply, books =", "(W231)"),
        ("book", "local time = redis", "local time = = redis", "(E011) expected expression near '='"),
    ],
)
def test_a_defect_is_found(
    file: str, code: str, changed: str, problem: str, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    place = place_of(file, code)
    change(file, code, changed)
    assert lint.main() == 1
    assert f"{place}: {problem}" in capsys.readouterr().out

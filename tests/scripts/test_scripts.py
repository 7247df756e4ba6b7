"""The scripts as texts: one file per verb, sent as ``lua/`` has them, which Lua's compiler accepts on every server.

luacheck checks the globals of the scripts too, and more (``lua_tools.lint``). The test here remains because luacheck is
not installed everywhere, and a global that only some servers have fails on the others alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from lua_tools import sources as lua_sources

from voucher_sessions._core import scripts
from voucher_sessions._core.verbs import Verbs

VERBS: Final = [script.name for script in scripts.ALL]


def text(verb: str) -> str:
    return next(script.text for script in scripts.ALL if script.name == verb)


def test_each_file_is_a_verb_or_has_the_blocks_that_they_include() -> None:
    files = {path.stem for path in lua_sources.FOLDER.iterdir()}
    assert files == {*VERBS, "book"}
    assert lua_sources.verbs() == sorted(VERBS)
    assert {name for file in files for name in lua_sources.included(file)} == set(lua_sources.blocks_of("book"))
    assert len(VERBS) == len(set(VERBS))
    without_verb = [verb for verb in VERBS if not callable(getattr(Verbs, verb, None))]
    assert without_verb == ["partial_rollback", "scan"], "rollback with amounts, and the walks of the bulk tools"


@pytest.mark.parametrize("verb", VERBS)
def test_the_text_that_is_sent_is_the_text_in_lua(verb: str) -> None:
    assert text(verb) == lua_sources.text_of(lua_sources.assembled(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_reads_only_globals_that_all_servers_have(verb: str) -> None:
    assert lua_sources.free_names(text(verb)) <= lua_sources.SANDBOX


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_that_does_not_compile_is_found(verb: str) -> None:
    assert lua_sources.executable_lines(text(verb))
    with pytest.raises(Exception, match=r"line:\d+: '.*' expected"):
        lua_sources.executable_lines(text(verb) + "end\n")


def test_a_function_in_a_script_is_found() -> None:
    with pytest.raises(ValueError, match="function"):
        lua_sources.executable_lines(
            "local f = function() return 1 end -- it would be created in every call\nreturn f()"
        )


def test_the_free_names_of_a_text_are_what_it_does_not_declare() -> None:
    lua = "local a, b = c, 'x'\nfor i = 1, 2 do local d = i + b end\nd, KEYS.e = a, f.g -- h"
    assert lua_sources.free_names(lua) == {"c", "d", "KEYS", "f"}
    many = {f"n{number}" for number in range(150)}
    assert lua_sources.free_names("local sum = " + " + ".join(many)) == many


def test_an_editable_install_reads_the_scripts_of_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package has no ``lua/`` then, and a changed script is used from the next start on."""
    (tmp_path / "lua").mkdir()
    (tmp_path / "lua" / "changed.lua").write_text("return 'changed'", "utf-8")
    monkeypatch.setattr(scripts, "_FOLDERS", (tmp_path / "package", tmp_path / "lua"))
    assert scripts._script("changed").text == "return 'changed'"


def test_the_scripts_of_the_package_come_before_those_of_the_checkout() -> None:
    package, checkout = scripts._FOLDERS
    assert (package.name, checkout.name) == ("lua", "lua")
    assert Path(str(checkout)).parent == Path(scripts.__file__).parents[3]

"""A pytest plugin that reports which lines of ``lua/`` the tests executed, and which they missed.

Switched on with ``pytest --lua-coverage``. While tests run on fakeredis, Lua's line hook records the executed lines of the
library's scripts. At the end a table is printed, and the session fails if a line was missed. Scripts that run on a real
server or in another process are not recorded. Workers of pytest-xdist report to the session that started them.

How it works: fakeredis creates a ``lupa`` runtime for each of its servers, and gives it the text of the script to
execute. The plugin replaces the class of these runtimes by one that sets a hook, ``debug.sethook(…, "l")``, while a
script of the library runs. The hook is a Lua function that adds the line to a Lua table, since a hook in Python crashes
the process. The script cannot see a difference. A line of an included block counts as a line of ``book.lua``, whichever
script executed it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from fakeredis.commands_mixins import scripting_mixin

from lua_tools import sources as lua_sources
from lua_tools.sources import Place
from voucher_sessions._core import scripts


def watching(names: Mapping[bytes, str], executed: Mapping[str, set[int]]) -> type[Any]:
    """The class of runtimes that add the executed lines of the scripts, whose texts are in ``names``, to ``executed``."""
    runtime_class: type[Any] = scripting_mixin.LUA_MODULE.LuaRuntime

    def execute(self: Any, lua_code: bytes | str, *args: Any, **options: Any) -> Any:
        name = names.get(lua_code) if isinstance(lua_code, bytes) else None
        if name is None:
            return runtime_class.execute(self, lua_code, *args, **options)
        lines = self.table()
        hook = self.eval("function(lines) return function(_, line) lines[line] = true end end")(lines)
        # A C function: calling it executes no line of Lua that the hook would count.
        sethook = self.eval("debug.sethook")
        sethook(hook, b"l")
        try:
            return runtime_class.execute(self, lua_code, *args, **options)
        finally:
            sethook()
            executed[name].update(map(int, lines))

    return type("Watching", (runtime_class,), {"execute": execute})


def places(executed: Mapping[str, Iterable[int]]) -> tuple[set[Place], set[Place]]:
    """The executable lines of ``lua/``, and those of them that were executed."""
    executable, hit = set(), set()
    for script in scripts.ALL:
        lines = lua_sources.assembled(script.name)
        assert lua_sources.text_of(lines) == script.text, f"{script.name} is not what lua/ holds"
        place = {number: line.place for number, line in enumerate(lines, 1)}
        executable |= {place[line] for line in lua_sources.executable_lines(script.text)}
        hit |= {place[line] for line in executed.get(script.name, ())}
    return executable, hit & executable


def table(executable: set[Place], hit: set[Place]) -> list[str]:
    """A row per file, with the lines that were missed: ``7, 20-23``."""
    files = sorted({place.file for place in executable})
    width = max(len(file) for file in files) + 8
    rows = [f"{'file':{width}}  lines  missed  missing"]
    for file in files:
        lines = sorted(place.line for place in executable if place.file == file)
        missed = [line for line in lines if Place(file, line) not in hit]
        rows.append(f"{f'lua/{file}.lua':{width}}  {len(lines):5}  {len(missed):6}  {_ranges(lines, missed)}".rstrip())
    rows.append(
        f"{'all':{width}}  {len(executable):5}  {len(executable - hit):6}  {len(hit) / len(executable):.1%} hit"
    )
    return rows


def _ranges(lines: list[int], missed: list[int]) -> str:
    """The lines that were missed. Lines become a range if no line between them was executed."""
    runs: list[list[int]] = []
    missed_now = False
    for line in lines:
        if line in missed:
            if missed_now:
                runs[-1].append(line)
            else:
                runs.append([line])
        missed_now = line in missed
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


class LuaCoverage:
    """Watches one session of tests, or one worker's part of it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._executed: dict[str, set[int]] = defaultdict(set)
        self._patch = pytest.MonkeyPatch()
        names = {script.text.encode(): script.name for script in scripts.ALL}
        self._patch.setattr(scripting_mixin.LUA_MODULE, "LuaRuntime", watching(names, self._executed))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist has ended; one that crashed has no output."""
        for name, lines in getattr(node, "workeroutput", {}).get("lua_coverage", {}).items():
            self._executed[name].update(lines)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["lua_coverage"] = {name: list(lines) for name, lines in self._executed.items()}
            return
        executable, hit = places(self._executed)
        if executable != hit and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        executable, hit = places(self._executed)
        terminalreporter.section("Lua coverage", red=executable != hit, green=executable == hit)
        for row in table(executable, hit):
            terminalreporter.line(row)

    def pytest_unconfigure(self) -> None:
        self._patch.undo()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lua-coverage", action="store_true", help="fail where fakeredis left a line of lua/ unexecuted")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--lua-coverage") and not config.option.collectonly:
        config.pluginmanager.register(LuaCoverage(config))

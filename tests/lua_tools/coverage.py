"""A pytest plugin: which lines of ``lua/`` did the tests execute, and which did they miss?

Switched on with ``pytest --lua-coverage``. While tests run on fakeredis, each script of the library that it executes is
watched by a line hook of Lua's own; at the end a table is printed, and the session fails where a line was missed. What
runs on a real server, or in another process, is not seen. Workers of pytest-xdist report to the session that started
them.

How it works. fakeredis creates a ``lupa`` runtime for each of its servers and gives it the text of the script to
execute. In place of that runtime it gets one that sets a hook, ``debug.sethook(…, "l")``, for the time that one of our
scripts runs. The hook is a Lua function that notes the line in a Lua table, for a hook in Python crashes; nothing that
the script can see changes. A line of an included block counts where it is written, whichever script executed it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from fakeredis.commands_mixins import scripting_mixin

from lua_tools import lint as lua_lint
from lua_tools.lint import Place
from voucher_sessions._core import scripts


def watching(names: Mapping[bytes, str], executed: Mapping[str, set[int]]) -> type[Any]:
    """The class of runtimes that add to ``executed`` the lines of the scripts that ``names`` knows by their text."""
    runtime_class: type[Any] = scripting_mixin.LUA_MODULE.LuaRuntime

    class Watching(runtime_class):  # type: ignore[misc]  # lupa is not typed
        def execute(self, lua_code: bytes | str, *args: Any, **options: Any) -> Any:
            name = names.get(lua_code) if isinstance(lua_code, bytes) else None
            if name is None:
                return super().execute(lua_code, *args, **options)
            lines = self.table()
            hook = self.eval("function(lines) return function(_, line) lines[line] = true end end")(lines)
            # A C function: to call it executes no line of Lua, which the hook would count.
            sethook = self.eval("debug.sethook")
            sethook(hook, b"l")
            try:
                return super().execute(lua_code, *args, **options)
            finally:
                sethook()
                executed[name].update(map(int, lines))

    return Watching


def places(executed: Mapping[str, Iterable[int]]) -> tuple[set[Place], set[Place]]:
    """The executable lines of ``lua/``, and those of them that were executed, as places in its files."""
    executable, hit = set(), set()
    for script in scripts.ALL:
        lines = lua_lint.assembled(script.name)
        assert lua_lint.text_of(lines) == script.text, f"{script.name} is not what lua/ holds"
        place = {number: line.place for number, line in enumerate(lines, 1)}
        executable |= {place[line] for line in lua_lint.executable_lines(script.text)}
        hit |= {place[line] for line in executed.get(script.name, ())}
    return executable, hit & executable


def table(executable: set[Place], hit: set[Place]) -> list[str]:
    """How each file stands, with the lines missed: ``7, 20-23``."""
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
    """The lines missed, those with nothing executed between them drawn together."""
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

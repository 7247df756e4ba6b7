"""The Lua coverage plugin finds the lines of ``lua/`` that were not executed."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import pytest
from lua_tools import coverage as lua_coverage
from lua_tools import sources as lua_sources
from lua_tools.sources import Place

VERBS: Final = lua_sources.verbs()

WATCHED: Final = b"""local sum = 0
for _, value in ipairs(ARGV) do
  if value > 9 then
    error('too much')
  end
  sum = sum + value
end

sum = math.max(sum,
  1)
if sum > 5 then
  return {
    'big',
    sum,
  }
else
  sum = -sum
end
return {'small', sum}
"""


def executed_by(*values: int) -> set[int]:
    """The lines of the script that it executes when it is called once with each value."""
    executed: dict[str, set[int]] = defaultdict(set)
    runtime = lua_coverage.watching({WATCHED: "it"}, executed)(encoding=None)
    for value in values:
        runtime.execute(b"ARGV = {%d}" % value)
        try:
            runtime.execute(WATCHED)
        except Exception as error:  # lupa's LuaError, which has no types
            if "too much" not in str(error):
                raise
    runtime.execute(b"\n" * 50 + b"return 1")
    return executed["it"]


@pytest.mark.parametrize(
    ("values", "missed"),
    [
        ((1,), {4, 12, 13, 15}),
        ((7,), {4, 17, 19}),
        ((10,), {6, 9, 10, 11, 12, 13, 15, 17, 19}),
        ((1, 7), {4}),
        ((1, 7, 10), set()),
    ],
)
def test_lines_that_are_not_executed_are_missed(values: tuple[int, ...], missed: set[int]) -> None:
    executable = lua_sources.executable_lines(WATCHED.decode())
    assert executable - executed_by(*values) == missed


def test_without_a_test_every_line_is_missed() -> None:
    executable, hit = lua_coverage.places({})
    assert {place.file for place in executable} == {*VERBS, "book"}
    assert hit == set()
    assert lua_coverage.table(executable, executable)[-1].endswith(" 0  100.0% hit")


def test_a_line_of_a_block_counts_whichever_script_executes_it() -> None:
    places = [line.place for line in lua_sources.assembled("redeem")]
    lines = [number for number, place in enumerate(places, 1) if place.file == "book"]
    executable, hit = lua_coverage.places({"redeem": lines})
    assert hit == {place for place in executable if place in places and place.file == "book"}


def test_the_table_joins_lines_to_ranges() -> None:
    executable = {Place("a", line) for line in (1, 2, 4, 5, 9)} | {Place("longer", 3)}
    hit = {Place("a", 4), Place("longer", 3)}
    assert lua_coverage.table(executable, hit) == [
        "file            lines  missed  missing",
        "lua/a.lua           5       4  1-2, 5-9",
        "lua/longer.lua      1       0",
        "all                 6       4  33.3% hit",
    ]

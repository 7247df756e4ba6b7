"""The scripts of ``lua/``, put together line by line, and what Lua's compiler says of them.

Here each line of a script knows the file that it is written in; the library itself needs only the text. The compiler is
that of lupa, which fakeredis depends on: Lua 5.1, the version in Redis.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).parents[2] / "lua"

# The globals of Redis's sandbox that Valkey and fakeredis have too, and that a script may read. It may write none.
SANDBOX: Final = frozenset(
    {"redis", "KEYS", "ARGV", "cjson", "math", "string", "table"}
    | {"error", "ipairs", "next", "pairs", "pcall", "select", "tonumber", "tostring", "type", "unpack"}
)


class Place(NamedTuple):
    """A line of a file in ``lua/``."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"lua/{self.file}.lua:{self.line}"


class Line(NamedTuple):
    """A line of a script as the server gets it, and where it is written."""

    place: Place
    text: str


def source(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text("utf-8")


def verbs() -> list[str]:
    """The files that are scripts."""
    return sorted({path.stem for path in FOLDER.iterdir()} - {"book"})


def blocks_of(name: str) -> list[str]:
    """The blocks of a file that others include."""
    return re.findall(r"^-- block: (\w+)$", source(name), re.MULTILINE)


def included(name: str) -> set[str]:
    """The blocks that a file includes: ``-- include: clock`` is replaced by the text of that block of book.lua."""
    return {match[1] for line in source(name).splitlines() if (match := _INCLUDE.fullmatch(line))}


_INCLUDE: Final = re.compile(r" *-- include: (\w+)")


def assembled(name: str) -> list[Line]:
    """The lines of a script as the server gets it."""
    return _expanded([Line(Place(name, at), line) for at, line in enumerate(source(name).splitlines(), 1)])


def block(name: str) -> list[Line]:
    """The lines of a block of book.lua, with the blocks that it includes."""
    return _expanded(_block(name))


def _expanded(lines: list[Line]) -> list[Line]:
    found: list[Line] = []
    for line in lines:
        include = _INCLUDE.fullmatch(line.text)
        if not include:
            found.append(line)
            continue
        indent = line.text.partition("-")[0]
        for place, text in block(include[1]):
            found.append(Line(place, indent + text if text else text))
    return found


def _block(name: str) -> list[Line]:
    """The lines of book.lua between the block's title and the next."""
    lines = [Line(Place("book", at), line) for at, line in enumerate(source("book").splitlines(), 1)]
    titles = [at for at, line in enumerate(lines) if line.text.startswith("-- block: ")]
    for begin, end in zip(titles, [*titles[1:], len(lines)], strict=True):
        if lines[begin].text == f"-- block: {name}":
            return lines[begin + 1 : end]
    raise LookupError(f"book.lua has no block {name}")


def text_of(lines: list[Line]) -> str:
    return "".join(line.text + "\n" for line in lines)


# --- Lua's compiler -------------------------------------------------------------------------------------------------


@cache
def _lua(function: str) -> Any:
    runtime = import_module("lupa.lua51").LuaRuntime()
    return runtime.eval(function)


_ACTIVE_LINES: Final = """function(text)
  local lines = {}
  for line in pairs(debug.getinfo(assert(loadstring(text, '=line')), 'L').activelines) do
    lines[#lines + 1] = line
  end
  return lines
end"""


def executable_lines(text: str) -> set[int]:
    """The lines of a script that can be executed; raises lupa's LuaError where the compiler refuses it.

    Lua counts lines that consist of ``end`` for instructions that it adds there. It executes only some of them, and none
    means anything, so they are left out. A function inside the script would be compiled apart, unseen here: the scripts
    have none, because Lua would create it in every call.
    """
    found = set(_lua(_ACTIVE_LINES)(text).values())
    lines = text.splitlines()
    if any(re.search(r"\bfunction\b", line.partition("--")[0]) for line in lines):
        raise ValueError("a script with a function of its own")
    return {line for line in found if lines[line - 1].strip() != "end"}


_FREE_NAMES: Final = """function(names, text)
  local closure = assert(loadstring('local ' .. names .. '; return function() ' .. text .. ' end'))()
  local found = {}
  for number = 1, debug.getinfo(closure, 'u').nups do
    found[number] = debug.getupvalue(closure, number)
  end
  return found
end"""
_UPVALUES: Final = 60  # as many as a function of Lua 5.1 can have
_KEYWORDS: Final = frozenset(
    {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or"}
    | {"repeat", "return", "then", "true", "until", "while"}
)


@cache
def free_names(text: str) -> frozenset[str]:
    """The names that a text reads or assigns without declaring them: globals, if it is compiled alone.

    To learn them, the text is compiled as a function below locals of all names that occur in it. What it takes of them
    are its upvalues, which Lua lists.
    """
    text = re.sub(r"--.*", "", text)
    names = sorted(set(re.findall(r"\b[A-Za-z_]\w*", text)) - _KEYWORDS)
    parts = [names[at : at + _UPVALUES] for at in range(0, len(names), _UPVALUES)]
    return frozenset(name for part in parts for name in _lua(_FREE_NAMES)(", ".join(part), text).values())

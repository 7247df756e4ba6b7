"""What Lua's own compiler knows of the scripts: their executable lines, their globals, and what they never use.

No Lua tool is needed: lupa, which fakeredis brings, carries a Lua 5.1, the version that Redis runs. The compiler's
listing (``string.dump``) is read here, since nothing else in Lua 5.1 tells all of this of every function of a script.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).parents[2] / "lua"

# What a script may read: the part of Redis's sandbox that Valkey and fakeredis have too. It may write none of it.
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


def source(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text("utf-8")


class Line(NamedTuple):
    """A line of a script as the server gets it, and where it is written."""

    place: Place
    text: str


def blocks_of(name: str) -> list[str]:
    """The blocks of a file that others include."""
    return re.findall(r"^-- block: (\w+)$", source(name), re.MULTILINE)


def included(name: str) -> set[str]:
    """The blocks that a script includes: ``-- include: clock`` stands where the text of that block of book.lua goes."""
    return {match[1] for line in source(name).splitlines() if (match := _INCLUDE.fullmatch(line))}


_INCLUDE: Final = re.compile(r" *-- include: (\w+)")


def assembled(name: str) -> list[Line]:
    """The lines of a script as the server gets it."""
    return _expanded([Line(Place(name, at), line) for at, line in enumerate(source(name).splitlines(), 1)])


def _expanded(lines: list[Line]) -> list[Line]:
    found: list[Line] = []
    for line in lines:
        include = _INCLUDE.fullmatch(line.text)
        if not include:
            found.append(line)
            continue
        indent = line.text.partition("-")[0]
        for place, text in _expanded(_block(include[1])):
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


class Local(NamedTuple):
    """A local variable or parameter, alive from one instruction until another."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Function:
    """One function of a compiled script; the script itself is the first."""

    line: int
    instructions: list[int]
    constants: list[bytes | float | bool | None]
    lines: list[int]  # of each instruction
    locals: list[Local]


class Finding(NamedTuple):
    """Something to mend. ``line`` counts in the text that was compiled."""

    line: int
    problem: str


@cache
def _compiler() -> Any:
    runtime = import_module("lupa.lua51").LuaRuntime(encoding=None)
    return runtime.eval("function(text, name) return string.dump(assert(loadstring(text, name))) end")


def compiled(text: str) -> list[Function]:
    """All functions of a script; raises lupa's LuaError where the compiler refuses it."""
    return list(_functions(_Reader(_compiler()(text.encode(), b"=line"))))


class _Reader:
    """Reads what Lua 5.1's ldump.c writes, in the byte order and sizes of this machine."""

    def __init__(self, dump: bytes) -> None:
        self._dump = dump
        self._at = 12
        signature, sizes = dump[:7], dump[7:12]
        assert signature == b"\x1bLua\x51\x00\x01", "not Lua 5.1, or big-endian"
        assert sizes in (b"\x04\x08\x04\x08\x00", b"\x04\x04\x04\x08\x00"), "sizes of int, size_t, instruction, number"
        self._size_t = "<Q" if sizes[1] == 8 else "<I"

    def unpack(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._dump, self._at)
        self._at += struct.calcsize(layout)
        return value

    def byte(self) -> int:
        return int(self.unpack("<B"))

    def integer(self) -> int:
        return int(self.unpack("<i"))

    def string(self) -> bytes:
        size = self.unpack(self._size_t)
        return bytes(self.unpack(f"<{size}s"))[:-1]

    def constant(self) -> bytes | float | bool | None:
        match self.byte():
            case 0:
                return None
            case 1:
                return bool(self.byte())
            case 3:
                return float(self.unpack("<d"))
            case 4:
                return self.string()
            case other:
                raise ValueError(f"constant of type {other}")


def _functions(read: _Reader) -> Iterator[Function]:
    read.string()  # the name given to loadstring
    first_line, _last_line = read.integer(), read.integer()
    _upvalues, _parameters, _is_vararg, _registers = (read.byte() for _ in range(4))
    instructions = [read.unpack("<I") for _ in range(read.integer())]
    constants = [read.constant() for _ in range(read.integer())]
    inner = [function for _ in range(read.integer()) for function in _functions(read)]
    lines = [read.integer() for _ in range(read.integer())]
    locals_ = [Local(read.string().decode(), read.integer(), read.integer()) for _ in range(read.integer())]
    for _ in range(read.integer()):
        read.string()  # the names of what it uses of the functions around it
    yield Function(first_line, instructions, constants, lines, locals_)
    yield from inner


_GETGLOBAL, _SETGLOBAL, _RETURN, _TFORLOOP = 5, 7, 30, 33


def executable_lines(text: str) -> set[int]:
    """The lines that can be executed, as a line hook tells them.

    Each function ends with a return that the compiler adds and that stands at its ``end``. It says nothing, and after
    an explicit ``return`` or an ``error`` is never reached, so it is left out. So is the jump behind a ``for … in``:
    the instruction before it takes the jump itself.
    """
    return {
        line
        for function in compiled(text)
        for before, line in zip([0, *function.instructions], function.lines[:-1], strict=False)
        if before & 0x3F != _TFORLOOP
    }


def globals_misused(text: str) -> list[Finding]:
    """Every global that is written, and every one read that the sandbox may not have: a local misspelt, say."""
    findings = []
    for function in compiled(text):
        for instruction, line in zip(function.instructions, function.lines, strict=True):
            opcode = instruction & 0x3F
            if opcode in (_GETGLOBAL, _SETGLOBAL):
                constant = function.constants[instruction >> 14]
                assert isinstance(constant, bytes)
                name = constant.decode()
                if opcode == _SETGLOBAL:
                    findings.append(Finding(line, f"writes the global {name}"))
                elif name not in SANDBOX:
                    findings.append(Finding(line, f"reads the global {name}"))
    return findings


# The operands by which instructions of Lua 5.1 read a local variable (lopcodes.h). Those not named here work on copies.
_READS: Final = {
    0: "B",  # MOVE; also how a closure takes a local
    _SETGLOBAL: "A",
    6: "BC",  # GETTABLE
    8: "A",  # SETUPVAL
    9: "ABC",  # SETTABLE
    11: "BC",  # SELF
    **dict.fromkeys(range(12, 18), "BC"),  # ADD SUB MUL DIV MOD POW
    **dict.fromkeys(range(18, 21), "B"),  # UNM NOT LEN
    **dict.fromkeys(range(23, 26), "BC"),  # EQ LT LE
    26: "A",  # TEST
    27: "B",  # TESTSET
    _RETURN: "A",
}


def unused(text: str) -> list[Finding]:
    """Every local variable, function, parameter and loop variable whose value nothing reads; ``_`` is free."""
    return [finding for function in compiled(text) for finding in _unused(function)]


def _unused(function: Function) -> Iterator[Finding]:
    used = set()
    for at, instruction in enumerate(function.instructions):
        opcode = instruction & 0x3F
        operand = {"A": instruction >> 6 & 0xFF, "B": instruction >> 23, "C": instruction >> 14 & 0x1FF}
        if opcode == _RETURN and operand["B"] == 1:  # returns nothing
            continue
        alive = [variable for variable in function.locals if variable.start <= at < variable.end]
        for letter in _READS.get(opcode, ""):
            if operand[letter] < len(alive):  # else a temporary value, or a constant
                used.add(alive[operand[letter]])
    for variable in function.locals:
        if variable not in used and variable.name != "_" and not variable.name.startswith("("):
            line = function.lines[variable.start - 1] if variable.start else max(function.line, 1)
            yield Finding(line, f"never uses {variable.name}")

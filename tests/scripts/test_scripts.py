"""The scripts as texts: they compile, keep to the sandbox, and do what their headers say.

A header is one or two sentences, then the sections below, each with one line an entry: ``--   entry  what it is``.
What goes on in a second line is indented further.

    KEYS    or  KEYS, for each voucher                pattern and type
    ARGV    and, perhaps,  ARGV, for each voucher     name and unit
    Status                                            status and what follows it in the reply
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final
from unittest.mock import ANY

import fakeredis
import pytest
from lua_tools import coverage as lua_coverage
from lua_tools import lint as lua_lint
from lua_tools.lint import Place

from voucher_sessions import Redeemable, Session, SessionType, TtlUnit, Used, Voucher
from voucher_sessions._core import audit, scripts
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs
from voucher_sessions.results import Locked

VERBS: Final = [script.name for script in scripts.ALL]


def text(verb: str) -> str:
    return next(script.text for script in scripts.ALL if script.name == verb)


# --- One script a verb --------------------------------------------------------------------------------------------


def test_each_file_is_a_verb_or_included_by_them() -> None:
    files = {path.stem for path in lua_lint.FOLDER.iterdir()}
    assert files == {*VERBS, "book"}
    assert {name for file in files for name in lua_lint.included(file)} == set(lua_lint.blocks_of("book"))
    assert len(VERBS) == len(set(VERBS))
    assert [verb for verb in VERBS if not callable(getattr(Verbs, verb, None))] == []


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_sent_is_what_lua_holds(verb: str) -> None:
    assert text(verb) == lua_lint.text_of(lua_lint.assembled(verb))


# --- The language -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_compiles_and_keeps_to_the_sandbox(verb: str) -> None:
    places = [line.place for line in lua_lint.assembled(verb)]
    found = lua_lint.globals_misused(text(verb))
    assert [f"{places[line - 1]} {problem}" for line, problem in found] == []


def test_nothing_is_unused() -> None:
    """A verb may leave part of the book alone, but not every verb the same part."""
    verbs_with: dict[Place, set[str]] = defaultdict(set)
    verbs_not_using: dict[tuple[Place, str], set[str]] = defaultdict(set)
    for verb in VERBS:
        places = [line.place for line in lua_lint.assembled(verb)]
        for place in places:
            verbs_with[place].add(verb)
        for line, problem in lua_lint.unused(text(verb)):
            verbs_not_using[places[line - 1], problem].add(verb)
    found = [f"{place} {problem}" for (place, problem), verbs in verbs_not_using.items() if verbs == verbs_with[place]]
    assert found == []


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("local a = 1\nb = a", "writes the global b"),
        ("local function f()\n  redis = nil\nend\nreturn f", "writes the global redis"),
        ("local amount = 1\nreturn amuont", "reads the global amuont"),
        ("return function()\n  return os.time()\nend", "reads the global os"),
    ],
)
def test_a_misused_global_is_found(code: str, problem: str) -> None:
    assert lua_lint.globals_misused(code) == [(2, problem)]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("\nlocal a, b = 1, 2\nreturn b", "a"),
        ("\nlocal function f() end\nreturn 1", "f"),
        ("\nlocal function f(a, b) return a end\nreturn f", "b"),
        ("\nfor i, v in ipairs(KEYS) do print(v) end", "i"),
        ("\nlocal a = 1\na = 2", "a"),
    ],
)
def test_what_is_unused_is_found(code: str, name: str) -> None:
    assert lua_lint.unused(code) == [(2, f"never uses {name}")]


@pytest.mark.parametrize(
    "code",
    [
        "local a, b, c, d = 1, {}, 'x', 2\nb[a] = c\nb.x, d = d, -a\nreturn #b",
        "local a = 1\nreturn function() a = a + 1 end",
        "local a, b, c = KEYS[1], KEYS[2], 3\nif a == b or not c then return 'x' end",
        "local a, b = KEYS[1], {}\nreturn b:call(a .. 'x')",
        "local f\nfunction f(n) return f(n) end\nfor i = 1, 2 do redis.call(i) end\nfor _, v in ipairs(ARGV) do f(v) end",
        "local a, b = 1, 2\nlocal c = a and b\nKEYS.x = c",
    ],
)
def test_what_is_used_is_not_called_unused(code: str) -> None:
    assert lua_lint.unused(code) == []


@pytest.mark.parametrize("verb", VERBS)
def test_what_does_not_compile_is_found(verb: str) -> None:
    with pytest.raises(Exception, match=r"line:\d+: '.*' expected"):
        lua_lint.compiled(text(verb) + "end\n")


# --- The headers --------------------------------------------------------------------------------------------------


@dataclass
class Header:
    sentence: str = ""
    keys: list[tuple[str, str]] = field(default_factory=list)  # pattern, type
    each_keys: list[tuple[str, str]] = field(default_factory=list)
    args: list[str] = field(default_factory=list)
    each_args: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)


class Drift(Exception):
    """A header that is not of the form, or a code that this test cannot read."""


_TITLES: Final = re.compile(r"KEYS(, for each voucher)?\nARGV\n(ARGV, for each voucher\n)?Status\n")


def header_of(source: str) -> Header:
    header = Header()
    title, titles = "", ""
    for line in source.splitlines():
        if not line.startswith("--") or line.startswith("-- include: "):
            break
        if re.fullmatch(r"-- (KEYS|ARGV|Status)(, for each voucher)?", line):
            title = line[3:]
            titles += title + "\n"
        elif not title:
            header.sentence += line[2:]
        elif match := re.fullmatch(r"--   (\S+)(?: +(\S.*))?", line):
            _add(header, title, match[1], match[2] or "")
        elif not re.fullmatch(r"--     +\S.*", line):
            raise Drift(f"not a line of a header: {line}")
    if not re.fullmatch(r" [A-Z].*\.", header.sentence):
        raise Drift(f"begins with no sentence: {header.sentence}")
    if not _TITLES.fullmatch(titles):
        raise Drift(f"sections missing or out of order: {titles.split()}")
    return header


def _add(header: Header, title: str, entry: str, words: str) -> None:
    match title:
        case "KEYS":
            header.keys.append((entry, words.partition(" ")[0]))
        case "KEYS, for each voucher":
            header.each_keys.append((entry, words.partition(" ")[0]))
        case "ARGV":
            header.args.append(entry)
        case "ARGV, for each voucher":
            header.each_args.append(entry)
        case "Status":
            header.statuses.append(entry)


def statuses_of(source: str) -> set[str]:
    """All that a script can return as the first of its reply; raises Drift at a ``return`` that it cannot follow."""
    return set(_returned(re.sub(r"--.*", "", scripts._with_blocks(source))))


def _returned(code: str) -> Iterator[str]:
    for match in re.finditer(r"\breturn\b\s*(?:\{\s*'(\w+)'|(\w+)\n)?", code):
        status, variable = match.groups()
        if status:
            yield status
        elif variable and (found := _begins_with(variable, code)):
            yield from found
        else:
            raise Drift(f"what does this return? {code[match.start() :].splitlines()[0]}")


def _begins_with(variable: str, code: str) -> list[str]:
    """The status that a variable's table was created with, or got in front afterwards."""
    created = rf"^ *local (?:\w+, )*{variable}\b[^=\n]*=[^\n]*?(?<!\()\{{'(\w+)'"
    inserted = rf"\btable\.insert\({variable}, 1, '(\w+)'\)"
    return re.findall(created, code, re.MULTILINE) + re.findall(inserted, code)


@dataclass
class Example:
    """A real call on the vouchers CODE and, perhaps, OTHER, of the session <key> and the redemption <id>.

    With these names a key of CODE is its pattern. The arguments stand with the names that a header gives them.
    """

    call: Call[Any]
    args: dict[str, object] = field(default_factory=dict)
    each_args: list[dict[str, object]] = field(default_factory=list)
    # What the call names in the place of <key>
    session_key: str = "<key>"


RANDOM: Final = ANY
SESSION: Final = Session(type=SessionType.LOCK, key="<key>", ttl=9, ttl_unit=TtlUnit.SECONDS)
BESIDE: Final = SESSION.model_copy(update={"key": "<another>"})
STACK: Final = [Redeemable(code="CODE", credits=50, points=6), Redeemable(code="OTHER", credits=70, points=8)]
EACH: Final[list[dict[str, object]]] = [{"credits": 50, "points": 6}, {"credits": 70, "points": 8}]
calls: Final = Verbs(Keys("vs"), None)
agreement = Verbs(Keys("vs", str), None).agree_on_partition()
assert agreement
forgetful: Final = Verbs(Keys("vs"), 60)


def _redemption(session_key: bytes, if_session_missing: str, receipt_ttl_ms: object) -> dict[str, object]:
    return {
        "call_id": RANDOM,
        "session_key": session_key,
        "if_session_missing": if_session_missing,
        "receipt_ttl_ms": receipt_ttl_ms,
    }


EXAMPLES: Final = [
    Example(
        calls.put_voucher(Voucher(code="CODE", quantity=3, credits=400, points=50), None),
        {"call_id": RANDOM, "quantity": 3, "credits": 400, "points": 50, "used": "keep"}
        | {"used_quantity": 0, "used_credits": 0, "used_points": 0},
    ),
    Example(
        calls.put_voucher(
            Voucher(code="OTHER", quantity=None, credits=400, points=50), Used(quantity=1, credits=20, points=30)
        ),
        {"call_id": RANDOM, "quantity": -1, "credits": 400, "points": 50, "used": "set"}
        | {"used_quantity": 1, "used_credits": 20, "used_points": 30},
    ),
    Example(calls.get_voucher("CODE")),
    Example(
        calls.validate("CODE", 50, 6, None), {"call_id": "", "session_key": b"", "ttl_ms": 0}, EACH[:1], session_key=""
    ),
    Example(
        calls.validate("CODE", 50, 6, SESSION), {"call_id": RANDOM, "session_key": b"<key>", "ttl_ms": 9000}, EACH[:1]
    ),
    Example(
        calls.validate_stack(STACK, SESSION, ()), {"call_id": RANDOM, "session_key": b"<key>", "ttl_ms": 9000}, EACH
    ),
    Example(
        forgetful.redeem("CODE", 50, None, None, "<id>", "redeem"),
        _redemption(b"", "redeem", 60_000),
        [{"credits": 50, "points": "-"}],
        session_key="",
    ),
    Example(
        calls.redeem_stack(
            [Redeemable(code="OTHER", credits=7, points=8), Redeemable(code="CODE")], "<key>", "<id>", "raise"
        ),
        _redemption(b"<key>", "raise", ""),
        [{"credits": 7, "points": 8}, {"credits": "-", "points": "-"}],
    ),
    Example(
        calls.validate("OTHER", 50, 6, SESSION), {"call_id": RANDOM, "session_key": b"<key>", "ttl_ms": 9000}, EACH[:1]
    ),
    Example(
        calls.validate("CODE", 50, 6, BESIDE),
        {"call_id": RANDOM, "session_key": b"<another>", "ttl_ms": 9000},
        EACH[:1],
        session_key="<another>",
    ),
    Example(calls.list_sessions("CODE", 10), {"limit": 10}),
    Example(calls.get_redemption("CODE", "<id>")),
    Example(calls.rollback("CODE", "<id>"), {"call_id": RANDOM}, [{}]),
    Example(calls.rollback_stack(["CODE", "OTHER"], "<id>"), {"call_id": RANDOM}, [{}, {}]),
    Example(calls.release("CODE", "<key>"), {"call_id": RANDOM, "session_key": b"<key>"}, [{}]),
    Example(calls.release_stack(["OTHER", "CODE"], "<key>"), {"call_id": RANDOM, "session_key": b"<key>"}, [{}, {}]),
    Example(calls.delete_voucher("CODE"), {"call_id": RANDOM}),
    Example(next(calls.audit("CODE")), {"from": 0, "most": 250}),
    Example(
        audit._repair(Keys("vs"), "CODE", b"book", Locked(quantity=1, credits=2, points=3)),
        {"audited": b"book", "quantity": 1, "credits": 2, "points": 3},
    ),
    Example(agreement, {"fingerprint": ANY}),
    Example(calls.check_permissions("TAG"), {"trials": ANY}),
]


@cache
def types() -> dict[bytes, str]:
    """The type of each key that the examples leave behind, on their way through a store."""
    client = fakeredis.FakeRedis(decode_responses=True)
    found: dict[bytes, str] = {}
    for example in EXAMPLES:
        call = example.call
        client.eval(call.script.text, len(call.keys), *call.keys, *call.args)
        found |= {key: str(client.type(key)).upper() for key in call.keys if client.exists(key)}
    return found


def check(source: str, examples: list[Example]) -> None:
    """Hold a header to the code: what is sent to the script, and what it returns."""
    header = header_of(source)
    for example in examples:
        _check_call(header, example)

    statuses = statuses_of(source)
    if sorted(header.statuses) != sorted(statuses):
        raise Drift(f"statuses told: {header.statuses}, returned: {statuses}")

    read = {int(index) for index in re.findall(r"\bARGV\[(\d+)\]", source)}
    if read != set(range(1, len(header.args) + 1)):
        raise Drift(f"arguments told: {header.args}, read: {read}")
    for names, values in re.findall(r"^local ([\w, ]+) = (ARGV\[\d+\](?:, ARGV\[\d+\])*)$", source, re.MULTILINE):
        for name, index in zip(names.split(", "), re.findall(r"\d+", values), strict=True):
            if header.args[int(index) - 1] != name:
                raise Drift(f"argument {index} is {header.args[int(index) - 1]} in the header, {name} in the code")


def _check_call(header: Header, example: Example) -> None:
    call = example.call
    told = [(pattern.replace("CODE", "".join(call.codes[:1])), type_) for pattern, type_ in header.keys]
    for code in call.codes:
        told += [(pattern.replace("CODE", code), type_) for pattern, type_ in header.each_keys]
    patterns = [pattern.replace("<key>", example.session_key).encode() for pattern, _ in told]
    if patterns != call.keys or bool(header.each_keys) != bool(example.each_args):
        raise Drift(f"keys told: {told}, sent: {call.keys}")
    for pattern, (_, type_) in zip(patterns, told, strict=True):
        if pattern in types() and types()[pattern] != type_:
            raise Drift(f"{pattern!r} is told to be {type_}, and is {types()[pattern]}")

    names = header.args + header.each_args * len(call.codes)
    meant = [*example.args.items(), *(item for each in example.each_args for item in each.items())]
    if list(zip(names, call.args, strict=False)) != meant or len(names) != len(call.args):
        raise Drift(f"arguments told: {names}, sent: {call.args}, meant: {meant}")


def examples_of(verb: str) -> list[Example]:
    return [example for example in EXAMPLES if example.call.script.name == verb]


@pytest.mark.parametrize("verb", VERBS)
def test_the_header_is_true(verb: str) -> None:
    assert examples_of(verb)
    check(lua_lint.source(verb), examples_of(verb))


def test_the_examples_show_every_type_of_key() -> None:
    told = {pattern for verb in VERBS for pattern, _ in header_of(lua_lint.source(verb)).keys}
    told |= {pattern for verb in VERBS for pattern, _ in header_of(lua_lint.source(verb)).each_keys}
    assert told - {"vs:probe{TAG}"} == {key.decode() for key in types()} & told, "a probe is never there"


def _drifted(source: str) -> Iterator[str]:
    """The script with each way in which its header, or the code below an unchanged header, can drift."""
    lines = source.splitlines(keepends=True)
    for at, line in enumerate(lines):
        before, after = "".join(lines[:at]), "".join(lines[at + 1 :])
        title = re.match(r"-- (KEYS|ARGV|Status)", line)
        entry = re.match(r"--   \S", line)
        if title or entry:
            yield before + after
            yield before + line + line + after
        if title and ", for each" in line:
            yield before + line.replace(", for each voucher", "") + after
        if entry:
            yield before + line.replace("--   ", "--   x", 1) + after
            yield before + line.replace("--   ", "-- ", 1) + after
        for type_, other in (("STRING", "HASH"), ("ZSET", "STRING")):
            if entry and type_ in line:
                yield before + line.replace(type_, other) + after
        if entry and at + 1 < len(lines) and re.match(r"--   \S", lines[at + 1]) and not _in_status(lines, at):
            yield before + lines[at + 1] + line + "".join(lines[at + 2 :])
    yield re.sub(r"\A(--(?! KEYS).*\n)+", "", source)
    for match in re.finditer(r"(?<!\()\{'(\w+)'", source):
        yield source[: match.end() - 1] + "x" + source[match.end() - 1 :]
    yield source + "return {'unheard_of'}\n"
    yield source + "return 1\n"
    yield source + "local x = ARGV[20]\n"


def _passes(source: str, examples: list[Example]) -> bool:
    try:
        check(source, examples)
    except Drift:
        return False
    return True


def _in_status(lines: list[str], at: int) -> bool:
    return "-- Status\n" in lines[:at]


@pytest.mark.parametrize("verb", VERBS)
def test_a_header_that_drifted_is_found(verb: str) -> None:
    drifted = list(_drifted(lua_lint.source(verb)))
    assert len(drifted) > 10
    assert [source for source in drifted if _passes(source, examples_of(verb))] == []


def test_a_call_that_drifted_is_found() -> None:
    example = next(example for example in EXAMPLES if len(example.call.codes) == 2)
    call = example.call
    for change in (call.keys.pop, call.keys.reverse, call.args.pop, call.args.reverse):
        keys, args = list(call.keys), list(call.args)
        change()
        with pytest.raises(Drift):
            check(lua_lint.source(call.script.name), [example])
        call.keys[:], call.args[:] = keys, args


# --- The coverage of lua/ -----------------------------------------------------------------------------------------

WATCHED: Final = b"""local function add(a, b)
  if a > 9 then
    error('too much')
  end
  return a + b
end

local sum = add(ARGV.a,
  1)
if sum > 5 then
  return {
    'big',
    sum,
  }
end
return {'small', sum}
"""


def executed_by(*values: int) -> set[int]:
    executed: dict[str, set[int]] = defaultdict(set)
    runtime = lua_coverage.watching({WATCHED: "it"}, executed)(encoding=None)
    runtime.execute(b"ARGV = {}")
    for value in values:
        runtime.globals()[b"ARGV"][b"a"] = value
        try:
            runtime.execute(WATCHED)
        except Exception as error:  # lupa's LuaError, which has no types
            assert "too much" in str(error)  # noqa: PT017 - what is told is the lines
    runtime.execute(b"\n" * 50 + b"return 1")
    return executed["it"]


@pytest.mark.parametrize(
    ("values", "missed"),
    [
        ((1,), {3, 11, 12, 14}),
        ((7,), {3, 16}),
        ((10,), {5, 10, 11, 12, 14, 16}),
        ((1, 7), {3}),
        ((1, 7, 10), set()),
    ],
)
def test_lines_that_are_not_executed_are_missed(values: tuple[int, ...], missed: set[int]) -> None:
    executable = lua_lint.executable_lines(WATCHED.decode())
    assert executable - executed_by(*values) == missed


def test_nothing_executed_is_all_missed() -> None:
    executable, hit = lua_coverage.places({})
    assert {place.file for place in executable} == {*VERBS, "book"}
    assert hit == set()
    assert lua_coverage.table(executable, executable)[-1].endswith(" 0  100.0% hit")


def test_a_line_of_the_book_counts_whoever_executes_it() -> None:
    places = [line.place for line in lua_lint.assembled("redeem")]
    lines = [number for number, place in enumerate(places, 1) if place.file == "book"]
    executable, hit = lua_coverage.places({"redeem": lines})
    assert hit == {place for place in executable if place in places and place.file == "book"}


def test_the_table_draws_lines_together() -> None:
    executable = {Place("a", line) for line in (1, 2, 4, 5, 9)} | {Place("longer", 3)}
    hit = {Place("a", 4), Place("longer", 3)}
    assert lua_coverage.table(executable, hit) == [
        "file            lines  missed  missing",
        "lua/a.lua           5       4  1-2, 5-9",
        "lua/longer.lua      1       0",
        "all                 6       4  33.3% hit",
    ]


def test_where_the_package_has_no_scripts_they_are_the_checkouts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An editable install has them there alone, and a change to them holds at the next start."""
    (tmp_path / "lua").mkdir()
    (tmp_path / "lua" / "changed.lua").write_text("return 'changed'", "utf-8")
    monkeypatch.setattr(scripts, "_FOLDERS", (tmp_path / "package", tmp_path / "lua"))
    assert scripts._script("changed").text == "return 'changed'"


def test_the_checkouts_scripts_are_the_second_choice() -> None:
    package, checkout = scripts._FOLDERS
    assert (package.name, checkout.name) == ("lua", "lua")
    assert Path(str(checkout)).parent == Path(scripts.__file__).parents[3]

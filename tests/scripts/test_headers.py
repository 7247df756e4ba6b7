"""The headers of the scripts say what the code does.

Every reply begins with the call id, and the status follows it. A header is one or two sentences, then the sections below, each with one line per entry: ``--   entry  what it is``.
The second line of an entry is indented further.

    KEYS    or  KEYS, for each voucher                pattern and type
    ARGV    and, perhaps,  ARGV, for each voucher     name and unit
    Status                                            status and what follows it in the reply
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from unittest.mock import ANY

import fakeredis
import pytest
from lua_tools import sources as lua_sources

from voucher_sessions import Redeemable, Session, SessionType, TtlUnit, Used, Voucher
from voucher_sessions._core import audit, scripts
from voucher_sessions._core.call import Call
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.verbs import Verbs
from voucher_sessions.models import RedemptionRow
from voucher_sessions.results import Locked

VERBS: Final = [script.name for script in scripts.ALL]


@dataclass
class Header:
    sentence: str = ""
    keys: list[tuple[str, str]] = field(default_factory=list)  # pattern, type
    each_keys: list[tuple[str, str]] = field(default_factory=list)
    args: list[str] = field(default_factory=list)
    each_args: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)


class Mismatch(Exception):
    """A header that is not of the form or differs from the code, or code that this test cannot read."""


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
            raise Mismatch(f"not a line of a header: {line}")
    if not re.fullmatch(r" [A-Z].*\.", header.sentence):
        raise Mismatch(f"begins with no sentence: {header.sentence}")
    if not _TITLES.fullmatch(titles):
        raise Mismatch(f"sections missing or out of order: {titles.split()}")
    return header


def _add(header: Header, title: str, entry: str, text: str) -> None:
    match title:
        case "KEYS":
            header.keys.append((entry, text.partition(" ")[0]))
        case "KEYS, for each voucher":
            header.each_keys.append((entry, text.partition(" ")[0]))
        case "ARGV":
            header.args.append(entry)
        case "ARGV, for each voucher":
            header.each_args.append(entry)
        case "Status":
            header.statuses.append(entry)


def statuses_of(source: str) -> set[str]:
    """Every first item of a reply that a script can return; raises Mismatch at a ``return`` that this test cannot read."""
    return set(_returned(re.sub(r"--.*", "", scripts._with_blocks(source))))


def _returned(code: str) -> Iterator[str]:
    for match in re.finditer(r"\breturn\b\s*(?:\{\s*call_id,\s*'(\w+)'|(\w+)\n)?", code):
        status, variable = match.groups()
        if status:
            yield status
        elif variable and (found := _begins_with(variable, code)):
            yield from found
        else:
            raise Mismatch(f"this return cannot be read: {code[match.start() :].splitlines()[0]}")


def _begins_with(variable: str, code: str) -> list[str]:
    """The status with which a variable's table was created, or that was inserted as its first item, before the call id."""
    created = rf"^ *local (?:\w+, )*{variable}\b[^=\n]*=[^\n]*?(?<!\()\{{call_id, '(\w+)'"
    inserted = rf"\btable\.insert\({variable}, 1, '(\w+)'\)\n *table\.insert\({variable}, 1, call_id\)"
    return re.findall(created, code, re.MULTILINE) + re.findall(inserted, code)


@dataclass
class Example:
    """A real call on the vouchers CODE and, perhaps, OTHER, of the session <key> and the redemption <id>.

    With these names a key of CODE equals its pattern. The arguments have the names of the header.
    """

    call: Call[Any]
    args: Mapping[str, object] = field(default_factory=dict)
    each_args: list[dict[str, object]] = field(default_factory=list)
    # The session key in the call, if it is not <key>
    session_key: str = "<key>"


RANDOM: Final = ANY
WEEK_MS: Final = "604800000"
BEGIN: Final = datetime.fromtimestamp(1, UTC)
SESSION: Final = Session(type=SessionType.LOCK, key="<key>", ttl=9, ttl_unit=TtlUnit.SECONDS)
BESIDE: Final = SESSION.model_copy(update={"key": "<another>"})
STACK: Final = [Redeemable(code="CODE", credits=50, points=6), Redeemable(code="OTHER", credits=70, points=8)]
EACH: Final[list[dict[str, object]]] = [{"credits": "50", "points": "6"}, {"credits": "70", "points": "8"}]


def first(steps: Any) -> Call[Any]:
    """The first of the calls that a verb makes."""
    call: Call[Any] = next(steps)
    return call


calls: Final = Verbs(Keys("vs"), None)
agreement = Verbs(Keys("vs", str), None).agree_on_partition()
assert agreement
with_receipt_ttl: Final = Verbs(Keys("vs"), 600)


def _redemption(session_key: bytes, if_session_missing: str, receipt_ttl_ms: str, stack: object) -> dict[str, object]:
    return {
        "session_key": session_key,
        "if_session_missing": if_session_missing,
        "receipt_ttl_ms": receipt_ttl_ms,
        "stack": stack,
    }


EXAMPLES: Final = [
    Example(
        calls.put_voucher(Voucher(code="CODE", quantity=3, credits=400, points=50), None),
        {"if_exists": "update", "quantity": "3", "credits": "400", "points": "50", "used": "keep"}
        | {"used_quantity": "0", "used_credits": "0", "used_points": "0"},
    ),
    Example(
        calls.put_voucher(
            Voucher(code="OTHER", quantity=None, credits=400, points=50),
            Used(quantity=1, credits=20, points=30),
            "keep",
        ),
        {"if_exists": "keep", "quantity": "-1", "credits": "400", "points": "50", "used": "set"}
        | {"used_quantity": "1", "used_credits": "20", "used_points": "30"},
    ),
    Example(calls.get_voucher("CODE")),
    Example(calls.validate("CODE", 50, 6, None), {"session_key": b"", "ttl_ms": "0"}, EACH[:1], session_key=""),
    Example(calls.validate("CODE", 50, 6, SESSION), {"session_key": b"<key>", "ttl_ms": "9000"}, EACH[:1]),
    Example(calls.validate_stack(STACK, SESSION, ()), {"session_key": b"<key>", "ttl_ms": "9000"}, EACH),
    Example(
        with_receipt_ttl.redeem("CODE", 50, None, None, "<id>", "redeem"),
        _redemption(b"", "redeem", "600000", "-"),
        [{"credits": "50", "points": "-"}],
        session_key="",
    ),
    Example(
        calls.redeem_stack(
            [Redeemable(code="OTHER", credits=7, points=8), Redeemable(code="CODE")], "<key>", "<id>", "raise"
        ),
        _redemption(b"<key>", "raise", "", RANDOM),
        [{"credits": "7", "points": "8"}, {"credits": "-", "points": "-"}],
    ),
    Example(calls.validate("OTHER", 50, 6, SESSION), {"session_key": b"<key>", "ttl_ms": "9000"}, EACH[:1]),
    Example(
        calls.validate("CODE", 50, 6, BESIDE),
        {"session_key": b"<another>", "ttl_ms": "9000"},
        EACH[:1],
        session_key="<another>",
    ),
    Example(
        calls.adjust("CODE", 1, -2, 3, "<id>"), {"quantity": "1", "credits": "-2", "points": "3", "receipt_ttl_ms": ""}
    ),
    Example(calls.get_session("CODE", "<key>"), {"session_key": b"<key>"}),
    Example(calls.extend("CODE", "<key>", 9, "SECONDS"), {"session_key": b"<key>", "ttl_ms": "9000"}, [{}]),
    Example(
        calls.extend_stack(["OTHER", "CODE"], "<key>", None, None),
        {"session_key": b"<key>", "ttl_ms": WEEK_MS},
        [{}, {}],
    ),
    Example(calls.list_sessions("CODE", 10), {"limit": "10", "from_ms": "0", "after": ""}),
    Example(first(calls.iter_sessions("CODE", 9)), {"limit": "9", "from_ms": "0", "after": b""}),
    Example(calls.get_redemption("CODE", "<id>")),
    Example(calls.rollback("CODE", "<id>", 5, None, "<id>"), {"redemption_id": b"<id>", "credits": "5", "points": "0"}),
    Example(calls.rollback("CODE", "<id>", None, None, None), {}, [{}]),
    Example(calls.rollback_stack(["CODE", "OTHER"], "<id>"), {}, [{}, {}]),
    Example(calls.release("CODE", "<key>"), {"session_key": b"<key>"}, [{}]),
    Example(calls.release_stack(["OTHER", "CODE"], "<key>"), {"session_key": b"<key>"}, [{}, {}]),
    Example(
        calls.import_redemption(
            RedemptionRow(code="CODE", id="<id>", credits=7, points=8, credits_rolled_back=2, session_key="<key>"),
            count=True,
        ),
        {"session_key": b"<key>", "count": "1", "redeemed_at_ms": "", "credits": "7", "points": "8"}
        | {"credits_back": "2", "points_back": "0", "rolled_back": "0", "receipt_ttl_ms": ""},
    ),
    Example(
        with_receipt_ttl.import_redemption(
            RedemptionRow(code="CODE", id="<id>", credits=7, points=8, redeemed_at=BEGIN, rolled_back=True),
            count=False,
        ),
        {"session_key": b"", "count": "0", "redeemed_at_ms": "1000", "credits": "7", "points": "8"}
        | {"credits_back": "0", "points_back": "0", "rolled_back": "1", "receipt_ttl_ms": "600000"},
        session_key="",
    ),
    Example(calls.delete_voucher("CODE")),
    Example(first(calls.audit("CODE")), {"from": "0", "most": "250"}),
    Example(
        audit._repair(Keys("vs"), "CODE", b"book", Locked(quantity=1, credits=2, points=3)),
        {"audited": b"book", "quantity": "1", "credits": "2", "points": "3"},
    ),
    Example(agreement, {"fingerprint": ANY}),
    Example(calls.check_permissions("TAG"), {"trials": ANY}),
    Example(
        first(calls.scanned_redemptions("TAG", "CODE", 9)),
        {"cursor": b"0", "pattern": ANY, "count": "9"},
    ),
]


@cache
def types() -> dict[bytes, str]:
    """The type of each key that exists after the examples, in this order, have run on one server."""
    client = fakeredis.FakeRedis(decode_responses=True)
    found: dict[bytes, str] = {}
    for example in EXAMPLES:
        call = example.call
        client.execute_command(*call.eval_command())
        found |= {key: str(client.type(key)).upper() for key in call.keys if client.exists(key)}
    return found


def check(source: str, examples: list[Example]) -> None:
    """Compare a header with the calls that are sent to the script, and with what the script returns."""
    header = header_of(source)
    for example in examples:
        _check_call(header, example)

    statuses = statuses_of(source)
    if sorted(header.statuses) != sorted(statuses):
        raise Mismatch(f"statuses in the header: {header.statuses}, returned: {statuses}")

    read = {int(index) for index in re.findall(r"\bARGV\[(\d+)\]", source)}
    if read != set(range(1, len(header.args) + 1)):
        raise Mismatch(f"arguments in the header: {header.args}, read: {read}")
    for names, values in re.findall(r"^local ([\w, ]+) = (ARGV\[\d+\](?:, ARGV\[\d+\])*)$", source, re.MULTILINE):
        for name, index in zip(names.split(", "), re.findall(r"\d+", values), strict=True):
            if header.args[int(index) - 1] != name:
                raise Mismatch(f"argument {index} is {header.args[int(index) - 1]} in the header, {name} in the code")


def _check_call(header: Header, example: Example) -> None:
    call = example.call
    in_header = [(pattern.replace("CODE", "".join(call.codes[:1])), type_) for pattern, type_ in header.keys]
    for code in call.codes:
        in_header += [(pattern.replace("CODE", code), type_) for pattern, type_ in header.each_keys]
    patterns = [pattern.replace("<key>", example.session_key).encode() for pattern, _ in in_header]
    if patterns != call.keys or bool(header.each_keys) != bool(example.each_args):
        raise Mismatch(f"keys in the header: {in_header}, sent: {call.keys}")
    for pattern, (_, type_) in zip(patterns, in_header, strict=True):
        if pattern in types() and types()[pattern] != type_:
            raise Mismatch(f"{pattern!r} is {type_} in the header, and in fact {types()[pattern]}")

    names = header.args + header.each_args * len(call.codes)
    expected = [("call_id", call.id), *example.args.items()]
    expected += [item for each in example.each_args for item in each.items()]
    sent = list(call.eval_command()[3 + len(call.keys) :])
    if list(zip(names, sent, strict=False)) != expected or len(names) != len(sent):
        raise Mismatch(f"arguments in the header: {names}, sent: {sent}, expected: {expected}")
    if not {str, bytes}.issuperset(map(type, sent)):
        raise Mismatch(f"not all arguments are text: {sent}")


def examples_of(verb: str) -> list[Example]:
    return [example for example in EXAMPLES if example.call.script.name == verb]


@pytest.mark.parametrize("verb", VERBS)
def test_a_header_agrees_with_the_code(verb: str) -> None:
    assert examples_of(verb)
    check(lua_sources.source(verb), examples_of(verb))


def test_the_examples_create_every_type_of_key() -> None:
    in_header = {pattern for verb in VERBS for pattern, _ in header_of(lua_sources.source(verb)).keys}
    in_header |= {pattern for verb in VERBS for pattern, _ in header_of(lua_sources.source(verb)).each_keys}
    assert in_header - {"vs:probe{TAG}"} == {key.decode() for key in types()} & in_header, (
        "a probe key is never created"
    )


def _changed_sources(source: str) -> Iterator[str]:
    """The script with each kind of change to its header, or to the code below an unchanged header."""
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
    for match in re.finditer(r"(?<!\()\{call_id, '(\w+)'", source):
        yield source[: match.end() - 1] + "x" + source[match.end() - 1 :]
    yield source + "return {call_id, 'unknown_status'}\n"
    yield source + f"return {{'{header_of(source).statuses[0]}'}}\n"
    yield source + "return 1\n"
    yield source + "local x = ARGV[20]\n"


def _passes(source: str, examples: list[Example]) -> bool:
    try:
        check(source, examples)
    except Mismatch:
        return False
    return True


def _in_status(lines: list[str], at: int) -> bool:
    return "-- Status\n" in lines[:at]


@pytest.mark.parametrize("verb", VERBS)
def test_a_header_that_differs_from_the_code_is_found(verb: str) -> None:
    changed = list(_changed_sources(lua_sources.source(verb)))
    assert len(changed) > 10
    assert [source for source in changed if _passes(source, examples_of(verb))] == []


def test_a_call_that_differs_from_the_header_is_found() -> None:
    example = next(example for example in EXAMPLES if len(example.call.codes) == 2)
    call = example.call
    for change in (call.keys.pop, call.keys.reverse, call.args.pop, call.args.reverse):
        keys, args = list(call.keys), list(call.args)
        change()
        with pytest.raises(Mismatch):
            check(lua_sources.source(call.script.name), [example])
        call.keys[:], call.args[:] = keys, args

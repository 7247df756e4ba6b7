"""The header of each block of book.lua says which locals the block reads and which it sets.

Both are computed from the code. What a block reads are the names that its text, with the blocks that it includes, takes
from the code before it. What it sets are the locals of that code that it assigns, and those that it declares itself and
that the code after it uses: names that a script lacks if the block is put between ``do`` and ``end`` there. Globals of
the sandbox and the constants, in capitals, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

import pytest
from lua_tools import sources as lua_sources

pytestmark = pytest.mark.unmeasured

BLOCKS: Final = lua_sources.blocks_of("book")


class Header(NamedTuple):
    reads: list[str]
    sets: list[str]


_HEADER: Final = re.compile(
    r"""
    ((?:--\ (?!Reads:).*\n)+)                 # a sentence
    --\ Reads:\ (.*\n(?:--\ \ \ .*\n)*)       # names
    --\ Sets:\ (.*\n(?:--\ \ \ .*\n)*)        # names
    """,
    re.VERBOSE,
)


def header_of(text: str) -> Header:
    match = _HEADER.match(text)
    assert match, f"no header: {text[:200]}"
    sentence = match[1].replace("\n--", "")
    assert re.fullmatch(r"-- [A-Z][^.]*\.\n", sentence), f"not one sentence: {sentence}"
    return Header(_names(match[2]), _names(match[3]))


def _names(text: str) -> list[str]:
    names = re.sub(r"\n(-- +)?", " ", text).strip().split(", ")
    return [] if names == ["nothing"] else [name.strip() for name in names]


def computed(block: str) -> Header:
    text = lua_sources.text_of(lua_sources.block(block))
    code, assigned = _without_assigned_names(text)
    free = lua_sources.free_names(text) - lua_sources.SANDBOX
    reads = lua_sources.free_names(code) - lua_sources.SANDBOX - constants() - {"_"}
    return Header(sorted(reads), sorted(assigned & free | declared_for_later_code(block) - constants()))


def _without_assigned_names(text: str) -> tuple[str, set[str]]:
    """The text with ``_`` for each name that a statement assigns, and these names."""
    assigned: set[str] = set()

    def replaced(match: re.Match[str]) -> str:
        targets = match[2].split(", ")
        assigned.update(target for target in targets if target.isidentifier())
        return match[1] + ", ".join("_" if target.isidentifier() else target for target in targets) + " ="

    target = r"(?!local\b)\w+(?:\[[^\]]*\])?"
    return re.sub(rf"^( *)({target}(?:, {target})*) =(?!=)", replaced, text, flags=re.MULTILINE), assigned


@cache
def constants() -> frozenset[str]:
    return frozenset(name for name in declared_for_later_code("constants") if name.isupper())


@cache
def declared_for_later_code(block: str) -> frozenset[str]:
    book = lua_sources.source("book").splitlines()
    begin = book.index(f"-- block: {block}") + 1
    end = next((at for at in range(begin, len(book)) if book[at].startswith("-- block: ")), len(book))
    closed = "\n".join([*book[:begin], "do", *book[begin:end], "end", *book[end:]])
    without = _free_names_of_scripts()
    source = lua_sources.source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lua_sources, "source", lambda name: closed if name == "book" else source(name))
        return frozenset(_free_names_of_scripts() - without)


def _free_names_of_scripts() -> set[str]:
    verbs = lua_sources.verbs()
    return {name for verb in verbs for name in lua_sources.free_names(lua_sources.text_of(lua_sources.assembled(verb)))}


def check(block: str, text: str) -> None:
    """Compare the header in a block's text with the code in lua/."""
    header = header_of(text)
    assert Header(sorted(header.reads), sorted(header.sets)) == computed(block)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_header_agrees_with_the_code(block: str) -> None:
    check(block, lua_sources.text_of(lua_sources.block(block)))


def _changed_headers(text: str) -> Iterator[str]:
    """The block with each kind of change to its header."""
    header = header_of(text)
    lines = text.splitlines(keepends=True)
    for title, names in zip(("-- Reads: ", "-- Sets: "), header, strict=True):
        at = next(at for at, line in enumerate(lines) if line.startswith(title))
        yield "".join(lines[:at] + lines[at + 1 :])
        yield text.replace(title, title + "unknown, ", 1)
        yield text.replace(title, title.lower(), 1)
        for name in names:
            yield re.sub(rf"({title}(?:.|\n--   )*?)\b{name}\b", r"\1unknown", text, count=1)
            yield text.replace(title, f"{title}{name}, ", 1)
    yield text[text.index("-- Reads:") :]
    yield text.replace(".\n-- Reads", "\n-- Reads", 1)
    yield text.replace(".\n-- Reads", ". Another sentence.\n-- Reads", 1)


def _agrees(block: str, text: str) -> bool:
    try:
        check(block, text)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("block", BLOCKS)
def test_a_header_that_differs_from_the_code_is_found(block: str) -> None:
    changed = list(_changed_headers(lua_sources.text_of(lua_sources.block(block))))
    assert len(changed) > 8
    assert [text for text in changed if _agrees(block, text)] == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "code", "changed", "block"),
    [
        ("book", "local quantity_limit = book", "local quantity_limit = earlier or book", "judge"),
        ("book", "  fits = false\n  if quantity_unspent", "  fit = false\n  if quantity_unspent", "judge"),
        ("book", "again = again or now >=", "again = now >=", "reclaim"),
        ("book", "'PX', TOMBSTONE_MS", "'PX', TOMBSTONE", "unlock"),
        ("book", "local member = amounts", "member = amounts", "lock"),
        ("redeem", "if own_quantity == 0", "if time or own_quantity == 0", "clock"),
        ("audit", "  return {call_id, 'again'}", "  return {call_id, 'again', array_ends}", "open"),
    ],
)
def test_code_that_differs_from_the_header_is_found(
    file: str, code: str, changed: str, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lua_sources.source
    assert code in source(file)
    monkeypatch.setattr(
        lua_sources, "source", lambda name: source(name).replace(code, changed) if name == file else source(name)
    )
    declared_for_later_code.cache_clear()
    try:
        found = [name for name in BLOCKS if not _agrees(name, lua_sources.text_of(lua_sources.block(name)))]
    finally:
        declared_for_later_code.cache_clear()
    assert found == [block]

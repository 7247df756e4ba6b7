"""No script formats a caller's text with ``%s``: in Lua 5.1 ``string.format`` cuts a text of under 100 bytes at NUL.

The check is of names: whatever is formatted in a call with ``%s`` must be one of the names below, or an argument with
such a name in the header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest
from lua_tools import sources as lua_sources

from scripts.test_headers import header_of

# They contain numbers, random tokens of the library, and texts that it makes itself.
_NO_FREE_TEXT: Final = {
    *("book", "LIFE", "RECLAIMED_AT", "CREDITS_LOCKED", "POINTS_LOCKED", "LOCKED_UNTIL"),
    *("call_id", "now", "stack", "quantity", "credits", "points", "redeemed_at_ms", "rolled_back"),
    *("credits_back", "points_back", "redemption"),
}
_LUA: Final = {"string", "format", "unpack", "and", "or"}


def formats_of(source: str) -> Iterator[str]:
    """What each call of string.format has between its parentheses."""
    for match in re.finditer(r"string\.format\(", source):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        yield source[match.end() : end - 1]


def free_texts(name: str) -> set[str]:
    """The names in the formats of a file that may be of free text."""
    source = lua_sources.source(name)
    args = [] if name == "book" else header_of(source).args
    found: set[str] = set()
    for formatted in formats_of(source):
        if "%s" in formatted:
            named = re.sub(r"ARGV\[(\d+)\]", lambda match: args[int(match[1]) - 1], re.sub(r"'[^']*'", "", formatted))
            found.update(re.findall(r"\b[A-Za-z_]\w*", named))
    return found - _NO_FREE_TEXT - _LUA


@pytest.mark.parametrize("name", [*lua_sources.verbs(), "book"])
def test_no_format_has_a_callers_text(name: str) -> None:
    assert free_texts(name) == set()


@pytest.mark.parametrize(
    ("name", "code", "changed", "text"),
    [
        ("redeem", "stack) .. session_key", "stack .. session_key)", "session_key"),
        ("partial_rollback", "call_id) .. ARGV[2]", "call_id .. ARGV[2])", "redemption_id"),
        ("rollback", "call_id) .. receipt_session", "call_id .. receipt_session)", "receipt_session"),
        ("import_redemption", "call_id or '-')\n  .. session_key", "call_id or session_key)", "session_key"),
        ("book", "RECLAIMED_AT)) .. book[ONLY_KEY]", "RECLAIMED_AT), book[ONLY_KEY])", "ONLY_KEY"),
    ],
)
def test_a_callers_text_in_a_format_is_found(
    name: str, code: str, changed: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lua_sources.source(name)
    assert code in source
    monkeypatch.setattr(lua_sources, "source", lambda _: source.replace(code, changed))
    assert free_texts(name) == {text}

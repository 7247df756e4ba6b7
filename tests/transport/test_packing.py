"""Commands are packed alike with hiredis and without."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voucher_sessions._transport.packing import pack, pack_in_python

ARGS = st.one_of(st.binary(max_size=50), st.text(st.characters(exclude_categories=["Cs"]), max_size=50))


@given(st.lists(st.lists(ARGS, max_size=6), min_size=1, max_size=3))
def test_with_hiredis_and_in_python(arguments: list[list[bytes | str]]) -> None:
    commands = [("EVALSHA", *each) for each in arguments]
    assert pack(commands) == b"".join(map(pack_in_python, commands))


def test_a_long_text_and_no_argument() -> None:
    command = ("EVAL", "x" * 20_000)
    assert pack_in_python(command) == pack([command])
    assert pack([("PING",)]) == b"*1\r\n$4\r\nPING\r\n"

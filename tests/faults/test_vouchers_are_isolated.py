"""No code, session key or redemption id reaches another voucher's keys, whatever characters it contains."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot
from support.servers import Server

from faults.hostile_objects import misbehaving
from faults.recorded_replies import books
from faults.recording_clients import RecordingClient, outcome, run
from faults.test_hostile_input import VERBS, right
from voucher_sessions import Durability, Redeemable, Voucher, VoucherSessions, VoucherSessionsError

# Codes, keys and ids that would be others', were they not kept apart.
NASTY: Final = [
    *("A", "A}", "{A}", "A}:locks", "A}:session:x", "A}:redemption:x", "A}:fence", "A}{A", "A%7D", "A%257D", "A%", "%"),
    *("A:locks", "A:session:x", "x}:session:x", "}{", "*", "?", "[A]", "A\n", "A\0", "\0", "A ", " A", "ä", "😀", "a"),
    *("partition", ":partition", "vs:{A}", "%7BA%7D", "A\r\nSET x 1", "'; DROP", "\\x41", "A" * 256),
]
TEXT: Final = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.sampled_from("{}%:*?A7BDx \n\0😀"), min_size=1, max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
).filter(str.strip)
PARTITIONS: Final[dict[str, Callable[[str], str] | None]] = {
    "none": None,
    "all in one": lambda code: "all",
    "the code itself": lambda code: code,
    "its beginning": lambda code: code[:1].strip() or "}:",
    "what looks like keys": lambda code: "A}:session:" + str(len(code)),
}
KEY: Final = re.compile(
    rb"vs:(?:\{([^{}]*)\})?\{([^{}]*)\}(|:(?:locks|fence|(?:session|redemption|rollback|adjustment):.+))", re.DOTALL
)


def engine_of(client: Any, partition: str) -> VoucherSessions:
    engine = VoucherSessions(client, partition=PARTITIONS[partition], durability=Durability(replicas=1))
    engine._transport._first_call = None  # its key is tried by itself, below
    return engine


def keys_of(partition: str, code: str, session_key: str, redemption_id: str) -> set[bytes]:
    """Every key that any verb of this voucher names."""
    keys: set[bytes] = set()
    for verb in VERBS:
        own: dict[str, Any] = {
            "code": code,
            "codes": [code],
            "voucher": Voucher(code=code),
            "session": {"type": "LOCK", "key": session_key},
            "session_key": session_key,
            "redemption_id": redemption_id,
            "rollback_id": redemption_id,
            "adjustment_id": redemption_id,
            "redeemables": [Redeemable(code=code)],
            "release": (),
        }
        client = RecordingClient()
        arguments = {name: own.get(name, value) for name, value in right(verb).items()}
        outcome(partial(run, engine_of(client, partition), verb, arguments))
        assert client.commands
        for word, *rest in client.commands:
            if word in {"EVALSHA", "EVAL"}:
                keys.update(rest[2 : 2 + int(rest[1])])
            elif word == "SET":
                keys.add(rest[0])
    return keys


def code_in(key: bytes) -> str:
    """Read back from a key what it is of: the code, unescaped."""
    found = KEY.fullmatch(key)
    assert found, key
    return found[2].replace(b"%7B", b"{").replace(b"%7D", b"}").replace(b"%25", b"%").decode()


@pytest.mark.parametrize("partition", PARTITIONS)
@settings(max_examples=40, deadline=None)
@given(code=TEXT, session_key=TEXT, redemption_id=TEXT)
@example(code="A", session_key="x", redemption_id="x")
@example(code="A}:session:x", session_key="x", redemption_id="}:locks")
@example(code="A%7D", session_key="%", redemption_id="{")
def test_every_key_contains_its_voucher(partition: str, code: str, session_key: str, redemption_id: str) -> None:
    """So no two vouchers have one in common; and all of one share a slot."""
    keys = keys_of(partition, code, session_key, redemption_id)
    assert len(keys) == 7, "book, index, session, fence, and receipts of a redemption, a rollback and an adjustment"
    assert {code_in(key) for key in keys} == {code}
    assert len({key_slot(key) for key in keys}) == 1
    assert b"vs:partition" not in keys


@pytest.mark.parametrize("partition", PARTITIONS)
@settings(max_examples=60, deadline=None)
@given(codes=st.tuples(TEXT, TEXT).filter(lambda codes: codes[0] != codes[1]), texts=st.tuples(TEXT, TEXT, TEXT, TEXT))
@example(codes=("A", "A}:session:x"), texts=("x", "x", "x", "x"))
@example(codes=("A", "A}"), texts=(":session:x", "}:session:x", "x", "}x"))
@example(codes=("A%7D", "A}"), texts=("x", "x", "x", "x"))
@example(codes=("A", "all}{A"), texts=("x", "x", "x", "x"))
@example(codes=("A", "a"), texts=("x", "x", "x", "x"))
def test_two_vouchers_have_no_key_in_common(
    partition: str, codes: tuple[str, str], texts: tuple[str, str, str, str]
) -> None:
    mine = keys_of(partition, codes[0], texts[0], texts[1])
    theirs = keys_of(partition, codes[1], texts[2], texts[3])
    assert mine.isdisjoint(theirs)


def test_all_pairs_of_difficult_codes() -> None:
    """Under every partition at once: engines that differ in it alone do not meet either."""
    owner: dict[bytes, str] = {}
    codes = [code for code in NASTY if code.strip()]
    for partition, code in product(PARTITIONS, codes):
        for key in keys_of(partition, code, "x", "x") | keys_of(partition, code, "x}:session:x", "}{A}:locks"):
            assert owner.setdefault(key, code) == code
    assert len(owner) > 4 * len(codes)


@pytest.mark.parametrize("lies", [["encode"], ["replace"], ["encode", "replace", "__str__"], ["__eq__", "__hash__"]])
@pytest.mark.parametrize("name", ["code", "session_key", "redemption_id"])
def test_a_str_subclass_that_misreports_its_value_reaches_no_other_key(name: str, lies: list[str]) -> None:
    honest = {"code": "A", "session_key": "cart", "redemption_id": "order"}
    liar = misbehaving(str, honest[name], lies=lies).make()
    assert keys_of("none", **honest | {name: liar}) == keys_of("none", **honest)


# --- On a server ---------------------------------------------------------------------------------------------------


def use(engine: VoucherSessions, code: str, text: str) -> None:
    """Every verb, with a text that means to be a key."""
    session = {"type": "LOCK", "key": text, "ttl": 1, "ttl_unit": "HOURS"}
    engine.validate(code, credits=1, session=session)
    engine.extend(code, text)
    assert engine.get_session(code, text).key in {each.key for each in engine.iter_sessions(code)}
    engine.redeem(code, session=text, redemption_id=text)
    engine.rollback(code, text, credits=1, rollback_id=text)
    engine.adjust(code, credits=1, adjustment_id=text)
    engine.validate_stack([Redeemable(code=code, credits=2)], session=session)
    engine.extend_stack([code], text)
    engine.release(code, text)
    engine.rollback(code, text)
    engine.redeem_stack([Redeemable(code=code, credits=3)], redemption_id=text + "2")
    engine.rollback_stack([code], text + "2")
    engine.release_stack([code], text)
    engine.validate(code, credits=4, session=session)
    engine.repair(code)
    engine.put_voucher(Voucher(code=code, credits=7))
    engine.delete_voucher(code)
    try:
        engine.redeem(code)
    except VoucherSessionsError:
        return
    raise AssertionError("it was deleted")


@pytest.mark.parametrize("partition", ["none", "all in one", "what looks like keys"])
def test_calls_on_one_voucher_do_not_affect_another(server_of: Callable[[str], Server], partition: str) -> None:
    with server_of("valkey").client() as client:
        client.flushall()
        engine = VoucherSessions(client, partition=PARTITIONS[partition])
        watched = [code for code in NASTY if code.strip()][:14]
        for at, code in enumerate(watched):
            engine.put_voucher(Voucher(code=code, credits=1000 + at))
            for text in ("x", "}:session:x"):
                engine.validate(code, credits=at, session={"type": "LOCK", "key": text})
                engine.redeem(code, credits=1, redemption_id=text)
        for code in watched:
            before = {other: books(engine, other) for other in watched if other != code}
            for text in ("y", "A}:session:x", "x}:locks", "\0", "* ?"):
                engine.put_voucher(Voucher(code=code, credits=100))
                use(engine, code, text)
            assert {other: books(engine, other) for other in before} == before, code
            engine.put_voucher(Voucher(code=code, credits=5))
            engine.validate(code, credits=1, session={"type": "LOCK", "key": "x"})

"""DESIGN.md 3.24: every stored value says its format, and a script that meets a newer one refuses before it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Backend

from behaviour.test_semantics import lock, plant_expired_locks
from voucher_sessions import CorruptState, InvalidRequest, UnknownFormat, Voucher, VoucherSessions

BOOK, SESSION, RECEIPT = "vs:{A}", "vs:{A}:session:cart", "vs:{A}:redemption:order"

# What reads which value.
READERS: list[tuple[str, Callable[[VoucherSessions], Any]]] = [
    *(
        (BOOK, call)
        for call in (
            lambda engine: engine.put_voucher(Voucher(code="A")),
            lambda engine: engine.get_voucher("A"),
            lambda engine: engine.delete_voucher("A"),
            lambda engine: engine.validate("A"),
            lambda engine: engine.validate("A", session=lock("new")),
            lambda engine: engine.redeem("A"),
            lambda engine: engine.release("A", "cart"),
            lambda engine: engine.rollback("A", "order"),
            lambda engine: engine.list_sessions("A"),
            lambda engine: engine.audit("A"),
            lambda engine: engine.repair("A"),
            lambda engine: engine.validate_stack(["B", "A"], session=lock("new")),
            lambda engine: engine.redeem_stack(["B", "A"]),
        )
    ),
    *(
        (SESSION, call)
        for call in (
            lambda engine: engine.validate("A", session=lock("cart")),
            lambda engine: engine.redeem("A", session="cart"),
            lambda engine: engine.release("A", "cart"),
            lambda engine: engine.validate_stack(["B", "A"], session=lock("cart")),
            lambda engine: engine.redeem_stack(["B", "A"], session="cart"),
            lambda engine: engine.release_stack(["B", "A"], "cart"),
        )
    ),
    *(
        (RECEIPT, call)
        for call in (
            lambda engine: engine.redeem("A", redemption_id="order"),
            lambda engine: engine.rollback("A", "order"),
            lambda engine: engine.get_redemption("A", "order"),
        )
    ),
]


@pytest.mark.parametrize(("key", "call"), READERS)
def test_a_newer_format_is_refused_before_anything_is_written(
    engine: VoucherSessions, backend: Backend, key: str, call: Callable[[VoucherSessions], Any]
) -> None:
    for code in ("A", "B"):
        engine.put_voucher(Voucher(code=code, quantity=9))
    engine.redeem("A", redemption_id="order")
    engine.validate("A", session=lock("cart"))
    plant_expired_locks(backend, "B", 2)  # not even they are reclaimed
    value: Any = backend.admin.get(key)
    assert value.startswith(b"1"), "every value begins with its format"
    for as_format, error in (("2", UnknownFormat), ("17", UnknownFormat), ("x", CorruptState)):
        backend.admin.set(key, as_format.encode() + value[1:], keepttl=True)
        before = backend.contents()
        with pytest.raises(CorruptState) as refused:
            call(engine)
        assert type(refused.value) is error
        assert backend.contents() == before
        if error is UnknownFormat:
            assert f"format {as_format}" in str(refused.value)
            assert "upgrade" in str(refused.value)


def test_a_damaged_value_of_this_format_is_not_reported_as_a_newer_one(
    engine: VoucherSessions, backend: Backend
) -> None:
    engine.put_voucher(Voucher(code="A", quantity=9))
    value: Any = backend.admin.get(BOOK)
    assert b",9," in value
    for damaged in (value[:-5], b"1 " + value[1:], b'1["deleted"]', value.replace(b",9,", b",-2,", 1)):
        backend.admin.set(BOOK, damaged)
        with pytest.raises(CorruptState) as refused:
            engine.get_voucher("A")
        assert type(refused.value) is CorruptState, damaged


def test_a_tombstone_says_its_format_too(engine: VoucherSessions, backend: Backend) -> None:
    engine.put_voucher(Voucher(code="A"))
    engine.delete_voucher("A")
    value: Any = backend.admin.get(BOOK)
    backend.admin.set(BOOK, b"2" + value[1:])
    with pytest.raises(UnknownFormat):
        engine.put_voucher(Voucher(code="A"))
    backend.admin.delete(BOOK)


def test_the_partition_says_its_format_too(make_engine: Callable[..., VoucherSessions], backend: Backend) -> None:
    engine = make_engine(partition=lambda code: "one")
    engine.put_voucher(Voucher(code="A"))
    value: Any = backend.admin.get("vs:partition")
    assert value.startswith(b"1 ")
    backend.admin.set("vs:partition", b"2" + value[1:])
    with pytest.raises(
        UnknownFormat, match=r"^get_voucher of 'A', at the key 'vs:partition': a stored value has format 2"
    ):
        make_engine(partition=lambda code: "one").get_voucher("A")
    backend.admin.set("vs:partition", b"1 0")
    with pytest.raises(InvalidRequest):
        make_engine(partition=lambda code: "one").get_voucher("A")


def test_a_foreign_value_at_the_key_of_the_partition_is_told_with_the_key_and_the_users_call(
    make_engine: Callable[..., VoucherSessions], backend: Backend, execute: Callable[..., list[Any]]
) -> None:
    problem = r"the key 'vs:partition' contains a value that this library did not write, so nothing was changed: "
    engine = make_engine(partition=lambda code: "one")
    for write in (lambda: backend.admin.set("vs:partition", "hello"), lambda: backend.admin.rpush("vs:partition", "x")):
        backend.admin.delete("vs:partition")
        write()
        with pytest.raises(CorruptState, match=f"^redeem_stack of 'A', 'B': {problem}"):
            engine.redeem_stack(["A", "B"])
        with pytest.raises(CorruptState, match=f"^put_voucher of 'B': {problem}"):
            execute(engine.pipeline().put_voucher(Voucher(code="B")).get_voucher("A"))

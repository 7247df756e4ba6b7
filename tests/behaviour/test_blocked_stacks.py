"""A key of something else at one voucher leaves no half of a stack: all is looked at before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Backend

from behaviour.test_semantics import lock, plant_expired_locks
from voucher_sessions import CorruptState, RedemptionConflict, RedemptionNotFound, Voucher, VoucherSessions

CODES = ["A", "B", "C"]
KEYS = ["vs:{%s}", "vs:{%s}:session:cart", "vs:{%s}:locks", "vs:{%s}:redemption:order"]


def write_foreign_value(admin: Any, key: str, kind: str) -> None:
    admin.delete(key)
    if kind == "list":
        admin.rpush(key, "of something else")
    else:
        admin.set(key, "of something else")
    admin.pexpire(key, 60_000)


def have_locks(engine: VoucherSessions, codes: list[str]) -> list[bool]:
    return ["cart" in {each.key for each in engine.list_sessions(code)} for code in codes]


def have_receipts(engine: VoucherSessions, codes: list[str]) -> list[bool]:
    return [has_receipt(engine, code) for code in codes]


def has_receipt(engine: VoucherSessions, code: str) -> bool:
    try:
        return engine.get_redemption(code, "order").quantity == 1
    except RedemptionNotFound:
        return False


def validates(engine: VoucherSessions) -> list[bool]:
    assert engine.validate_stack(CODES, session=lock("cart")).valid
    return have_locks(engine, CODES)


def redeems(engine: VoucherSessions) -> list[bool]:
    engine.redeem_stack(CODES, session="cart", redemption_id="order", if_session_missing="redeem")
    return have_receipts(engine, CODES)


def releases(engine: VoucherSessions) -> list[bool]:
    return [each.released or each.ended for each in engine.release_stack(CODES, "cart")]


@pytest.mark.unmeasured
@pytest.mark.parametrize("call", [validates, redeems, releases], ids=lambda call: call.__name__)
@pytest.mark.parametrize("kind", ["list", "text"])
@pytest.mark.parametrize("code", ["A", "C"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("locked", [False, True], ids=["no-lock-yet", "all-locked"])
def test_all_or_nothing(
    backend: Backend, key: str, code: str, kind: str, call: Callable[[VoucherSessions], list[bool]], locked: bool
) -> None:
    engine = VoucherSessions(backend.client())
    for each in CODES:
        engine.put_voucher(Voucher(code=each, quantity=9))
        for other in ("x", "y"):
            engine.validate(each, session=lock(other))
    if locked:
        engine.validate_stack(CODES, session=lock("cart"))
    plant_expired_locks(backend, "B", 2)  # not even they are reclaimed
    write_foreign_value(backend.admin, key % code, kind)
    before = backend.contents()
    try:
        done = call(engine)
    except (CorruptState, RedemptionConflict):
        assert backend.contents() == before
    else:
        assert key.endswith("order"), "receipts are read by redeem alone"
        assert done == [True] * 3 or call is releases


@pytest.mark.parametrize("code", ["A", "B"])
@pytest.mark.parametrize("key", KEYS[:3])
def test_two_vouchers_are_a_stack_too(backend: Backend, key: str, code: str) -> None:
    """The error tells no session key, neither itself nor in the text of the server behind it."""
    engine = VoucherSessions(backend.client())
    for each in ("A", "B"):
        engine.put_voucher(Voucher(code=each, quantity=9))
    write_foreign_value(backend.admin, key % code, "list")
    before = backend.contents()
    with pytest.raises(CorruptState, match=r"a key of 'A', 'B'") as raised:
        engine.validate_stack(["A", "B"], session=lock("cart"))
    assert "cart" not in f"{raised.value} {raised.value.__cause__}"
    assert backend.contents() == before

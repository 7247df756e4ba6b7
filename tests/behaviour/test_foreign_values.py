"""Keys with values that this library did not write: CorruptState, and nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pytest
from conftest import Backend

from voucher_sessions import CorruptState, UnknownFormat, Voucher, VoucherSessions
from voucher_sessions._core.replies import ForeignValue

ACTS: list[methodcaller] = [
    methodcaller("put_voucher", Voucher(code="A", credits=5)),
    methodcaller("get_voucher", "A"),
    methodcaller("validate", "A"),
    methodcaller("validate", "A", session={"type": "LOCK", "key": "cart"}),
    methodcaller("redeem", "A"),
    methodcaller("redeem", "A", session="cart"),
    methodcaller("release", "A", "cart"),
    methodcaller("list_sessions", "A"),
]


# A call through the client, or one that is repeated, does not know what an earlier try did.
NOT_WRITTEN_HERE = (
    "a key of 'A' contains a value that this library did not write, so "
    "(nothing was changed|this try changed nothing, but an earlier one may have): find out"
)
REDEMPTION, ROLLBACK, ADJUSTMENT = "vs:{A}:redemption:order", "vs:{A}:rollback:refund", "vs:{A}:adjustment:topup"
# What reads which receipt. Most scripts return it as it is stored.
RETURNED: list[tuple[str, methodcaller]] = [
    (REDEMPTION, methodcaller("redeem", "A", credits=1, redemption_id="order")),
    (REDEMPTION, methodcaller("redeem_stack", ["A"], redemption_id="order")),
    (REDEMPTION, methodcaller("get_redemption", "A", "order")),
    (ROLLBACK, methodcaller("rollback", "A", "order", credits=1, rollback_id="refund")),
    (ADJUSTMENT, methodcaller("adjust", "A", credits=1, adjustment_id="topup")),
]
NO_RECEIPTS: list[str | bytes] = [
    *("hello", "hello world", "[1,2]", "", "7", "1 x", "0 a 1 1 0 5 call - - ", "-1 a 1 1 0 5 call - - "),
    *(
        "1 a -1 1 0 5 call - - ",
        f"1 a 1 {2**53} 0 5 call - - ",
        f"1 a 1 1 0 {10**20} call - - ",
        b"1 a 1 1 0 5 call - - \xff",
    ),
    *("1 a 1 1 0 5 call - 2,0,- ", "1 a 1 1 0 5 call - 0,0 "),
]

# Foreign members of the index, and their scores.
MEMBERS = {"foreign": 2e12, "1 x cart": 2e12, f"{2**53} 0 cart": 2e12, "-1 0 cart": 2e12, "1 0 cart": 1e300}


@pytest.fixture
def engine_with_foreign_value(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> Callable[[str], VoucherSessions]:
    """An engine with a live session, under one of whose keys somebody else's value stands."""

    def write_foreign_value(key: str, value: str = "list") -> VoucherSessions:
        engine = make_engine()
        engine.put_voucher(Voucher(code="A", credits=50))
        engine.validate("A", credits=5, session={"type": "LOCK", "key": "cart"})
        engine.validate("A", credits=5, session={"type": "LOCK", "key": "other"})
        ttl_ms = backend.keys().get(key.encode(), 60_000)
        backend.admin.delete(key)
        if value == "list":
            backend.admin.rpush(key, "someone else's")
        else:
            backend.admin.set(key, value)
        if ttl_ms > 0:
            backend.admin.pexpire(key, ttl_ms)
        return engine

    return write_foreign_value


@pytest.mark.parametrize("value", ["list", "some text", "5", "1[1, 2]", "", '1["a"," b",-5,0,0,0,0,0,0,0,0,0,0,0]'])
def test_a_foreign_value_at_the_vouchers_key_is_corrupt_state(
    engine_with_foreign_value: Callable[..., VoucherSessions], backend: Backend, value: str
) -> None:
    engine = engine_with_foreign_value("vs:{A}", value)
    before = backend.contents()
    for act in [*ACTS, methodcaller("delete_voucher", "A")]:  # none of them changes what the next one finds
        with pytest.raises(CorruptState, match="'A'"):
            act(engine)
        assert backend.contents() == before, act


@pytest.mark.parametrize("act", [ACTS[3], ACTS[5], ACTS[6]])
def test_a_foreign_value_at_the_index_key_is_corrupt_state(
    engine_with_foreign_value: Callable[..., VoucherSessions], backend: Backend, act: methodcaller
) -> None:
    engine = engine_with_foreign_value("vs:{A}:locks")
    before = backend.contents()
    with pytest.raises(CorruptState, match="'A'"):
        act(engine)
    assert backend.contents() == before


# Of one session, whose key follows.
OF_A_SESSION: dict[str, Callable[[VoucherSessions, str], object]] = {
    "validate": lambda engine, key: engine.validate("A", session={"type": "LOCK", "key": key}),
    "redeem": lambda engine, key: engine.redeem("A", session=key),
    "redeem anyway": lambda engine, key: engine.redeem("A", credits=1, session=key, if_session_missing="redeem"),
    "release": lambda engine, key: engine.release("A", key),
    "get_session": lambda engine, key: engine.get_session("A", key),
    "extend": lambda engine, key: engine.extend("A", key),
}


@pytest.mark.parametrize("value", ["list", "some text"])
@pytest.mark.parametrize("key", ["cart", "not live"])
@pytest.mark.parametrize("act", OF_A_SESSION)
def test_a_foreign_value_at_a_session_key_is_corrupt_state(
    engine_with_foreign_value: Callable[..., VoucherSessions], backend: Backend, value: str, key: str, act: str
) -> None:
    engine = engine_with_foreign_value(f"vs:{{A}}:session:{key}", value)
    before = backend.contents()
    with pytest.raises(CorruptState, match="'A'"):
        OF_A_SESSION[act](engine, key)
    assert backend.contents() == before


@pytest.mark.parametrize("method", ["get_session", "extend", "release", "redeem", "validate"])
def test_the_key_of_the_only_lock_with_a_value_of_another_type(
    engine: VoucherSessions, backend: Backend, method: str
) -> None:
    """The book has this lock as well, so the session counts as live if its key is absent."""
    engine.put_voucher(Voucher(code="A", credits=50))
    engine.validate("A", credits=5, session={"type": "LOCK", "key": "cart"})
    backend.admin.delete("vs:{A}:session:cart")
    backend.admin.rpush("vs:{A}:session:cart", "someone else's")
    backend.admin.expire("vs:{A}:session:cart", 1000)
    before = backend.contents()
    acts: dict[str, methodcaller] = {
        "redeem": methodcaller("redeem", "A", session="cart"),
        "validate": methodcaller("validate", "A", session={"type": "LOCK", "key": "cart"}),
    }
    with pytest.raises(CorruptState, match="'A'"):
        acts.get(method, methodcaller(method, "A", "cart"))(engine)
    assert backend.contents() == before


@pytest.mark.parametrize("value", ["some text", ""])
@pytest.mark.parametrize(
    "act",
    [
        methodcaller("redeem", "A", redemption_id="order"),
        methodcaller("rollback", "A", "order"),
        methodcaller("get_redemption", "A", "order"),
    ],
)
def test_a_foreign_value_at_a_receipt_key_is_corrupt_state(
    make_engine: Callable[..., VoucherSessions], backend: Backend, act: methodcaller, value: str
) -> None:
    engine = make_engine()
    engine.put_voucher(Voucher(code="A", credits=50))
    backend.admin.set("vs:{A}:redemption:order", value)
    before = backend.contents()
    with pytest.raises(CorruptState, match=NOT_WRITTEN_HERE):
        act(engine)
    assert backend.contents() == before


def test_a_rollback_on_a_corrupt_voucher_changes_nothing(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> None:
    engine = make_engine()
    engine.put_voucher(Voucher(code="A", credits=50))
    engine.redeem("A", credits=40, redemption_id="order")
    book: Any = backend.admin.get("vs:{A}")
    backend.admin.set("vs:{A}", "some text")
    with pytest.raises(CorruptState):
        engine.rollback("A", "order")
    backend.admin.set("vs:{A}", book)
    assert engine.rollback("A", "order").replayed is False
    assert engine.get_voucher("A").credits.used == 0


def test_a_foreign_expired_index_member_is_corrupt_state(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> None:
    engine = make_engine()
    engine.put_voucher(Voucher(code="A", credits=50))
    engine.validate("A", session={"type": "LOCK", "key": "stays"})
    engine.validate("A", session={"type": "LOCK", "key": "goes", "ttl": 100, "ttl_unit": "MILLISECONDS"})
    backend.admin.zadd("vs:{A}:locks", {"nonsense": 5})
    backend.clock.advance(101)
    before = backend.contents()
    with pytest.raises(CorruptState):
        engine.validate("A")
    assert backend.contents() == before


@pytest.mark.parametrize(("key", "act"), RETURNED)
def test_a_foreign_receipt_is_reported_as_a_stored_value(
    engine: VoucherSessions, backend: Backend, key: str, act: methodcaller
) -> None:
    """Not as a reply that a proxy has changed, although only Python reads it."""
    engine.put_voucher(Voucher(code="A", credits=50))
    for value in NO_RECEIPTS:
        backend.admin.set(key, value)
        before = backend.contents()
        with pytest.raises(CorruptState, match=NOT_WRITTEN_HERE) as raised:
            act(engine)
        assert type(raised.value) is CorruptState, value
        assert not isinstance(raised.value.__context__, ForeignValue | ValueError), "its text may have a session key"
        assert backend.contents() == before, value


@pytest.mark.parametrize(("key", "act"), RETURNED)
def test_a_newer_receipt_is_told_with_the_call(
    engine: VoucherSessions, backend: Backend, key: str, act: methodcaller
) -> None:
    engine.put_voucher(Voucher(code="A", credits=50))
    backend.admin.set(key, "2 new")
    with pytest.raises(UnknownFormat, match=r"^[a-z_]+ of 'A': a stored value has format 2") as raised:
        act(engine)
    assert (raised.value.where.split(" ")[0], raised.value.format) == (str(act).split("'")[1], 2)


@pytest.mark.parametrize("queued", [act for _, act in RETURNED])
def test_a_pipeline_tells_a_stored_value_for_each_call(
    engine: VoucherSessions, backend: Backend, execute: Callable[..., list[Any]], queued: methodcaller
) -> None:
    engine.put_voucher(Voucher(code="A", credits=50))
    for key, _ in RETURNED:
        backend.admin.set(key, "hello world")
    pipe = engine.pipeline()
    queued(pipe)
    found, state = execute(pipe.get_voucher("A"), raise_on_error=False)
    assert re.search(NOT_WRITTEN_HERE, str(found))
    assert state.credits.limit == 50


@pytest.mark.parametrize("act", [methodcaller("list_sessions", "A"), lambda engine: list(engine.iter_sessions("A"))])
def test_a_foreign_member_of_the_index_is_reported_as_a_stored_value(
    engine: VoucherSessions, backend: Backend, act: Callable[[Any], Any]
) -> None:
    engine.put_voucher(Voucher(code="A", credits=50))
    for key in ("one", "two"):
        engine.validate("A", session={"type": "LOCK", "key": key})
    for member, score in MEMBERS.items():
        backend.admin.zadd("vs:{A}:locks", {member: score})
        before = backend.contents()
        with pytest.raises(CorruptState, match=NOT_WRITTEN_HERE):
            act(engine)
        assert backend.contents() == before
        backend.admin.zrem("vs:{A}:locks", member)


def test_repair_is_named_by_its_own_name(engine: VoucherSessions, backend: Backend) -> None:
    backend.admin.set("vs:{A}", "hello")
    for verb in ("audit", "repair"):
        with pytest.raises(CorruptState, match=f"^{verb}: {NOT_WRITTEN_HERE}"):
            getattr(engine, verb)("A")

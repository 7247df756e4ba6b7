"""Which errors an engine raises for failed servers, lost connections and data that it did not write itself."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pytest
import redis
import redis.exceptions
from conftest import Backend

from core.stub_clients import CHANGING, READING, Stub, on_both
from voucher_sessions import (
    CorruptState,
    OutcomeUnknown,
    ServerRefused,
    Voucher,
    VoucherSessions,
)


@pytest.mark.parametrize("act", CHANGING)
@pytest.mark.parametrize("error", [redis.exceptions.ConnectionError, redis.exceptions.TimeoutError])
def test_a_lost_reply_of_a_changing_verb_is_an_unknown_outcome(act: methodcaller, error: type[Exception]) -> None:
    for seen in on_both(act, error("gone")):
        assert isinstance(seen, OutcomeUnknown)
        assert isinstance(seen, redis.exceptions.ConnectionError)
        assert seen.codes == ("A",)
        assert isinstance(seen.__cause__, error)


def test_an_unknown_outcome_carries_what_was_generated() -> None:
    for seen in on_both(CHANGING[2], redis.exceptions.ConnectionError("gone")):
        assert seen.session_key.startswith("ssn_")
        assert seen.redemption_id is None
    for seen in on_both(CHANGING[3], redis.exceptions.ConnectionError("gone")):
        assert seen.session_key == "cart"
        assert seen.redemption_id.startswith("rdm_")


@pytest.mark.parametrize("act", READING)
def test_a_lost_reply_of_a_reading_verb_is_the_clients_own_error(act: methodcaller) -> None:
    for seen in on_both(act, redis.exceptions.ConnectionError("gone")):
        assert type(seen) is redis.exceptions.ConnectionError


@pytest.mark.parametrize("act", CHANGING + READING)
@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ReadOnlyError("READONLY replica"),
        redis.exceptions.OutOfMemoryError("OOM command not allowed"),
        redis.exceptions.NoPermissionError("NOPERM"),
        redis.exceptions.ResponseError("BUSY Redis is busy"),
        redis.exceptions.ResponseError("MISCONF errors writing to disk"),
        redis.exceptions.ResponseError("NOREPLICAS not enough good replicas"),
        redis.exceptions.ResponseError("ERR whatever"),
    ],
    ids=str,
)
def test_an_error_of_the_server_is_raised_with_its_remedy(act: methodcaller, error: Exception) -> None:
    for seen in on_both(act, error):
        assert isinstance(seen, ServerRefused)
        assert isinstance(seen, redis.exceptions.ResponseError)
        assert (seen.codes, seen.__cause__) == (("A",), error)
        assert str(error) in str(seen)
        assert seen.remedy in str(seen)


def test_each_server_error_has_its_own_remedy() -> None:
    texts = {
        seen.remedy
        for error in (
            redis.exceptions.ReadOnlyError("replica"),
            redis.exceptions.OutOfMemoryError("command not allowed"),
            redis.exceptions.NoPermissionError("NOPERM"),
            redis.exceptions.ResponseError("BUSY Redis is busy"),
            redis.exceptions.ResponseError("MISCONF errors writing to disk"),
            redis.exceptions.ResponseError("NOREPLICAS not enough good replicas"),
            redis.exceptions.ResponseError("ERR whatever"),
        )
        for seen in on_both(READING[0], error)
    }
    assert len(texts) == 7


def test_a_refused_password_is_raised_unchanged() -> None:
    error = redis.exceptions.AuthenticationError("WRONGPASS")
    for act in CHANGING + READING:
        for seen in on_both(act, error):
            assert seen is error


NONSENSE: list[Any] = [
    None,
    [],
    b"OK",
    7,
    {},
    [b"nonsense"],
    [b"state"],
    [b"state", 1, 2, 3, 4],
    [b"state", b"x", 2, 3, 4, 5, 6, 7, 8, 9],
    [b"answered"],
    [b"answered", 5, b"", 0],
    [b"answered", 5, b"because", 0, 0, 0, 0, 0, 0, 0, 0],
    [b"answered", b"now", b"", 0, 0, 1, 1, 1, 5, 0, 0],
    [b"answered", 5, b"", 0, 0, 1, -1, 1, 0, 0, 0],
    [b"refused", 1],
    [b"refused", 0, 0, b"not_found", 0, 0, 0, 0, 0],
    [b"refused", 0, 0, b"", 0, 0, 0, 0, 0],
    [b"receipts"],
    [b"receipts", b"life 1 2"],
    [b"receipts", b"life x 0 0 5 call - key"],
    [b"receipts", 5],
    [b"released"],
    [b"deleted"],
    [b"sessions"],
    [b"sessions", 5, b"no member", 7],
    [b"sessions", 5, 6, 7],
    [b"voucher_missing", 9],
    [b"voucher_missing"],
    [b"voucher_missing", 0],
    [b"session_missing", None],
    [b"conflict", b"x"],
]


@pytest.mark.parametrize("act", CHANGING + READING)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_an_invalid_reply_is_corrupt_state(act: methodcaller, nonsense: Any) -> None:
    for seen in on_both(act, nonsense):
        assert isinstance(seen, CorruptState), seen


@pytest.mark.parametrize(
    ("act", "reply"),
    [
        (methodcaller("delete_voucher", "A"), [b"deleted", True]),
        (methodcaller("delete_voucher", "A"), (b"deleted", 1)),
        (methodcaller("delete_voucher", "A"), [b"deleted", 2]),
        (methodcaller("get_voucher", "A"), [b"state", -1, 0, 0, 0, 0, 0, 2**53, 0, 0]),
        (methodcaller("validate", "A"), [b"answered", 5, 0, 0, 0, 1, 1, 1, 0, 0, 0]),
        (methodcaller("validate", "A"), [b"answered", 5, b"", 1, 7, 1, 1, 1, 0, 0, 0]),
        (methodcaller("validate", "A"), [b"answered", 5, b"quantity_exceeded", 2, 7, 0, 1, 1, 0, 0, 0]),
        (methodcaller("validate", "A", session={"type": "LOCK"}), [b"answered", 5, b"", 0, 0, 1, 1, 1, 0, 0, 0]),
        (methodcaller("redeem", "A"), [b"refused", 0, 0, b"quantity_exceeded", 1, -7, 0, 1, 1]),
        (methodcaller("redeem", "A"), [b"refused", 0, 2**53, b"loyalty_card_points_exceeded", 0, 0, 1, 1, 1]),
    ],
)
def test_a_reply_that_contradicts_itself_is_corrupt_state(act: methodcaller, reply: Any) -> None:
    for seen in on_both(act, reply):
        assert isinstance(seen, CorruptState), seen


@pytest.mark.parametrize(
    ("act", "reply"),
    [
        (methodcaller("delete_voucher", "A"), [b"released", 1]),
        (methodcaller("release", "A", "cart"), [b"deleted", 1]),
        (methodcaller("get_voucher", "A"), [b"counted", -1, 0, 0, 0, 0, 0, 0, 0, 0]),
        (methodcaller("validate", "A"), [b"refused", 5, b"", 0, 0, 1, 1, 1, 0, 0, 0]),
        (methodcaller("list_sessions", "A"), [b"answered", 5]),
        (methodcaller("get_redemption", "A", "order"), [b"sessions", b"life 1 0 0 5 call - key"]),
    ],
)
def test_a_reply_to_another_verb_is_corrupt_state(act: methodcaller, reply: list[Any]) -> None:
    for seen in on_both(act, reply):
        assert isinstance(seen, CorruptState), seen


def test_a_reply_that_arrives_after_the_expiry_has_no_time_left() -> None:
    """A call that the client sent again finds its own lock as it was."""
    act = methodcaller("validate", "A", session={"type": "LOCK", "key": "cart"})
    for seen in on_both(act, [b"answered", 1005, b"", 0, 0, 1, 1, 1, 1000, 0, 0]):
        assert (seen.valid, seen.session.remaining_ms) == (True, 0)


def test_noscript_is_followed_by_one_eval() -> None:
    stub = Stub(redis.exceptions.NoScriptError("NOSCRIPT"), [b"deleted", 1])
    assert VoucherSessions(stub).delete_voucher("A") is True  # type: ignore[arg-type]  # a stand-in for a client: it has what engines use
    assert [args[0] for args in stub.sent] == ["EVALSHA", "EVAL"]
    assert stub.sent[0][2:] == stub.sent[1][2:]


def test_a_reply_that_asks_for_another_call_is_followed_by_one() -> None:
    stub = Stub([b"again"], [b"again"], [b"state", -1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert VoucherSessions(stub).get_voucher("A").quantity.limit is None  # type: ignore[arg-type]  # a stand-in for a client: it has what engines use
    assert len(stub.sent) == 3


def test_every_call_is_one_command() -> None:
    replies = {"validate": [b"answered", 5, b"", 0, 0, 1, 1, 1, 0, 0, 0], "delete_voucher": [b"deleted", 0]}
    for verb, reply in replies.items():
        stub = Stub(reply)
        getattr(VoucherSessions(stub), verb)("A")  # type: ignore[arg-type]  # a stand-in for a client: it has what engines use
        assert len(stub.sent) == 1


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
        ttl_ms = backend.keys()[key.encode()]
        backend.admin.delete(key)
        if value == "list":
            backend.admin.rpush(key, "someone else's")
        else:
            backend.admin.set(key, value)
        if ttl_ms > 0:
            backend.admin.pexpire(key, ttl_ms)
        return engine

    return write_foreign_value


@pytest.mark.parametrize("value", ["list", "some text", "5", "[1, 2]", "", '["a"," b",-5,0,0,0,0,0,0,0,0,0,0]'])
@pytest.mark.parametrize("act", [*ACTS, methodcaller("delete_voucher", "A")])
def test_a_foreign_value_at_the_vouchers_key_is_corrupt_state(
    engine_with_foreign_value: Callable[..., VoucherSessions], backend: Backend, act: methodcaller, value: str
) -> None:
    engine = engine_with_foreign_value("vs:{A}", value)
    before = backend.contents()
    with pytest.raises(CorruptState, match="'A'"):
        act(engine)
    assert backend.contents() == before


@pytest.mark.parametrize("act", [ACTS[3], ACTS[5], ACTS[6]])
def test_a_foreign_value_at_the_index_key_is_corrupt_state(
    engine_with_foreign_value: Callable[..., VoucherSessions], backend: Backend, act: methodcaller
) -> None:
    engine = engine_with_foreign_value("vs:{A}:locks")
    before = backend.contents()
    with pytest.raises(CorruptState, match="'A'"):
        act(engine)
    assert backend.contents() == before


@pytest.mark.parametrize("act", [ACTS[3], ACTS[5], ACTS[6]])
def test_a_foreign_value_at_a_session_key_is_corrupt_state(
    engine_with_foreign_value: Callable[..., VoucherSessions], backend: Backend, act: methodcaller
) -> None:
    engine = engine_with_foreign_value("vs:{A}:session:cart", "some text")
    before = backend.contents()
    with pytest.raises(CorruptState, match="'A'"):
        act(engine)
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
    with pytest.raises(CorruptState):
        act(engine)
    assert backend.contents() == before


def test_a_rollback_on_a_corrupt_voucher_changes_nothing(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> None:
    engine = make_engine()
    engine.put_voucher(Voucher(code="A", credits=50))
    engine.redeem("A", credits=40, redemption_id="order")
    book = backend.admin.get("vs:{A}")
    backend.admin.set("vs:{A}", "some text")
    with pytest.raises(CorruptState):
        engine.rollback("A", "order")
    backend.admin.set("vs:{A}", book)  # type: ignore[arg-type]  # what was read
    assert engine.rollback("A", "order").replayed is False
    assert engine.get_voucher("A").credits.used == 0


def test_a_foreign_expired_index_member_is_corrupt_state(
    make_engine: Callable[..., VoucherSessions], backend: Backend
) -> None:
    engine = make_engine()
    engine.put_voucher(Voucher(code="A", credits=50))
    engine.validate("A", session={"type": "LOCK", "key": "stays"})
    engine.validate("A", session={"type": "LOCK", "key": "goes", "ttl": 5, "ttl_unit": "MILLISECONDS"})
    backend.admin.zadd("vs:{A}:locks", {"nonsense": 5})
    backend.clock.advance(6)
    before = backend.contents()
    with pytest.raises(CorruptState):
        engine.validate("A")
    assert backend.contents() == before


def test_a_refused_password_that_redis_asyncio_wraps_is_no_unknown_outcome() -> None:
    error = redis.exceptions.ConnectionError("invalid username-password pair")
    error.__cause__ = redis.exceptions.AuthenticationError("WRONGPASS")
    for act in CHANGING + READING:
        for seen in on_both(act, error):
            assert seen is error

"""Bad input raises ``InvalidRequest`` with the name of the field, before any command is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any

import fakeredis
import pydantic
import pytest
from support import untyped

from voucher_sessions import (
    AsyncVoucherSessions,
    InvalidRequest,
    Redeemable,
    Session,
    Used,
    Voucher,
    VoucherSessions,
)
from voucher_sessions._core import requests
from voucher_sessions.models import checked_model

NAN = float("nan")
INFINITE = float("inf")
NOT_TEXT: list[Any] = ["", " ", "\t\n ", "x" * 257, 5, b"bytes", None, True, ["a"], "lone \ud800 surrogate"]
NOT_AMOUNTS: list[Any] = [-1, 2**53, 10**6000, 1.0, "5", True, False, NAN, INFINITE, [], b"5"]
NOT_TTLS: list[Any] = [
    0,
    -1,
    0.0,
    -0.5,
    NAN,
    INFINITE,
    -INFINITE,
    "7",
    True,
    [],
    3651,
    3650.0001,
    365_000_000,
    10**5000,
]
BAD_SESSIONS: list[tuple[str, Any]] = [
    ("session.type", {}),
    ("session.type", {"key": "k"}),
    ("session.type", {"type": None}),
    ("session.type", {"type": "lock"}),
    ("session.type", {"type": "HOLD"}),
    ("session.type", {"type": 5}),
    ("session.key", {"type": "LOCK", "key": ""}),
    ("session.key", {"type": "LOCK", "key": "  "}),
    ("session.key", {"type": "LOCK", "key": "x" * 257}),
    ("session.key", {"type": "LOCK", "key": 7}),
    ("session.key", {"type": "LOCK", "key": b"k"}),
    ("session.key", {"type": "LOCK", "key": "\udfff"}),
    *(("session.ttl", {"type": "LOCK", "ttl": ttl, "ttl_unit": "DAYS"}) for ttl in NOT_TTLS),
    ("session.ttl", {"type": "LOCK", "ttl": 1e300, "ttl_unit": "NANOSECONDS"}),
    ("session.ttl", {"type": "LOCK", "ttl": 5}),
    ("session.ttl", {"type": "LOCK", "ttl_unit": "DAYS"}),
    ("session.ttl_unit", {"type": "LOCK", "ttl": 5, "ttl_unit": "days"}),
    ("session.ttl_unit", {"type": "LOCK", "ttl": 5, "ttl_unit": "WEEKS"}),
    ("session.ttl_unit", {"type": "LOCK", "ttl": 5, "ttl_unit": 1}),
    ("session.ttlunit", {"type": "LOCK", "ttlunit": "DAYS"}),
    ("session.self", {"type": "LOCK", "self": 1}),
    ("session", {"type": "LOCK", 5: 6}),
    ("session", "LOCK"),
    ("session", ["LOCK"]),
    ("session", 5),
    ("session", True),
]

BAD_CALLS: list[tuple[str, methodcaller]] = []


def bad(field: str, verb: str, *args: Any, **kwargs: Any) -> None:
    BAD_CALLS.append((field, methodcaller(verb, *args, **kwargs)))


def _keyed(session: Any) -> Any:
    """The session object with a key, so that the error is about what else is wrong with it."""
    return {"key": "k", **session} if isinstance(session, dict) else session


for text in NOT_TEXT:
    for verb, others in (
        ("validate", ()),
        ("redeem", ()),
        ("release", ("k",)),
        ("rollback", ("id",)),
        ("get_voucher", ()),
        ("delete_voucher", ()),
        ("list_sessions", ()),
        ("get_redemption", ("id",)),
    ):
        bad("code", verb, text, *others)
    bad("session_key", "release", "A", text)
    bad("redemption_id", "rollback", "A", text)
    bad("redemption_id", "get_redemption", "A", text)
    if text is not None:
        bad("redemption_id", "redeem", "A", redemption_id=text)
        bad("session", "redeem", "A", session=text)
for amount in NOT_AMOUNTS:
    for verb in ("validate", "redeem"):
        bad("credits", verb, "A", credits=amount)
        bad("points", verb, "A", points=amount)
bad("credits", "validate", "A", credits=None)
bad("points", "validate", "A", points=None)
for field, session in BAD_SESSIONS:
    bad(field, "validate", "A", session=session)
    if field not in ("session.type", "session.ttl", "session.ttl_unit") and session != "LOCK":
        bad(field, "redeem", "A", session=_keyed(session))  # redeem looks at the key alone
bad("session.key", "redeem", "A", session={"type": "LOCK"})
bad("session.key", "redeem", "A", session=Session())
bad("session.type", "validate", "A", session=Session(key="k"))
for choice in ("RAISE", "", None, True, 1):
    bad("if_session_missing", "redeem", "A", if_session_missing=choice)
for limit in (0, -1, 10_001, 1.0, "5", None, True):
    bad("limit", "list_sessions", "A", limit=limit)
for voucher in ("A", {"code": "A"}, None):
    bad("voucher", "put_voucher", voucher)
bad("used", "put_voucher", Voucher(code="A"), used={"quantity": 1})
bad("used", "put_voucher", Voucher(code="A"), used=5)
for text in NOT_TEXT:
    bad("code", "adjust", text, credits=5)
    bad("code", "rollback", text, "id", credits=5)
    bad("redemption_id", "rollback", "A", text, credits=5)
    if text is not None:
        bad("adjustment_id", "adjust", "A", credits=5, adjustment_id=text)
        bad("rollback_id", "rollback", "A", "id", credits=5, rollback_id=text)
for name in ("quantity", "credits", "points"):
    for change in (*NOT_AMOUNTS[1:], -(2**53), -(10**6000), -1.0, None):
        bad(name, "adjust", "A", **{name: change})
for name in ("credits", "points"):
    for amount in NOT_AMOUNTS:
        bad(name, "rollback", "A", "id", **{name: amount})
for zero in ({}, {"quantity": 0}, {"quantity": 0, "credits": 0, "points": 0}):
    bad("quantity", "adjust", "A", **zero)
for zero in ({"credits": 0}, {"points": 0}, {"credits": 0, "points": 0}):
    bad("credits", "rollback", "A", "id", **zero)
    bad("credits", "rollback", "A", "id", **zero, rollback_id="id")
bad("rollback_id", "rollback", "A", "id", rollback_id="id")


class UncallableClient:
    """A client that must not be called."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("a command was sent")


class AsyncUncallableClient:
    """The same for asyncio."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("a command was sent")


@pytest.mark.parametrize(("field", "act"), BAD_CALLS)
def test_bad_input_names_the_field_and_sends_nothing(field: str, act: methodcaller) -> None:
    with pytest.raises(InvalidRequest) as refused:
        act(untyped.VoucherSessions(UncallableClient()))
    assert refused.value.field == field
    assert refused.value.problem
    assert str(refused.value) == f"{field}: {refused.value.problem}"
    assert isinstance(refused.value, ValueError)

    with pytest.raises(InvalidRequest) as refused_async:
        asyncio.run(act(untyped.AsyncVoucherSessions(AsyncUncallableClient())))
    assert str(refused_async.value) == str(refused.value)


@pytest.mark.parametrize("text", [text for text in NOT_TEXT if isinstance(text, str) and len(text.strip()) > 1])
def test_an_error_never_repeats_a_session_key(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        untyped.VoucherSessions(UncallableClient()).validate("A", session={"type": "LOCK", "key": text})
    assert text not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "field", "data"),
    [
        (Voucher, "code", {}),
        *((Voucher, "code", {"code": text}) for text in NOT_TEXT),
        *((Voucher, name, {"code": "A", name: amount}) for name in ("quantity", "credits") for amount in NOT_AMOUNTS),
        (Voucher, "credits", {"code": "A", "credits": None}),
        (Voucher, "points", {"code": "A", "points": None}),
        (Voucher, "kredits", {"code": "A", "kredits": 5}),
        *(
            (Used, name, {name: amount})
            for name in ("quantity", "credits", "points")
            for amount in (*NOT_AMOUNTS, None)
        ),
        *((Redeemable, "points", {"code": "A", "points": amount}) for amount in NOT_AMOUNTS),
        (Session, "ttl", {"ttl": 5}),
        (Session, "type", {"type": "HOLD"}),
    ],
)
def test_a_request_model_is_refused_when_it_is_made(model: type[Any], field: str, data: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        model(**data)
    assert refused.value.field == field


def test_inside_a_hosts_model_the_error_is_part_of_that_models_error() -> None:
    class Body(pydantic.BaseModel):
        session: Session

    assert Body.model_validate({"session": {"type": "LOCK", "key": "k"}}).session.key == "k"
    with pytest.raises(pydantic.ValidationError, match="ttl and ttl_unit must be given together"):
        Body.model_validate({"session": {"type": "LOCK", "ttl": 5}})


@pytest.mark.parametrize("ttl", [0, -5, NAN, "5", True])
def test_a_receipt_ttl_is_a_duration(ttl: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        VoucherSessions(fakeredis.FakeRedis(), receipt_ttl=ttl)
    assert refused.value.field == "receipt_ttl"


def test_each_engine_refuses_the_other_kinds_client() -> None:
    with pytest.raises(InvalidRequest, match="is an asyncio client: use AsyncVoucherSessions"):
        untyped.VoucherSessions(fakeredis.FakeAsyncRedis())
    with pytest.raises(InvalidRequest, match="is a sync client: use VoucherSessions"):
        untyped.AsyncVoucherSessions(fakeredis.FakeRedis())
    with pytest.raises(InvalidRequest, match="from_url"):
        untyped.VoucherSessions("redis://localhost")


def test_a_partition_is_a_function_to_text() -> None:
    with pytest.raises(InvalidRequest, match="partition"):
        untyped.VoucherSessions(fakeredis.FakeRedis(), partition="A")
    engine = VoucherSessions(fakeredis.FakeRedis(), partition=lambda code: "")
    with pytest.raises(InvalidRequest, match=r"partition\(code\)"):
        engine.get_voucher("A")


class Unreadable:
    """As a proxy without what it stands for: even its class cannot be asked for."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        raise ZeroDivisionError


class LyingText(str):
    """Sends itself as another text."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"B}:session:x"

    def replace(self, *_: Any) -> str:
        return "B"


class LyingNumber(int):
    """Is compared as another number than it is."""

    def __le__(self, _: object) -> bool:
        return True

    def __index__(self) -> int:
        return -5


class EndlessSequence(Sequence[Any]):
    """Says that it has one item, and always has one more."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: Any) -> Any:
        return f"code-{at}"


class UnreadableRedeemable(Redeemable):
    """A model whose fields cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise ZeroDivisionError
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("field", "act"),
    [
        ("code", methodcaller("get_voucher", Unreadable())),
        ("session", methodcaller("validate", "A", session=Unreadable())),
        ("session", methodcaller("validate", "A", session={Unreadable: "LOCK"})),
        ("session.type", methodcaller("validate", "A", session={"key": "k", "type": Unreadable()})),
        (
            "session.ttl",
            methodcaller("validate", "A", session={"type": "LOCK", "ttl": Unreadable(), "ttl_unit": "DAYS"}),
        ),
        ("session.Session", methodcaller("validate", "A", session={"type": "LOCK", "\ud800": 1})),
        ("session.key", methodcaller("redeem", "A", session=Session(key="k").model_copy(update={"key": 5}))),
        ("session.key", methodcaller("redeem", "A", session=Session.__new__(Session))),
        ("codes", methodcaller("release_stack", Unreadable(), "k")),
        ("codes", methodcaller("release_stack", EndlessSequence(), "k")),
        ("codes", methodcaller("release_stack", "ABC", "k")),
        ("redeemables.0", methodcaller("redeem_stack", [UnreadableRedeemable(code="A")])),
        ("redeemables.0", methodcaller("redeem_stack", [b"A"])),
        (
            "redeemables.0.credits",
            methodcaller("redeem_stack", [Redeemable(code="A").model_copy(update={"credits": -5})]),
        ),
        ("voucher.credits", methodcaller("put_voucher", Voucher.model_construct(code="A", credits=-5))),
        ("used.points", methodcaller("put_voucher", Voucher(code="A"), used=Used.model_construct(points=1.5))),
    ],
)
def test_objects_that_cannot_be_read_or_were_never_checked(field: str, act: methodcaller) -> None:
    test_bad_input_names_the_field_and_sends_nothing(field, act)


class TimeLimit(Exception):
    """What a signal handler raises."""


class InterruptedOnce:
    """A validator during whose first run a signal handler raises."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator
        self._interrupted = False

    def validate_python(self, *args: Any, **options: Any) -> Any:
        if not self._interrupted:
            self._interrupted = True
            raise TimeLimit
        return self._validator.validate_python(*args, **options)


def test_an_error_that_is_not_about_the_value_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Voucher(code="A")
    creations: list[Callable[[], Voucher]] = [
        lambda: Voucher(code="A"),
        lambda: checked_model("voucher", Voucher, given),
    ]
    for create in creations:
        with monkeypatch.context() as patched:
            patched.setattr(Voucher, "__pydantic_validator__", InterruptedOnce(Voucher.__pydantic_validator__))
            with pytest.raises(TimeLimit):
                create()


@pytest.mark.parametrize(
    "check",
    [
        lambda: requests.stack_requests(["A"]),
        lambda: requests.stack_requests(("A",)),
        lambda: requests.check_released_codes("release", ["A"]),
        lambda: requests.session_key({"key": "cart"}),
    ],
)
def test_plain_values_are_never_blamed_for_a_signal(check: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Any:
        raise TimeLimit

    monkeypatch.setattr(requests, "islice", interrupted)
    with pytest.raises(TimeLimit):
        check()


def test_a_partition_is_not_blamed_for_a_signal() -> None:
    looked_at: list[str] = []

    def of_code(code: str) -> str:
        looked_at.append(code)
        if len(looked_at) == 3:
            raise TimeLimit
        return code

    with fakeredis.FakeRedis() as client, pytest.raises(TimeLimit):
        VoucherSessions(client, partition=of_code)


def test_subclasses_of_str_and_int_are_read_as_their_plain_value() -> None:
    with fakeredis.FakeRedis() as client:
        engine = VoucherSessions(client, prefix=LyingText("vs"), partition=lambda _: LyingText("P"))
        engine.put_voucher(Voucher(code=LyingText("A"), credits=LyingNumber(9)))
        session: dict[str, object] = {LyingText("type"): "LOCK", "key": LyingText("k")}
        session |= {"ttl": LyingNumber(5), "ttl_unit": "DAYS"}
        engine.validate(LyingText("A"), credits=LyingNumber(5), session=session)
        assert engine.list_sessions("A", limit=LyingNumber(5))[0].remaining_ms > 4 * 86_400_000
        assert engine.redeem("A", session=LyingText("k"), redemption_id=LyingText("order")).credits == 5
        rolled_back = engine.rollback("A", LyingText("order"), credits=LyingNumber(2), rollback_id=LyingText("refund"))
        assert {type(each) for each in dict(rolled_back).values()} == {str, int, bool}
        assert client.exists("vs:{P}{A}", "vs:{P}{A}:redemption:order") == 2


def test_an_unreadable_object_is_refused_as_client_and_as_url() -> None:
    hostile: Any = Unreadable()
    for engine in (VoucherSessions, AsyncVoucherSessions):
        with pytest.raises(InvalidRequest, match="client"):
            engine(hostile)
        for url in (hostile, "redis://h?max_connections=-5", "redis+sentinel://h/till?sentinels=4"):
            with pytest.raises(InvalidRequest, match="url"):
                engine.from_url(url)
        with pytest.raises(ValueError, match="max_connections"):
            engine.from_url("redis://h", max_connections=-5)

"""Models and errors by themselves: units, dumps, what a repr shows, what a pickle keeps."""

from __future__ import annotations

import asyncio
import inspect
import math
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import fakeredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voucher_sessions import (
    ActiveSession,
    AsyncVoucherSessions,
    CorruptState,
    CrossSlotStack,
    EmbeddedServerError,
    GiftAmountExceeded,
    InvalidRequest,
    NotDurable,
    OutcomeUnknown,
    RedemptionConflict,
    RedemptionNotFound,
    ServerRefused,
    ServerUnavailable,
    Session,
    SessionFields,
    SessionNotFound,
    SessionType,
    TtlUnit,
    Validation,
    Voucher,
    VoucherNotFound,
    VoucherSessions,
    VoucherSessionsError,
)
from voucher_sessions._core import replies, requests
from voucher_sessions._core.keys import Keys
from voucher_sessions._core.requests import random_text
from voucher_sessions._core.verbs import Verbs
from voucher_sessions.models import MAX_TTL_MS, ttl_in_ms

POLICY = requests.ttl_policy(None, None)
NANOSECONDS = {
    TtlUnit.DAYS: 86_400 * 10**9,
    TtlUnit.HOURS: 3_600 * 10**9,
    TtlUnit.MINUTES: 60 * 10**9,
    TtlUnit.SECONDS: 10**9,
    TtlUnit.MILLISECONDS: 10**6,
    TtlUnit.MICROSECONDS: 10**3,
    TtlUnit.NANOSECONDS: 1,
}


@given(st.integers(1, 10**20), st.sampled_from(TtlUnit))
def test_whole_ttls_are_rounded_up_to_ms(ttl: int, unit: TtlUnit) -> None:
    ms = ttl_in_ms(ttl, unit)
    assert (ms - 1) * 10**6 < ttl * NANOSECONDS[unit] <= ms * 10**6


@pytest.mark.parametrize(
    ("ttl", "unit", "ms"),
    [
        (0.001, "SECONDS", 1),  # as a double it is a hair above 0.001
        (0.1, "SECONDS", 100),
        (1.001, "SECONDS", 1001),
        (0.0000001, "DAYS", 9),
        (5e-324, "NANOSECONDS", 1),
        (1e-9, "SECONDS", 1),
        (1.5, "MILLISECONDS", 2),
        (1_000_001, "NANOSECONDS", 2),
        (3650.0, "DAYS", MAX_TTL_MS),
    ],
)
def test_fractional_ttls_count_as_the_decimals_that_they_print_as(ttl: float, unit: str, ms: int) -> None:
    assert ttl_in_ms(Session(ttl=ttl, ttl_unit=TtlUnit(unit)).ttl or 0, TtlUnit(unit)) == ms


@given(st.floats(1e-6, 1e9), st.sampled_from(TtlUnit))
@example(0.3, TtlUnit.SECONDS)
def test_fractional_ttls_are_never_cut(ttl: float, unit: TtlUnit) -> None:
    assert ttl_in_ms(ttl, unit) >= ttl * NANOSECONDS[unit] / 10**6 * (1 - 1e-12)


@pytest.mark.parametrize("ttl_unit", list(TtlUnit))
def test_the_longest_ttl_is_3650_days_in_every_unit(ttl_unit: TtlUnit) -> None:
    longest = MAX_TTL_MS * 10**6 // NANOSECONDS[ttl_unit]
    assert Session(ttl=longest, ttl_unit=ttl_unit).ttl == longest
    with pytest.raises(InvalidRequest, match="3,650 days"):
        Session(ttl=longest + 1, ttl_unit=ttl_unit)


def test_results_dump_to_a_response_body() -> None:
    with VoucherSessions.from_url("memory://") as engine:
        engine.put_voucher(Voucher(code="A", credits=10))
        answer = engine.validate("A", credits=4, session={"type": "LOCK", "key": "cart", "ttl": 7, "ttl_unit": "DAYS"})
        body = answer.model_dump(mode="json")
        expires_at = body["session"].pop("expires_at")
        assert body == {
            "code": "A",
            "valid": True,
            "reason": None,
            "locked_by_others": False,
            "retry_after_ms": None,
            "available": {"quantity": None, "credits": 10, "points": 0},
            "session": {
                "key": "cart",
                "type": "LOCK",
                "quantity": 1,
                "credits": 4,
                "points": 0,
                "remaining_ms": 604_800_000,
                "ttl": 7,
                "ttl_unit": "DAYS",
            },
        }
        assert expires_at.endswith("Z")
        assert Validation.model_validate_json(answer.model_dump_json()) == answer
        redeemed = engine.redeem("A", session="cart", redemption_id="order")
        assert redeemed.model_dump(mode="json")["redeemed_at"].endswith("Z")


def test_results_and_requests_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Voucher(code="A").code = "B"
    with VoucherSessions.from_url("memory://") as engine:
        state = engine.put_voucher(Voucher(code="A"))
        with pytest.raises(ValueError, match="frozen"):
            state.code = "B"


KEY = "ssn_yQGMTeKBSw8OOuFPwlBEjzGy8d8VA9Ts"
ERRORS: list[VoucherSessionsError] = [
    InvalidRequest("session.ttl", "must be above 0"),
    CrossSlotStack((("A", "B"), ("C",))),
    VoucherNotFound("A"),
    SessionNotFound(KEY, "A", "B"),
    RedemptionNotFound("A", "order"),
    GiftAmountExceeded("A", "gift_amount_exceeded", requested=5, available=2, locked_by_others=True, retry_after_ms=40),
    RedemptionConflict("A", "order"),
    OutcomeUnknown("redeem", ("A",), session_key=KEY, redemption_id="order"),
    NotDurable("redeem", "no replica confirmed it", True),
    CorruptState("nonsense"),
    EmbeddedServerError(Path("folder"), "no disk"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_with_their_facts(error: VoucherSessionsError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_error_text_shows_a_session_key(error: VoucherSessionsError) -> None:
    assert KEY not in str(error)
    assert KEY not in repr(error)


def test_no_repr_shows_a_session_key() -> None:
    with VoucherSessions.from_url("memory://") as engine:
        engine.put_voucher(Voucher(code="A", credits=10))
        session: SessionFields = {"type": "LOCK", "key": KEY}
        results: list[Any] = [Session.model_validate(session), engine.validate("A", session=session)]
        results += [engine.list_sessions("A"), engine.release("A", KEY)]
        results += [engine.redeem("A", credits=0, session=KEY, if_session_missing="redeem", redemption_id="order")]
        assert KEY not in repr(results)
        assert KEY not in str(results[1])
        assert isinstance(results[2][0], ActiveSession)


def test_a_short_session_key_is_not_shown_in_full_either() -> None:
    assert "'k1'" not in str(SessionNotFound("k1", "A"))


def test_random_text_is_letters_and_digits_of_the_length_asked_for() -> None:
    texts = [random_text(32) for _ in range(200)]
    assert len(set(texts)) == 200
    assert {len(text) for text in texts} == {32}
    assert len(set("".join(texts))) == 62


SESSION_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["LOCK", SessionType.LOCK, None, "lock", 5, True, b"LOCK"]),
    "key": st.sampled_from(["cart", "x" * 256, "a b", None, "", " ", "x" * 257, 7, b"cart", TtlUnit.DAYS]),
    "ttl": st.sampled_from([1, 7, 7.0, 0.5, True, 1.0, None, 0, -1, 3651, math.nan, math.inf, "7", b"7"]),
    "ttl_unit": st.sampled_from(["DAYS", TtlUnit.DAYS, "NANOSECONDS", TtlUnit.SECONDS, None, "days", 7, b"DAYS"]),
    "other": st.just("x"),
}


@given(st.fixed_dictionaries({}, optional=SESSION_VALUES))
@example({"type": "LOCK", "key": TtlUnit.DAYS})
@example({"type": "LOCK", "key": "cart", "ttl": 1, "ttl_unit": "DAYS"})
@example({"type": "LOCK", "key": "cart", "ttl": True, "ttl_unit": "DAYS"})
@example({"type": "LOCK", "key": "cart", "ttl": 1.0, "ttl_unit": "DAYS"})
def test_the_fast_and_the_slow_parser_of_a_session_agree(session: dict[str, Any]) -> None:
    """One takes plain values in a dict or a Session; a mapping of another class takes the other."""

    def outcome_of(session: Any) -> object:
        try:
            lock = requests.session_request(session, POLICY)
        except InvalidRequest as error:
            return error.field, error.problem
        return lock._replace(key=session.get("key") or lock.key[:4]), *map(type, lock)

    assert outcome_of(session) == outcome_of(session) == outcome_of(MappingProxyType(session))
    with suppress(InvalidRequest):
        made = Session(**session)
        assert outcome_of(session) == outcome_of(MappingProxyType(session))
        if made.type:
            assert requests.session_request(made, POLICY)[1:] == requests.session_request(session, POLICY)[1:]


def test_the_fast_parser_of_a_session_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: dict[str, Any] = {"type": "LOCK", "key": "cart", "ttl": 5, "ttl_unit": "HOURS"}
    expected = requests.SessionRequest("cart", 5, TtlUnit.HOURS, 5 * 3_600_000)
    other: Any = MappingProxyType(plain)
    assert requests.session_request(other, POLICY) == expected
    sessions: list[Any] = [plain, Session(**plain)]
    requests.session_request(plain, POLICY)
    monkeypatch.setattr(requests, "_session", None)  # the slow way
    assert [requests.session_request(session, POLICY) for session in sessions] == [expected, expected]


def test_a_call_shows_its_vouchers_and_no_key() -> None:
    """It stands in the tracebacks of debuggers and loggers."""
    calls = Verbs(Keys("vs"), None)
    assert repr(calls.release_stack(["A", "B"], "ssn_secret")) == "<release_stack of 'A', 'B'>"
    assert "secret" not in repr(calls.redeem("A", None, None, "ssn_secret", None, "raise"))


def test_both_engines_have_the_same_verbs_with_the_same_parameters() -> None:
    def verbs(engine: type[Any]) -> dict[str, list[inspect.Parameter]]:
        found = inspect.getmembers(engine, inspect.isfunction)
        return {
            name: list(inspect.signature(verb).parameters.values())
            for name, verb in found
            if not name.startswith("_") and "close" not in name
        }

    assert verbs(VoucherSessions) == verbs(AsyncVoucherSessions)
    for engine in (VoucherSessions, AsyncVoucherSessions):
        assert all(getattr(engine, name).__doc__ for name in verbs(engine))


def test_a_client_passed_to_the_engine_stays_open() -> None:
    """``close`` closes only what the engine itself opened."""
    client = fakeredis.FakeRedis()
    with VoucherSessions(client) as engine:
        assert engine.client is client
    assert client.ping()

    async def main() -> None:
        waiting = fakeredis.FakeAsyncRedis()
        async with AsyncVoucherSessions(waiting) as engine:
            assert engine.client is waiting
        assert await waiting.ping()
        await waiting.aclose()

    asyncio.run(main())
    client.close()


FIGURES = st.sampled_from([0, 1, 5, -1, 2**53 - 1, 2**53, b"", b"quantity_exceeded", b"not_found", b"unknown"])


@given(st.just([b"answered", 7]) | st.just([b"unknown", 7]), st.lists(FIGURES, min_size=8, max_size=10), st.booleans())
@example([b"answered", 7], [b"", 0, 0, -1, 5, 5, 9, 5, 0], True)
@example([b"answered", 7], [b"quantity_exceeded", 1, 5, 0, 5, 5, 9, 5, 0], True)
@example([b"answered", 7], [b"", 0, 0, 0, 0, 0, 2**53 - 1, 0, 0], True)  # a time after the year 9999
def test_the_reply_for_one_voucher_is_read_like_that_for_a_stack(
    begin: list[Any], row: list[Any], with_lock: bool
) -> None:
    """The short way, and the way of a list."""
    lock = requests.session_request({"type": "LOCK", "key": "k"}, POLICY) if with_lock else None

    def outcome(read: Callable[..., Any]) -> Any:
        try:
            return read(("A",), lock, begin + row)
        except (TypeError, ValueError, LookupError, ArithmeticError):  # what a call turns into CorruptState
            return "refused"

    assert outcome(lambda *reply: [replies.only_validation(*reply)]) == outcome(replies.validations)


def test_what_the_server_or_the_client_said_is_shown_without_credentials() -> None:
    said = "Error 111 connecting to https://user:secret@vault/role; try redis://:other@host:6379/0"
    for error in (ServerUnavailable("redeem", ["A"], said), ServerRefused("redeem", ["A"], said, "Try again.")):
        for text in (str(error), repr(error), error.problem, str(error.args)):
            assert "secret" not in text
            assert "other" not in text
            assert "vault/role" in text


def test_a_sentinel_that_does_not_answer_is_shown_without_its_options() -> None:
    """As redis-py 6 and 7 say it."""
    client = "<redis.client.Redis(<redis.connection.ConnectionPool(<redis.connection.Connection(db=0,password={})>)>)>"
    why = "ConnectionError('Error 111 connecting to 127.0.0.1:1. Connection refused.')"
    said = f"No master found for 'till' : {client.format('se(c)>ret')} - {why}, {client.format('other')} - {why}"
    assert ServerUnavailable("ping", [], said).problem == f"No master found for 'till' : <client> - {why}"

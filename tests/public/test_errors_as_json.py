"""Errors travel as JSON: ``type(error)(*json.loads(json.dumps(error.args)))`` is the same error with the same text."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import voucher_sessions
from voucher_sessions import (
    ActiveSession,
    Adjustment,
    AdjustmentConflict,
    AdjustmentRefused,
    AmountRequired,
    Available,
    Balance,
    CorruptState,
    CrossSlotStack,
    EmbeddedServerError,
    GiftAmountExceeded,
    InvalidRequest,
    LimitExceeded,
    LoyaltyPointsExceeded,
    NotDurable,
    OutcomeUnknown,
    QuantityExceeded,
    Redemption,
    RedemptionConflict,
    RedemptionNotFound,
    RedemptionRolledBack,
    Release,
    Rollback,
    RollbackExceeded,
    ServerRefused,
    ServerUnavailable,
    SessionNotFound,
    SessionType,
    StackRedemption,
    StackValidation,
    UnknownFormat,
    Validation,
    Voucher,
    VoucherExists,
    VoucherNotFound,
    VoucherSessions,
    VoucherSessionsError,
    VoucherState,
)

KEY = "ssn_yQGMTeKBSw8OOuFPwlBEjzGy8d8VA9Ts"
RECEIPT = Redemption(
    id="order",
    code="A",
    session_key=KEY,
    quantity=1,
    credits=5,
    points=0,
    redeemed_at=datetime(2026, 11, 21, 12, 30, 15, 123_000, UTC),
    rolled_back=True,
    credits_rolled_back=5,
    points_rolled_back=0,
    replayed=True,
)
ZERO = Balance(limit=0, used=0, locked=0, available=0)
TOP_UP = Adjustment(
    id="topup",
    code="A",
    quantity=0,
    credits=50,
    points=-2,
    voucher=VoucherState(
        code="A", quantity=Balance(limit=None, used=1, locked=0, available=None), credits=ZERO, points=ZERO
    ),
    replayed=False,
)
REFUND = Rollback(code="A", redemption_id="order", id="refund", quantity=0, credits=5, points=0, replayed=False)
SESSION = ActiveSession(
    key=KEY,
    type=SessionType.LOCK,
    quantity=1,
    credits=5,
    points=0,
    expires_at=datetime(2026, 11, 21, 12, 45, tzinfo=UTC),
    remaining_ms=900_000,
)
LOCKED = Validation(
    code="A",
    valid=True,
    reason=None,
    locked_by_others=False,
    retry_after_ms=None,
    available=Available(quantity=1, credits=5, points=0),
    session=SESSION,
)
REFUSED = LOCKED.model_copy(update={"valid": False, "reason": "not_found", "session": None})
RELEASED = Release(code="A", session_key=KEY, released=True, ended=False)
NOT_LIVE = Release(code="B", session_key=KEY, released=False, ended=True)
PAID = RECEIPT.model_copy(update={"replayed": False})
STATE = VoucherState(code="A", quantity=ZERO, credits=ZERO, points=ZERO)
QUANTITY = QuantityExceeded("A", "quantity_exceeded", 1, 0, False, None)
POINTS = LoyaltyPointsExceeded("B", "loyalty_card_points_exceeded", 7, 3, True, 1500)
ERRORS: list[VoucherSessionsError] = [
    VoucherSessionsError("of the application's own"),
    InvalidRequest("session.ttl", "must be above 0"),
    CrossSlotStack((("A", "B"), ("C",))),
    VoucherNotFound("A", "Ä"),
    VoucherExists("A"),
    SessionNotFound(KEY, "A", "B"),
    ServerUnavailable("ping", (), "Connection refused"),
    RedemptionNotFound("A", "order"),
    AmountRequired("A", "B"),
    LimitExceeded("A", "quantity_exceeded", 1, 0, False, None),
    QUANTITY,
    GiftAmountExceeded("A", "gift_amount_exceeded", 5, 2, True, 40, others=[POINTS, QUANTITY]),
    POINTS,
    AdjustmentRefused("A", "credits", 100, -101),
    AdjustmentRefused("A", "quantity", None, 1),
    AdjustmentConflict("A", "topup"),
    RollbackExceeded("A", "order", "points", 7, 3),
    RedemptionConflict("A", "order"),
    RedemptionConflict("A", "order", "refund"),
    RedemptionRolledBack("A", "order", RECEIPT),
    OutcomeUnknown("redeem", ("A",), session_key=KEY, redemption_id="order"),
    OutcomeUnknown("validate", ("A",), session_key=KEY),
    OutcomeUnknown("rollback", ("A",), redemption_id="order", rollback_id="refund"),
    OutcomeUnknown("adjust", ("A",), adjustment_id="topup"),
    OutcomeUnknown("delete_voucher", ("A",)),
    OutcomeUnknown("put_voucher", ("A",)),
    ServerRefused("redeem", ("A", "B"), "OOM command not allowed", "raise maxmemory"),
    NotDurable("delete_voucher", "no replica confirmed it", True),
    NotDurable("redeem", "no replica confirmed it", RECEIPT),
    NotDurable("adjust", "no replica confirmed it", TOP_UP),
    NotDurable("rollback", "no replica confirmed it", REFUND),
    NotDurable("release_stack", "no replica confirmed it", [RELEASED, NOT_LIVE]),
    NotDurable("validate", "no replica confirmed it", LOCKED),
    NotDurable("validate", "no replica confirmed it", REFUSED),
    NotDurable("put_voucher", "no replica confirmed it", STATE),
    NotDurable("extend", "no replica confirmed it", SESSION),
    NotDurable("put_voucher", "no replica confirmed it", [True, STATE]),
    NotDurable("import_redemption", "no replica confirmed it", [False, RECEIPT]),
    NotDurable("redeem", "no replica confirmed it", None),
    CorruptState("nonsense"),
    UnknownFormat("redeem of 'A'", 2),
    EmbeddedServerError(Path("folder"), "no disk"),
]
by_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


def facts(error: VoucherSessionsError) -> dict[str, Any]:
    """The attributes, those of errors inside them too: an error equals only itself."""
    return {name: [facts(each) for each in value] if name == "others" else value for name, value in vars(error).items()}


def test_every_error_is_tried() -> None:
    found = {getattr(voucher_sessions, name) for name in voucher_sessions.__all__}
    assert {kind for kind in found if isinstance(kind, type) and issubclass(kind, VoucherSessionsError)} == set(
        map(type, ERRORS)
    )


@by_error
def test_as_json(error: VoucherSessionsError) -> None:
    copy = type(error)(*json.loads(json.dumps(error.args)))
    assert (str(copy), repr(copy), copy.args) == (str(error), repr(error), error.args)
    assert facts(copy) == facts(error)


@by_error
def test_as_pickle(error: VoucherSessionsError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), repr(copy)) == (str(error), repr(error))
    assert facts(copy) == facts(error)


@by_error
def test_a_text_is_one_for_the_reader_of_a_log(error: VoucherSessionsError) -> None:
    assert str(error)
    assert repr(error) == f"{type(error).__name__}({str(error)!r})"
    for text in (str(error), repr(error)):
        assert KEY not in text
        assert "None" not in text
        assert "object at" not in text


def test_those_that_an_engine_raises() -> None:
    with VoucherSessions.from_url("memory://") as engine:
        engine.put_voucher(Voucher(code="A", quantity=1, credits=5))
        engine.put_voucher(Voucher(code="B", quantity=0))
        engine.redeem("A", credits=3, redemption_id="order")
        engine.rollback("A", "order", credits=1, rollback_id="refund")
        engine.rollback("A", "order")
        engine.adjust("A", credits=1, adjustment_id="topup")
        calls = (
            lambda: engine.adjust("A", credits=2, adjustment_id="topup"),
            lambda: engine.adjust("A", credits=-7),
            lambda: engine.put_voucher(Voucher(code="C")) and engine.adjust("C", quantity=1),
            lambda: engine.rollback("A", "order", credits=1),
            lambda: engine.rollback("A", "order", credits=2, rollback_id="refund"),
            lambda: engine.redeem("A", credits=3, redemption_id="order"),
            lambda: engine.redeem_stack([{"code": "A", "credits": 9}, "B"]),
            lambda: engine.redeem("A"),
            lambda: engine.put_voucher(Voucher(code="A"), if_exists="raise"),
        )
        for call in calls:
            with pytest.raises(VoucherSessionsError) as raised:
                call()
            test_as_json(raised.value)
            test_as_pickle(raised.value)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OutcomeUnknown("rollback", ("A",), redemption_id="order", rollback_id="refund"), "rollback_id of this error"),
        (OutcomeUnknown("rollback", ("A",), redemption_id="order"), "redemption_id of this error"),
        (OutcomeUnknown("adjust", ("A",), adjustment_id="topup"), "adjustment_id of this error"),
        (AdjustmentRefused("A", "quantity", None, 1), "set one with put_voucher"),
        (AdjustmentRefused("A", "credits", 100, -101), "it is 100, and must stay between 0"),
        (RollbackExceeded("A", "order", "points", 7, 3), "still has 3 points, so 7 cannot be given back"),
        (RedemptionConflict("A", "order", "refund"), "rollback id 'refund'"),
        (RedemptionConflict("A", "order"), "redemption id 'order'"),
    ],
)
def test_a_text_says_what_to_do(error: VoucherSessionsError, advice: str) -> None:
    assert advice in str(error)


CHANGED = "took effect, but is not confirmed as durable"
UNCHANGED = "changed nothing, and what it found is not confirmed as durable"
PERHAPS = "ran, but what it changed or found is not confirmed as durable"
KEY_OR_ID = "Repeat the call with the {} in the result of this error, or accept that result"
REPEAT = "Repeat the call, or accept the result of this error"
REPEAT_PUT = f"{REPEAT}. If the call sets used=, repeat it with if_exists='keep', so that it does not set it again"


@pytest.mark.parametrize(
    ("verb", "result", "happened", "advice"),
    [
        ("validate", LOCKED, CHANGED, KEY_OR_ID.format("session key")),
        ("validate", REFUSED, UNCHANGED, REPEAT),
        (
            "validate_stack",
            StackValidation(valid=True, session=SESSION, validations=[LOCKED]),
            CHANGED,
            KEY_OR_ID.format("session key"),
        ),
        ("validate_stack", StackValidation(valid=False, session=None, validations=[REFUSED]), UNCHANGED, REPEAT),
        ("redeem", PAID, CHANGED, KEY_OR_ID.format("redemption id")),
        ("redeem", RECEIPT, UNCHANGED, KEY_OR_ID.format("redemption id")),
        (
            "redeem_stack",
            StackRedemption(id="order", redemptions=[PAID], replayed=False),
            CHANGED,
            KEY_OR_ID.format("redemption id"),
        ),
        ("rollback", REFUND, CHANGED, KEY_OR_ID.format("rollback id")),
        ("rollback", REFUND.model_copy(update={"replayed": True}), UNCHANGED, KEY_OR_ID.format("rollback id")),
        ("rollback", REFUND.model_copy(update={"id": None}), CHANGED, REPEAT),
        ("rollback_stack", [REFUND.model_copy(update={"id": None})] * 2, CHANGED, REPEAT),
        ("adjust", TOP_UP, CHANGED, KEY_OR_ID.format("adjustment id")),
        ("adjust", TOP_UP.model_copy(update={"replayed": True}), UNCHANGED, KEY_OR_ID.format("adjustment id")),
        ("release", RELEASED, CHANGED, REPEAT),
        ("release", NOT_LIVE, UNCHANGED, REPEAT),
        ("release_stack", [RELEASED, NOT_LIVE], CHANGED, REPEAT),
        ("release_stack", [NOT_LIVE, NOT_LIVE], UNCHANGED, REPEAT),
        ("extend", SESSION, CHANGED, REPEAT),
        ("extend_stack", [SESSION, SESSION], CHANGED, REPEAT),
        ("delete_voucher", True, CHANGED, REPEAT),
        ("delete_voucher", False, UNCHANGED, REPEAT),
        ("repair", True, CHANGED, REPEAT),
        ("put_voucher", STATE, PERHAPS, REPEAT_PUT),
        ("put_voucher", (True, STATE), CHANGED, REPEAT_PUT),
        ("put_voucher", (False, STATE), PERHAPS, REPEAT_PUT),
        ("import_redemption", (True, PAID), CHANGED, REPEAT),
        ("import_redemption", (False, RECEIPT), UNCHANGED, REPEAT),
        ("redeem", None, PERHAPS, "Repeat the call"),
    ],
)
def test_not_durable_names_only_what_its_result_shows(verb: str, result: object, happened: str, advice: str) -> None:
    assert str(NotDurable(verb, "no replica", result)) == f"{verb} {happened}: no replica. {advice}"


@pytest.mark.parametrize(
    "error",
    [
        ServerUnavailable("scan_vouchers", (), "gone"),
        ServerRefused("scan_vouchers", (), "no permission", "check the user"),
        OutcomeUnknown("scan_vouchers", ()),
    ],
)
def test_a_call_without_codes_has_a_whole_sentence(error: VoucherSessionsError) -> None:
    assert str(error).startswith(("scan_vouchers: ", "scan_vouchers failed"))

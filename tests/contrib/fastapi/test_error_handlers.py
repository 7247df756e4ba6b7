"""Errors of the engine in an application's own endpoints, and what of them is shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import voucher_sessions
from contrib.fastapi.shop import without
from voucher_sessions import (
    Adjustment,
    AdjustmentConflict,
    AdjustmentRefused,
    AmountRequired,
    CorruptState,
    CrossSlotStack,
    EmbeddedServerError,
    GiftAmountExceeded,
    InvalidRequest,
    LoyaltyPointsExceeded,
    NotDurable,
    OutcomeUnknown,
    QuantityExceeded,
    Redemption,
    RedemptionConflict,
    RedemptionNotFound,
    RedemptionRolledBack,
    Rollback,
    RollbackExceeded,
    ServerRefused,
    ServerUnavailable,
    SessionNotFound,
    StackRedemption,
    UnknownFormat,
    VoucherExists,
    VoucherNotFound,
    VoucherSessionsError,
)
from voucher_sessions.contrib.fastapi import install_error_handlers

SECRET = "cart-key-that-nobody-may-see"
REDEMPTION = Redemption(
    id="o1",
    code="A",
    session_key=SECRET,
    quantity=1,
    credits=1,
    points=0,
    redeemed_at=datetime.now(UTC),
    rolled_back=True,
    credits_rolled_back=1,
    points_rolled_back=0,
    replayed=True,
)
ROLLBACK = Rollback(code="A", redemption_id="o1", id="rb1", quantity=0, credits=1, points=0, replayed=False)
ADJUSTMENT = Adjustment(id="a1", code="A", quantity=0, credits=1, points=0, voucher=None, replayed=False)

# Each error, its status, its key, and further fields of the body.
ANSWERS: list[tuple[VoucherSessionsError, int, str, dict[str, object]]] = [
    (InvalidRequest("code", "must not be blank"), 400, "invalid_payload", {"details": "code: must not be blank"}),
    (InvalidRequest("a\ud800", "is no field"), 400, "invalid_payload", {"details": "a\\ud800: is no field"}),
    (CrossSlotStack([["A"], ["B"]]), 400, "invalid_redeemables", {}),
    (VoucherNotFound("A"), 404, "not_found", {"resource_type": "voucher", "resource_id": "A", "details": "A"}),
    (VoucherExists("A"), 409, "duplicate_found", {"resource_type": "voucher"}),
    (SessionNotFound(SECRET, "A"), 404, "not_found", {"resource_type": "session"}),
    (RedemptionNotFound("A", "o1"), 404, "not_found", {"resource_type": "redemption"}),
    (AmountRequired("A", "B"), 400, "missing_amount", {}),
    (
        QuantityExceeded("A", "quantity_exceeded", 1, 0, True, 1001),
        *(400, "quantity_exceeded"),
        {"resource_type": "redemption", "locked_by_others": True, "retry_after_ms": 1001, "details": "A"},
    ),
    (
        GiftAmountExceeded("A", "gift_amount_exceeded", 1, 0, False, None),
        *(400, "gift_amount_exceeded"),
        {"resource_type": "redemption", "locked_by_others": False, "details": "A"},
    ),
    (
        LoyaltyPointsExceeded("A", "loyalty_card_points_exceeded", 1, 0, False, None),
        *(400, "loyalty_card_points_exceeded"),
        {"resource_type": "redemption", "locked_by_others": False, "details": "A"},
    ),
    (AdjustmentRefused("A", "credits", 1, -2), 400, "adjustment_refused", {"resource_type": "voucher"}),
    (AdjustmentConflict("A", "a1"), 409, "duplicate_found", {}),
    (RollbackExceeded("A", "o1", "credits", 2, 1), 400, "rollback_exceeded", {"resource_type": "redemption"}),
    (RedemptionConflict("A", "o1"), 409, "duplicate_found", {"resource_type": "redemption"}),
    (RedemptionRolledBack("A", "o1", REDEMPTION), 400, "already_rolled_back", {"resource_type": "redemption"}),
    (ServerUnavailable("redeem", ["A"], "no route to host-7"), 503, "server_unavailable", {}),
    (ServerRefused("redeem", ["A"], "OOM on host-7", "More memory for host-7."), 503, "server_refused", {}),
    (OutcomeUnknown("validate", ["A"], SECRET), 503, "outcome_unknown", {}),
    (OutcomeUnknown("redeem", ["A"], SECRET, "o1"), 503, "outcome_unknown", {"redemption_id": "o1"}),
    (
        OutcomeUnknown("rollback", ["A"], None, "o1", "rb1"),
        *(503, "outcome_unknown"),
        {"redemption_id": "o1", "rollback_id": "rb1"},
    ),
    (OutcomeUnknown("adjust", ["A"], None, None, None, "a1"), 503, "outcome_unknown", {"adjustment_id": "a1"}),
    (NotDurable("redeem", "no replica", REDEMPTION), 503, "not_durable", {"redemption_id": "o1"}),
    (
        NotDurable("redeem_stack", "no replica", StackRedemption(id="o1", redemptions=[REDEMPTION], replayed=False)),
        *(503, "not_durable"),
        {"redemption_id": "o1"},
    ),
    (NotDurable("rollback", "no", ROLLBACK), 503, "not_durable", {"redemption_id": "o1", "rollback_id": "rb1"}),
    (NotDurable("adjust", "no", ADJUSTMENT), 503, "not_durable", {"adjustment_id": "a1"}),
    (NotDurable("delete_voucher", "no", True), 503, "not_durable", {}),
    (CorruptState("book of A: not mine, on host-7"), 500, "corrupt_state", {}),
    (UnknownFormat("redeem on host-7", 2), 500, "unknown_format", {}),
    (EmbeddedServerError("/home/host-7", "no space"), 500, "internal_error", {}),
    (VoucherSessionsError("something on host-7"), 500, "internal_error", {}),
]
IDS = [f"{type(error).__name__}-{at}" for at, (error, *_) in enumerate(ANSWERS)]


@pytest.fixture
def raising() -> Iterator[tuple[list[VoucherSessionsError], TestClient]]:
    """A client of an application that raises the first error of the list."""
    errors: list[VoucherSessionsError] = []
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def endpoint() -> None:
        raise errors[0]

    with TestClient(app) as client:
        yield errors, client


@pytest.mark.parametrize(("error", "status", "key", "fields"), ANSWERS, ids=IDS)
def test_each_error_has_its_answer(
    error: VoucherSessionsError,
    status: int,
    key: str,
    fields: dict[str, object],
    raising: tuple[list[VoucherSessionsError], TestClient],
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors, client = raising
    errors.append(error)
    response = client.get("/")
    assert response.status_code == status
    body = response.json()
    assert (body["code"], body["key"], body["message"]) == (status, key, key.replace("_", " "))
    assert body["request_id"].startswith("v-")
    expected = {"details": body.get("details")} | fields
    resource_id = {"resource_id": body.get("resource_id")} if "_exceeded" in key and key != "rollback_exceeded" else {}
    assert without(body, "code", "key", "message", "request_id") == expected | resource_id
    assert SECRET not in response.text
    # What an operator needs, and only an operator
    assert "host-7" not in response.text
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("voucher_sessions")]
    assert logged == ([f"request {body['request_id']}: {error}"] if status >= 500 else [])
    assert SECRET not in caplog.text
    seconds = {503: "1"}.get(status, "2" if "retry_after_ms" in fields else None)
    assert response.headers.get("Retry-After") == seconds


def test_every_error_is_here() -> None:
    kinds = {
        kind
        for name in voucher_sessions.__all__
        if isinstance(kind := getattr(voucher_sessions, name), type) and issubclass(kind, VoucherSessionsError)
    }
    abstract = {voucher_sessions.LimitExceeded}
    assert {type(error) for error, *_ in ANSWERS} == kinds - abstract


def test_other_errors_are_left_to_the_application(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def endpoint() -> None:
        raise LookupError("mine")

    with TestClient(app) as client, pytest.raises(LookupError, match="mine"):
        client.get("/")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

"""Wrong requests are answered with 400 and the field that is wrong, and nothing changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from contrib.fastapi.shop import Json, cart, session, voucher
from voucher_sessions import Voucher, VoucherSessions

SECRET = "cart-key-that-nobody-may-see"
ENDPOINTS = ["/v1/validations", "/v1/redemptions"]
NO_TEXTS: list[Any] = [7, 1.5, True, [], {}, "", " \t", "x" * 257]
NO_AMOUNTS: list[Any] = [-1, 2**53, 10**30, 1.0, 1.5, "1", True, [], {}, float("nan"), float("inf")]


def values(*of_many_types: object) -> tuple[object, ...]:
    return of_many_types


@pytest.fixture(autouse=True)
def catalogue(vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="GIFT", credits=5000, quantity=10))


def sent(client: TestClient, path: str, body: object) -> Json:
    """The error of a body that Python's JSON can express, and JSON itself perhaps cannot (NaN)."""
    response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    error: Json = response.json()
    assert error["code"] == 400
    assert error["message"] == error["key"].replace("_", " ")
    assert SECRET not in response.text
    return error


def assert_untouched(vouchers: VoucherSessions) -> None:
    state = vouchers.get_voucher("GIFT")
    assert (state.quantity.used, state.quantity.locked, state.credits.used, state.credits.locked) == (0, 0, 0, 0)


def in_gift(value: object) -> Json:
    return {"redeemables": [{"object": "voucher", "id": "GIFT", "gift": value}], "session": session(SECRET)}


def in_session(**fields: object) -> Json:
    return cart(voucher("GIFT", credits=1), session={"type": "LOCK", "key": SECRET, **fields})


# Wrong in both endpoints: the body, and the field that the error names.
WRONG: list[tuple[object, str]] = [
    *((in_gift({"credits": value}), "redeemables.0.gift.credits") for value in NO_AMOUNTS),
    *(({"redeemables": [{"id": "GIFT", "reward": {"points": v}}]}, "redeemables.0.reward.points") for v in NO_AMOUNTS),
    *(({"redeemables": [{"id": value}]}, "redeemables.0.id") for value in values(*NO_TEXTS, None)),
    *((in_session(key=value), "session.key") for value in NO_TEXTS),
    *(({**cart(voucher("GIFT")), "order": {"source_id": value}}, "order.source_id") for value in NO_TEXTS),
    *(({**cart(voucher("GIFT")), "order": {"amount": value}}, "order.amount") for value in NO_AMOUNTS),
    *((in_session(ttl=value, ttl_unit="DAYS"), "session.ttl") for value in values("1", True, [], {})),
    *((in_session(ttl=value, ttl_unit="DAYS"), "session.ttl") for value in map(float, ("nan", "inf", "-inf"))),
    *((in_session(ttl=1, ttl_unit=value), "session.ttl_unit") for value in values("days", "WEEKS", "", 1, [])),
    *((in_session(type=value), "session.type") for value in values("lock", "UNLOCK", "", 1, [])),
    *((in_gift(value), "redeemables.0.gift") for value in values(1, "1", [], True)),
    *(({**cart(voucher("GIFT")), "session": value}, "session") for value in values(SECRET, 1, [], True)),
    *(({**cart(voucher("GIFT")), "order": value}, "order") for value in values("o1", 1, [], True)),
    *(({"redeemables": value}, "redeemables") for value in values(None, "GIFT", 1, {}, True)),
    *(({"redeemables": [value]}, "redeemables.0") for value in values(None, "GIFT", 1, [], True)),
    *((value, "body") for value in ([], "GIFT", 1, True, [cart(voucher("GIFT"))])),
    ({}, "redeemables"),
    (None, "body"),
    ({"redeemables": [{"object": "voucher"}]}, "redeemables.0.id"),
    # A field that is not known, beside amounts and in sessions
    (in_gift({"credit": 3000}), "redeemables.0.gift.credit"),
    ({"redeemables": [{"id": "GIFT", "credits": 3000}]}, "redeemables.0.credits"),
    ({"redeemables": [{"id": "GIFT", "reward": {"point": 1}}]}, "redeemables.0.reward.point"),
    (in_session(tll=1), "session.tll"),
    # Nobody here knows what a reward costs
    ({"redeemables": [{"id": "GIFT", "reward": {"id": "rew_1"}}]}, "redeemables.0.reward"),
]


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("field", dict.fromkeys(field for _, field in WRONG))
def test_a_wrong_field_is_named(path: str, field: str, client: TestClient, vouchers: VoucherSessions) -> None:
    for body in (body for body, wrong in WRONG if wrong == field):
        error = sent(client, path, body)
        assert error["key"] == "invalid_payload", body
        assert error["details"].partition(":")[0] == field, body
    assert_untouched(vouchers)


# What only a session that is to be locked must not be; a redemption uses only the key.
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        *(({"ttl": value, "ttl_unit": "DAYS"}, "session.ttl") for value in (0, -1, -0.5, 3651, 10**30, 1e300)),
        ({"ttl": 1}, "session.ttl"),
        ({"ttl_unit": "DAYS"}, "session.ttl"),
        ({"type": None}, "session.type"),
    ],
)
def test_a_session_that_cannot_be_locked(
    fields: Json, field: str, client: TestClient, vouchers: VoucherSessions
) -> None:
    error = sent(client, "/v1/validations", in_session(**fields))
    assert error["key"] == "invalid_payload"
    assert error["details"].startswith(f"{field}: ")
    assert_untouched(vouchers)


@pytest.mark.parametrize("key", [{}, {"key": None}])
def test_a_redemption_needs_the_key_of_its_session(key: Json, client: TestClient, vouchers: VoucherSessions) -> None:
    error = sent(client, "/v1/redemptions", cart(voucher("GIFT", credits=1), session={"type": "LOCK", **key}))
    assert (error["key"], error["details"]) == ("invalid_payload", "session.key: is required to redeem a session")
    assert_untouched(vouchers)


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    ("redeemables", "key"),
    [
        ([], "invalid_redeemables"),
        ([voucher(f"C{number}") for number in range(31)], "invalid_redeemables"),
        ([{"object": "promotion_tier", "id": "promo_1"}], "invalid_redeemables"),
        ([voucher("GIFT"), {"object": None, "id": "OTHER"}], "invalid_redeemables"),
        ([voucher("GIFT"), voucher("OTHER"), voucher("GIFT")], "duplicated_redeemables"),
    ],
)
def test_redeemables_that_are_not_a_stack(
    path: str, redeemables: list[Json], key: str, client: TestClient, vouchers: VoucherSessions
) -> None:
    assert sent(client, path, {"redeemables": redeemables})["key"] == key
    assert_untouched(vouchers)


def test_30_vouchers_make_a_stack(client: TestClient, vouchers: VoucherSessions) -> None:
    codes = [f"C{number}" for number in range(30)]
    for code in codes:
        vouchers.put_voucher(Voucher(code=code, quantity=1))
    response = client.post("/v1/redemptions", json=cart(*map(voucher, codes), order="o1"))
    parent = response.json()["parent_redemption"]["id"]
    assert client.post(f"/v1/redemptions/{parent}/rollbacks").status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'redeemables': []}",
        b"[" * 100_000,
        b'{"redeemables":' * 20_000,
        b"9" * 5_000,
        b'{"redeemables": [{"id": "GIFT", "gift": {"credits": ' + b"9" * 5_000 + b"}}]}",
        b"\xff\xfe{",
        b'{"redeemables": [{"id": "\\ud800"}]}',
        b'{"redeemables": [{"id": "GIFT", "\\ud800": 1}]}',
        b'{"redeemables": [{"id": "GIFT"}], "session": {"\\ud800": 1}}',
        b'{"redeemables": [{"id": "GIFT"}], "session": {"' + b"x" * 100_000 + b'": 1}}',
        b'{"redeemables": [{"id": "GIFT", "gift": {"credits": NaN}}]}',
        b'{"redeemables": [{"id": "GIFT", "gift": {"credits": Infinity}}]}',
        b'{"redeemables": [{"id": "GIFT", "gift": {"credits": 1e3}}]}',
    ],
    ids=range(15),
)
def test_bodies_that_are_not_json_or_unusual_json(
    path: str, content: bytes, client: TestClient, vouchers: VoucherSessions
) -> None:
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = response.json()
    assert error["key"] == "invalid_payload"
    assert len(response.content) < 2_000
    assert_untouched(vouchers)


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "json", ";", "a/b/c"]
)
def test_a_body_must_be_sent_as_json(content_type: str | None, client: TestClient, vouchers: VoucherSessions) -> None:
    """A page of another site can send none of these with another type without asking the server first."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = client.post("/v1/redemptions", content=json.dumps(cart(voucher("GIFT", credits=1))), headers=headers)
    assert (response.status_code, response.json()["key"]) == (400, "invalid_payload")
    assert_untouched(vouchers)


def test_fields_that_client_libraries_send_are_ignored(client: TestClient) -> None:
    body = {
        **cart(voucher("GIFT", credits=1)),
        "order": {"source_id": "o1", "amount": 1, "items": [{"quantity": 1}], "status": "PAID", "metadata": {"a": 1}},
        "customer": {"source_id": "customer-1"},
        "metadata": {"shop": 1},
        "options": {"expand": ["order"]},
        "tracking_id": "t",
        "something": [float("nan")],
    }
    for path in ENDPOINTS:
        response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code == 200


@pytest.mark.parametrize("code", ["%20", "x" * 257, "%FF", "%ED%A0%80", "%C3"])
def test_a_wrong_code_in_a_path(code: str, client: TestClient) -> None:
    for method, path in (("GET", f"{code}/redemption"), ("DELETE", f"{code}/sessions/cart-1")):
        response = client.request(method, f"/v1/vouchers/{path}")
        assert (response.status_code, response.json()["key"]) == (400, "invalid_payload")
        assert response.json()["details"].startswith("code: ")


@pytest.mark.parametrize("key", ["%20", "x" * 257, "%FF"])
def test_a_wrong_session_key_in_a_path(key: str, client: TestClient) -> None:
    response = client.delete(f"/v1/vouchers/GIFT/sessions/{key}")
    assert (response.status_code, response.json()["key"]) == (400, "invalid_payload")
    assert response.json()["details"].startswith("session_key: ")


def test_methods_and_paths_that_are_not_there(client: TestClient) -> None:
    assert client.put("/v1/validations", json={}).status_code == 405
    assert client.get("/v1/vouchers/GIFT/sessions/cart-1").status_code == 405
    assert client.post("/v1/publications", json={}).status_code == 404
    response = client.post("/v1/redemptions", json={}, headers={"X-HTTP-Method-Override": "DELETE"})
    assert response.status_code == 400

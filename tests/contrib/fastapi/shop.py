"""What a shop sends, and how the tests read the answers."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

Json = dict[str, Any]


def voucher(code: str, *, credits: int | None = None, points: int | None = None) -> Json:
    """A redeemable of a request."""
    body: Json = {"object": "voucher", "id": code}
    if credits is not None:
        body["gift"] = {"credits": credits}
    if points is not None:
        body["reward"] = {"points": points}
    return body


def session(key: str | None = "cart-1", **fields: object) -> Json:
    return {"type": "LOCK", "key": key, "ttl": 15, "ttl_unit": "MINUTES", **fields}


def cart(*vouchers: Json, order: str | None = None, **fields: object) -> Json:
    """The body of a validation or a redemption."""
    return {
        "redeemables": list(vouchers),
        **({"order": {"source_id": order, "amount": 6000}} if order else {}),
        **fields,
    }


def answer_of(response: Any, status: int = 200) -> Json:
    """The body of an answer with this status."""
    assert response.status_code == status, response.text
    body: Json = response.json()
    return body


class Shop:
    """Calls the API, and expects a status."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def validate(self, body: Json, status: int = 200) -> Json:
        return answer_of(self.client.post("/v1/validations", json=body), status)

    def redeem(self, body: Json, status: int = 200) -> Json:
        return answer_of(self.client.post("/v1/redemptions", json=body), status)

    def get(self, redemption_id: str, status: int = 200) -> Json:
        return answer_of(self.client.get(f"/v1/redemptions/{redemption_id}"), status)

    def roll_back(self, redemption_id: str, status: int = 200) -> Json:
        return answer_of(self.client.post(f"/v1/redemptions/{redemption_id}/rollback"), status)

    def roll_back_all(self, redemption_id: str, status: int = 200) -> Json:
        return answer_of(self.client.post(f"/v1/redemptions/{redemption_id}/rollbacks"), status)


def without(body: Json, *names: str) -> Json:
    """A body without fields that differ in each answer."""
    return {name: value for name, value in body.items() if name not in names}

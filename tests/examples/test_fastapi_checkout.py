"""The shop in examples/fastapi_checkout: two carts, one gift card, and a till."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fastapi_checkout.shop import create_shop
from support.servers import Server, running
from support.waiting import until

from voucher_sessions import Voucher, VoucherSessions

TILL = {"Authorization": "Bearer token-of-the-till"}


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    server = server_of("valkey")
    with server.client() as client:
        client.flushall()
    with VoucherSessions.from_url(server.url) as vouchers:
        vouchers.put_voucher(Voucher(code="GIFT-50", credits=5000))
    return server


@pytest.fixture
def shop(server: Server) -> Iterator[TestClient]:
    with TestClient(create_shop(server.url, till_token="token-of-the-till")) as client:
        yield client


def lock(shop: TestClient, cart: str, credits: int) -> Any:
    response = shop.post(f"/carts/{cart}/gift-card", json={"code": "GIFT-50", "credits": credits})
    assert response.status_code == 200
    return response.json()


def test_two_carts_and_a_gift_card(shop: TestClient) -> None:
    mine = lock(shop, "1", 3000)
    assert mine["valid"]
    assert mine["locked_until"]
    theirs = lock(shop, "2", 3000)
    assert (theirs["valid"], theirs["available"], theirs["locked_by_others"]) == (False, 2000, True)
    assert 890_000 < theirs["retry_after_ms"] <= 900_000
    too_much = shop.post("/carts/2/payment", json={"code": "GIFT-50", "credits": 3000, "order": "order-2"})
    assert (too_much.status_code, too_much.json()["key"]) == (400, "gift_amount_exceeded")
    assert too_much.json()["locked_by_others"] is True
    assert 0 < int(too_much.headers["Retry-After"]) <= 900
    payment = {"code": "GIFT-50", "credits": 3000, "order": "order-1"}
    for _ in range(2):
        paid = shop.post("/carts/1/payment", json=payment)
        assert paid.json() == {"order": "order-1", "credits": 3000}
    assert lock(shop, "2", 2000)["valid"]
    assert shop.delete("/carts/2/gift-card?code=GIFT-50").status_code == 204
    assert lock(shop, "3", 2000)["valid"]


def test_a_payment_after_the_lock_has_ended(shop: TestClient, server: Server) -> None:
    lock(shop, "1", 3000)
    with VoucherSessions.from_url(server.url) as vouchers:
        vouchers.extend("GIFT-50", "cart-1", ttl=1, ttl_unit="MILLISECONDS")
        until(lambda: vouchers.list_sessions("GIFT-50") == [])
    paid = shop.post("/carts/1/payment", json={"code": "GIFT-50", "credits": 3000, "order": "order-1"})
    assert paid.json()["credits"] == 3000


def test_errors_have_a_status(shop: TestClient) -> None:
    payment = {"code": "GIFT-50", "credits": 3000, "order": "order-1"}
    assert shop.post("/carts/1/payment", json=payment).status_code == 200
    assert shop.post("/carts/1/payment", json={**payment, "credits": 2}).status_code == 409
    assert shop.post("/carts/1/payment", json={**payment, "code": "NONE"}).status_code == 404
    assert shop.post("/carts/1/payment", json={**payment, "order": " "}).status_code == 400


def test_the_till_uses_the_api_and_others_do_not(shop: TestClient) -> None:
    order = {
        "redeemables": [{"object": "voucher", "id": "GIFT-50", "gift": {"credits": 1000}}],
        "order": {"source_id": "receipt-1"},
    }
    assert shop.post("/vouchers/v1/redemptions", json=order).status_code == 401
    assert shop.post("/vouchers/v1/redemptions", json=order, headers={"Authorization": "Bearer x"}).status_code == 401
    response = shop.post("/vouchers/v1/redemptions", json=order, headers=TILL)
    assert response.json()["redemptions"][0]["voucher"]["gift"]["balance"] == 4000


def test_redis_is_down() -> None:
    with running("valkey") as server, TestClient(create_shop(server.url, till_token="x")) as shop:
        server.kill()
        response = shop.post("/carts/1/gift-card", json={"code": "GIFT-50", "credits": 1})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")

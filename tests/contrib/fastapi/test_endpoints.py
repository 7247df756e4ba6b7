"""The bodies and the statuses of the API, for requests that are well formed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from support.waiting import until

from contrib.fastapi.shop import Shop, cart, session, voucher, without
from voucher_sessions import Used, Voucher, VoucherSessions


@pytest.fixture(autouse=True)
def catalogue(vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="GIFT-50", credits=5000))
    vouchers.put_voucher(Voucher(code="LOY", points=500))
    vouchers.put_voucher(Voucher(code="LAST", quantity=1))


def test_a_valid_cart_is_locked(shop: Shop, vouchers: VoucherSessions) -> None:
    body = cart(voucher("GIFT-50", credits=3000), voucher("LOY", points=200), voucher("LAST"), session=session())
    assert shop.validate(body) == {
        "valid": True,
        "redeemables": [
            {"status": "APPLICABLE", "id": "GIFT-50", "object": "voucher", "result": {"gift": {"credits": 3000}}},
            {"status": "APPLICABLE", "id": "LOY", "object": "voucher", "result": {"loyalty_card": {"points": 200}}},
            {"status": "APPLICABLE", "id": "LAST", "object": "voucher", "result": {}},
        ],
        "session": {"key": "cart-1", "type": "LOCK", "ttl": 15, "ttl_unit": "MINUTES"},
        "stacking_rules": {},
    }
    assert vouchers.get_session("GIFT-50", "cart-1").credits == 3000
    assert vouchers.get_session("LOY", "cart-1").points == 200


def test_a_cart_is_validated_without_a_session(shop: Shop, vouchers: VoucherSessions) -> None:
    answer = shop.validate(cart(voucher("GIFT-50", credits=3000), order="o1"))
    assert answer["valid"]
    assert "session" not in answer
    assert vouchers.list_sessions("GIFT-50") == []


def test_nulls_count_as_left_out(shop: Shop, vouchers: VoucherSessions) -> None:
    nulls = {"type": "LOCK", "key": None, "ttl": None, "ttl_unit": None}
    body = cart({"object": "voucher", "id": "LAST", "gift": None, "reward": None}, session=nulls)
    generated = shop.validate(body)["session"]
    assert generated["key"].startswith("ssn_")
    assert without(generated, "key") == {"type": "LOCK", "ttl": 7, "ttl_unit": "DAYS"}
    assert vouchers.get_session("LAST", generated["key"]).remaining_ms > 6.9 * 86_400_000
    amounts = {"object": "voucher", "id": "GIFT-50", "gift": {"credits": None}, "reward": {"points": None, "id": None}}
    assert shop.validate({**cart(amounts, session=None), "order": {"source_id": None, "amount": None}})["valid"]
    assert shop.validate({**cart(amounts), "order": None})["valid"]


def test_a_refused_cart_says_why_for_each_voucher(shop: Shop, vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="EMPTY", credits=100), used=Used(credits=100))
    body = cart(voucher("EMPTY", credits=1), voucher("LAST"), voucher("NONE"), session=session())
    answer = shop.validate(body)
    used_up, fits, unknown = answer["redeemables"]
    assert fits == {"status": "SKIPPED", "id": "LAST", "object": "voucher", "result": {}}
    assert without(used_up, "result") == {"status": "INAPPLICABLE", "id": "EMPTY", "object": "voucher"}
    assert used_up["result"]["error"] == {
        "code": 400,
        "key": "gift_amount_exceeded",
        "message": "gift amount exceeded",
        "details": "EMPTY",
        "request_id": unknown["result"]["error"]["request_id"],
        "locked_by_others": False,
    }
    error = unknown["result"]["error"]
    assert error["request_id"].startswith("v-")
    assert without(error, "request_id", "details") == {
        "code": 404,
        "key": "not_found",
        "message": "not found",
        "resource_id": "NONE",
        "resource_type": "voucher",
    }
    assert answer["inapplicable_redeemables"] == [used_up, unknown]
    assert without(answer, "redeemables", "inapplicable_redeemables") == {
        "valid": False,
        "stacking_rules": {},
        "locked_by_others": False,
    }
    assert vouchers.list_sessions("LAST") == []


def test_locked_by_others_is_not_used_up(shop: Shop, vouchers: VoucherSessions) -> None:
    for minutes, code in ((2, "LAST"), (9, "GIFT-50")):
        vouchers.validate(
            code, credits=5000 * (code != "LAST"), session=session("other", ttl=minutes, ttl_unit="MINUTES")
        )
    body = cart(voucher("LAST"), voucher("GIFT-50", credits=1), session=session())
    response = shop.client.post("/v1/validations", json=body)
    answer = response.json()
    last, gift = (each["result"]["error"] for each in answer["redeemables"])
    assert (last["key"], last["locked_by_others"]) == ("quantity_exceeded", True)
    assert 110_000 < last["retry_after_ms"] <= 120_000
    assert 530_000 < gift["retry_after_ms"] <= 540_000
    assert (answer["locked_by_others"], answer["retry_after_ms"]) == (True, gift["retry_after_ms"])
    assert int(response.headers["Retry-After"]) == math.ceil(answer["retry_after_ms"] / 1000)
    one_used_up = cart(voucher("LAST"), voucher("LOY", points=501))
    response = shop.client.post("/v1/validations", json=one_used_up)
    assert response.json()["locked_by_others"] is False
    assert "Retry-After" not in response.headers


def test_one_voucher_is_redeemed(shop: Shop, vouchers: VoucherSessions) -> None:
    shop.validate(cart(voucher("GIFT-50", credits=3000), session=session()))
    answer = shop.redeem(cart(voucher("GIFT-50"), session={"type": "LOCK", "key": "cart-1"}, order="o1"))
    (redemption,) = answer.pop("redemptions")
    assert answer == {}
    assert redemption.pop("id").startswith("r_")
    date = datetime.fromisoformat(redemption.pop("date"))
    assert abs(date - datetime.now(UTC)) < timedelta(minutes=1)
    assert redemption == {
        "object": "redemption",
        "amount": 3000,
        "result": "SUCCESS",
        "status": "SUCCEEDED",
        "session": {"key": "cart-1"},
        "related_object_type": "voucher",
        "gift": {"amount": 3000},
        "voucher": {
            "object": "voucher",
            "code": "GIFT-50",
            "type": "GIFT_VOUCHER",
            "gift": {"amount": 5000, "balance": 2000},
        },
    }
    assert vouchers.get_redemption("GIFT-50", "o1").credits == 3000
    assert vouchers.list_sessions("GIFT-50") == []


def test_several_vouchers_are_redeemed_together(shop: Shop) -> None:
    vouchers = (voucher("GIFT-50", credits=1000), voucher("LOY", points=50), voucher("LAST"))
    answer = shop.redeem(cart(*vouchers, order="o1"))
    gift, loyalty, discount = answer["redemptions"]
    parent = answer["parent_redemption"]
    assert {each["redemption"] for each in (gift, loyalty, discount)} == {parent["id"]}
    assert len({gift["id"], loyalty["id"], discount["id"], parent["id"]}) == 4
    assert without(parent, "id", "date") == {
        "object": "redemption",
        "result": "SUCCESS",
        "status": "SUCCEEDED",
        "related_object_type": "redemption",
        "related_object_id": parent["id"],
    }
    assert (loyalty["amount"], loyalty["loyalty_card"]) == (50, {"points": 50})
    assert loyalty["voucher"]["type"] == "LOYALTY_CARD"
    assert loyalty["voucher"]["loyalty_card"] == {"points": 500, "balance": 450}
    assert discount["voucher"] == {"object": "voucher", "code": "LAST", "type": "DISCOUNT_VOUCHER"}
    assert {"amount", "gift", "loyalty_card", "session"}.isdisjoint(discount)


def test_a_repeated_redemption_gets_the_first_answer(shop: Shop, vouchers: VoucherSessions) -> None:
    body = cart(voucher("GIFT-50", credits=1000), voucher("LAST"), order="o1")
    assert shop.redeem(body) == shop.redeem(body)
    assert vouchers.get_voucher("GIFT-50").credits.used == 1000
    error = shop.redeem(cart(voucher("GIFT-50", credits=999), voucher("LAST"), order="o1"), 409)
    assert (error["code"], error["key"], error["resource_type"]) == (409, "duplicate_found", "redemption")
    without_an_id = cart(voucher("GIFT-50", credits=1000))
    assert shop.redeem(without_an_id) != shop.redeem(without_an_id)


def test_a_repeated_redemption_in_another_order_has_the_same_ids(shop: Shop) -> None:
    gift, last = voucher("GIFT-50", credits=1000), voucher("LAST")
    first, again = (shop.redeem(cart(*each, order="o1")) for each in ([last, gift], [gift, last]))
    assert first["parent_redemption"] == again["parent_redemption"]
    assert first["redemptions"] == again["redemptions"][::-1]
    assert [each["voucher"]["code"] for each in first["redemptions"]] == ["LAST", "GIFT-50"]
    rolled_back = shop.roll_back_all(again["parent_redemption"]["id"])["rollbacks"]
    assert {each["redemption"]: each.get("amount") for each in rolled_back} == {
        each["id"]: -each["amount"] if "amount" in each else None for each in first["redemptions"]
    }


def test_a_refused_redemption(shop: Shop, vouchers: VoucherSessions) -> None:
    vouchers.validate("LAST", session=session("other", ttl=100, ttl_unit="SECONDS"))
    response = shop.client.post("/v1/redemptions", json=cart(voucher("LAST"), order="o1"))
    assert response.status_code == 400
    error = response.json()
    assert error.pop("request_id").startswith("v-")
    assert error.pop("resource_id").startswith("rf_")
    retry_after_ms = error.pop("retry_after_ms")
    assert 90_000 < retry_after_ms <= 100_000
    assert int(response.headers["Retry-After"]) == math.ceil(retry_after_ms / 1000)
    assert error == {
        "code": 400,
        "key": "quantity_exceeded",
        "message": "quantity exceeded",
        "details": "LAST",
        "resource_type": "redemption",
        "locked_by_others": True,
    }


def test_of_several_refusals_the_one_that_lasts_longest_is_answered(shop: Shop, vouchers: VoucherSessions) -> None:
    vouchers.validate("LAST", session=session("other", ttl=100, ttl_unit="SECONDS"))
    vouchers.validate("LOY", points=500, session=session("other", ttl=200, ttl_unit="SECONDS"))
    held = shop.redeem(cart(voucher("LAST"), voucher("LOY", points=1), order="o1"), 400)
    assert (held["key"], held["locked_by_others"]) == ("loyalty_card_points_exceeded", True)
    assert held["retry_after_ms"] > 190_000
    used_up = shop.redeem(cart(voucher("LAST"), voucher("GIFT-50", credits=5001), order="o1"), 400)
    assert (used_up["key"], used_up["details"], used_up["locked_by_others"]) == (
        "gift_amount_exceeded",
        "GIFT-50",
        False,
    )
    assert "retry_after_ms" not in used_up


def test_what_does_not_exist_is_404(shop: Shop) -> None:
    error = shop.redeem(cart(voucher("NONE"), order="o1"), 404)
    assert (error["key"], error["resource_type"], error["resource_id"]) == ("not_found", "voucher", "NONE")
    error = shop.redeem(cart(voucher("LAST"), session={"key": "cart-1"}, order="o1"), 404)
    assert (error["key"], error["resource_type"]) == ("not_found", "session")
    assert "cart-1" not in str(error)


def test_a_gift_card_needs_an_amount(shop: Shop) -> None:
    error = shop.redeem(cart(voucher("GIFT-50"), order="o1"), 400)
    assert (error["key"], error["message"]) == ("missing_amount", "missing amount")


def test_an_order_that_was_rolled_back_is_not_paid_again(shop: Shop) -> None:
    body = cart(voucher("LAST"), order="o1")
    redemption = shop.redeem(body)["redemptions"][0]["id"]
    shop.roll_back(redemption)
    error = shop.redeem(body, 400)
    assert error["key"] == "already_rolled_back"


def test_a_redemption_is_got_and_rolled_back(shop: Shop, vouchers: VoucherSessions) -> None:
    (redeemed,) = shop.redeem(cart(voucher("GIFT-50", credits=3000), order="o1"))["redemptions"]
    assert shop.get(redeemed["id"]) == redeemed
    response = shop.client.post(f"/v1/redemptions/{redeemed['id']}/rollback?reason=returned&tracking_id=x")
    assert response.status_code == 200
    rollback = response.json()
    assert rollback.pop("id").startswith("rr_")
    assert datetime.fromisoformat(rollback.pop("date")).tzinfo
    assert rollback == {
        "object": "redemption_rollback",
        "amount": -3000,
        "redemption": redeemed["id"],
        "reason": "returned",
        "result": "SUCCESS",
        "status": "SUCCEEDED",
        "gift": {"amount": -3000},
    }
    assert shop.get(redeemed["id"])["status"] == "ROLLED_BACK"
    assert vouchers.get_voucher("GIFT-50").credits.used == 0
    error = shop.roll_back(redeemed["id"], 400)
    assert (error["key"], error["resource_type"]) == ("already_rolled_back", "redemption")


def test_several_vouchers_are_rolled_back_together(shop: Shop, vouchers: VoucherSessions) -> None:
    body = cart(voucher("GIFT-50", credits=1000), voucher("LOY", points=50), voucher("LAST"), order="o1")
    redeemed = shop.redeem(body)
    parent, members = redeemed["parent_redemption"]["id"], [each["id"] for each in redeemed["redemptions"]]
    assert shop.get(parent) == redeemed["parent_redemption"]
    assert [shop.get(member) for member in members] == redeemed["redemptions"]
    for member in members:
        assert shop.roll_back(member, 400)["key"] == "invalid_redemption_parent"
        assert shop.roll_back_all(member, 400)["key"] == "invalid_redemption_parent"
    assert shop.roll_back(parent, 400)["key"] == "invalid_redemption"
    answer = shop.roll_back_all(parent)
    gift, loyalty, last = members
    assert [each["redemption"] for each in answer["rollbacks"]] == [gift, last, loyalty]  # in the order of the codes
    assert [each.get("amount") for each in answer["rollbacks"]] == [-1000, None, -50]
    assert answer["rollbacks"][2]["loyalty_card"] == {"points": -50}
    assert answer["parent_rollback"]["redemption"] == parent
    assert {"amount", "gift", "loyalty_card"}.isdisjoint(answer["parent_rollback"])
    assert vouchers.get_voucher("LAST").quantity.used == 0
    assert {shop.get(each)["status"] for each in (parent, *members)} == {"ROLLED_BACK"}
    assert shop.roll_back_all(parent, 400)["key"] == "already_rolled_back"


def test_a_stack_of_which_one_was_rolled_back_before(shop: Shop, vouchers: VoucherSessions) -> None:
    redeemed = shop.redeem(cart(voucher("GIFT-50", credits=1000), voucher("LAST"), order="o1"))
    vouchers.rollback("LAST", "o1")
    parent = redeemed["parent_redemption"]["id"]
    assert shop.get(parent)["status"] == "SUCCEEDED"
    assert len(shop.roll_back_all(parent)["rollbacks"]) == 2
    assert shop.get(parent)["status"] == "ROLLED_BACK"


def test_a_single_redemption_can_be_rolled_back_as_a_stack(shop: Shop) -> None:
    redemption = shop.redeem(cart(voucher("LAST"), order="o1"))["redemptions"][0]["id"]
    answer = shop.roll_back_all(redemption)
    assert [each["redemption"] for each in answer["rollbacks"]] == [redemption]
    assert "parent_rollback" not in answer


def test_how_often_a_voucher_was_redeemed(shop: Shop, vouchers: VoucherSessions) -> None:
    shop.redeem(cart(voucher("LAST"), order="o1"))
    answer = shop.client.get("/v1/vouchers/LAST/redemption").json()
    assert answer == {"object": "list", "quantity": 1, "redeemed_quantity": 1, "redemption_entries": []}
    answer = shop.client.get("/v1/vouchers/LOY/redemption").json()
    assert answer == {"object": "list", "redeemed_quantity": 0, "redemption_entries": []}
    response = shop.client.get("/v1/vouchers/NONE/redemption")
    assert (response.status_code, response.json()["resource_type"]) == (404, "voucher")


def test_a_repeated_release_is_answered_like_the_first(shop: Shop, vouchers: VoucherSessions) -> None:
    shop.validate(cart(voucher("LAST"), session=session()))
    for _ in range(2):
        response = shop.client.delete("/v1/vouchers/LAST/sessions/cart-1")
        assert (response.status_code, response.content) == (204, b"")
    assert vouchers.list_sessions("LAST") == []
    for path, resource in (("LAST/sessions/cart-2", "session"), ("NONE/sessions/cart-1", "voucher")):
        response = shop.client.delete(f"/v1/vouchers/{path}")
        error = response.json()
        assert (response.status_code, error["key"], error["resource_type"]) == (404, "not_found", resource)
        assert "cart-2" not in response.text


def test_a_redeemed_session_is_released_already(shop: Shop) -> None:
    shop.validate(cart(voucher("LAST"), session=session()))
    shop.redeem(cart(voucher("LAST"), session={"key": "cart-1"}, order="o1"))
    assert shop.client.delete("/v1/vouchers/LAST/sessions/cart-1").status_code == 204


def test_an_expired_session_is_gone(shop: Shop) -> None:
    shop.validate(cart(voucher("LAST"), session=session(ttl=0.001, ttl_unit="SECONDS")))
    until(lambda: shop.validate(cart(voucher("LAST")))["valid"])
    assert shop.client.delete("/v1/vouchers/LAST/sessions/cart-1").status_code == 404
    assert shop.redeem(cart(voucher("LAST"), session={"key": "cart-1"}, order="o1"), 404)["resource_type"] == "session"


def test_an_override_replaces_the_lock_and_a_refused_one_keeps_it(shop: Shop, vouchers: VoucherSessions) -> None:
    for credits in (3000, 4000):
        assert shop.validate(cart(voucher("GIFT-50", credits=credits), session=session()))["valid"]
    assert "session" not in shop.validate(cart(voucher("GIFT-50", credits=5001), session=session()))
    assert vouchers.get_session("GIFT-50", "cart-1").credits == 4000
    other = shop.validate(cart(voucher("GIFT-50", credits=1001), session=session("cart-2")))
    assert other["locked_by_others"] is True


def test_a_deleted_voucher_is_answered_without_its_state(shop: Shop, vouchers: VoucherSessions) -> None:
    (redeemed,) = shop.redeem(cart(voucher("LAST"), order="o1"))["redemptions"]
    vouchers.delete_voucher("LAST")
    assert shop.get(redeemed["id"])["voucher"] == {"object": "voucher", "code": "LAST"}
    assert shop.redeem(cart(voucher("LAST"), order="o1"))["redemptions"][0]["id"] == redeemed["id"]


def test_a_balance_is_never_below_zero(shop: Shop, vouchers: VoucherSessions) -> None:
    body = cart(voucher("GIFT-50", credits=4000), order="o1")
    shop.redeem(body)
    vouchers.put_voucher(Voucher(code="GIFT-50", credits=3000))
    assert shop.redeem(body)["redemptions"][0]["voucher"]["gift"] == {"amount": 3000, "balance": 0}

"""A Redis server that fails, and many clients at once."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from faults.proxy import Fault, Proxy
from support.servers import Server, running

from contrib.fastapi.services import Service, app_without_retries
from contrib.fastapi.shop import Json, Shop, cart, session, voucher, without
from voucher_sessions import Durability, OutcomeUnknown, RedemptionNotFound, Voucher, VoucherSessions
from voucher_sessions.contrib.fastapi.ids import RedemptionRef

SECRET = "cart-key-that-nobody-may-see"


def client_of(url: str, **options: Any) -> TestClient:
    return TestClient(app_without_retries(url, **options))


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Between the application and Redis."""
    with Proxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def shop(proxy: Proxy) -> Iterator[Shop]:
    with client_of(proxy.url) as client:
        yield Shop(client)


@pytest.fixture(autouse=True)
def catalogue(vouchers: VoucherSessions) -> None:
    for code in ("A", "B"):
        vouchers.put_voucher(Voucher(code=code, credits=5000, quantity=10))
    # The server knows the scripts from now on: a reply that is lost is not the one that says that it does not.
    vouchers.put_voucher(Voucher(code="OTHER"))
    vouchers.validate("OTHER", session=session("other"))
    vouchers.redeem("OTHER", session="other", redemption_id="other")
    vouchers.rollback("OTHER", "other")
    vouchers.release("OTHER", "other")


LOST: tuple[Fault, ...] = ("close", "reset", "torn")


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("codes", ["A", "AB"])
def test_a_redemption_whose_reply_was_lost_is_repeated_with_the_id_of_the_answer(
    codes: str, fault: Fault, shop: Shop, proxy: Proxy, vouchers: VoucherSessions
) -> None:
    body = cart(*(voucher(code, credits=1000) for code in codes))
    proxy.follow([fault])
    error = shop.redeem(body, 503)
    source_id = error["order"]["source_id"]
    assert without(error, "request_id", "details") == {
        "code": 503,
        "key": "outcome_unknown",
        "message": "outcome unknown",
        "order": {"source_id": source_id},
    }
    answer = shop.redeem({**body, "order": {"source_id": source_id}})
    assert answer["redemptions"][0]["amount"] == 1000
    assert vouchers.get_voucher("A").credits.used == 1000


def test_the_id_of_the_order_is_the_one_to_repeat_with(shop: Shop, proxy: Proxy, vouchers: VoucherSessions) -> None:
    vouchers.validate("A", credits=1000, session=session(SECRET))
    body = cart(voucher("A"), session={"key": SECRET}, order="o1")
    proxy.follow(["close"])
    error = shop.redeem(body, 503)
    assert error["order"] == {"source_id": "o1"}
    assert "session" not in error
    assert SECRET not in str(error)
    assert shop.redeem(body)["redemptions"][0]["amount"] == 1000


def test_a_generated_key_is_sent_only_to_its_client(
    shop: Shop, proxy: Proxy, vouchers: VoucherSessions, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else knows it, and without it the client could neither use nor release its own lock."""
    body = cart(voucher("A", credits=5000), session={"type": "LOCK"})
    proxy.follow(["close"])
    error = shop.validate(body, 503)
    key = error["session"]["key"]
    assert [each.key for each in vouchers.list_sessions("A")] == [key]
    assert shop.validate({**body, "session": {"type": "LOCK", "key": key}})["valid"]
    assert key not in caplog.text
    assert f"request {error['request_id']}: validate" in caplog.text


@pytest.mark.parametrize("body", [cart(voucher("A"), session=session(SECRET)), cart(voucher("A"))])
def test_a_key_of_the_client_is_not_in_an_answer(
    body: Json, shop: Shop, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.follow(["close"])
    error = shop.validate(body, 503)
    assert error["key"] == ("outcome_unknown" if "session" in body else "server_unavailable")
    assert "session" not in error
    assert SECRET not in str(error) + caplog.text


def test_a_loader_that_does_not_know_the_outcome_of_a_call_of_its_own(
    server: Server, vouchers: VoucherSessions
) -> None:
    async def loader(code: str) -> Voucher:
        raise OutcomeUnknown("put_voucher", ["of another shop"])

    with client_of(server.url, loader=loader) as client:
        for call in (Shop(client).redeem, Shop(client).validate):
            error = call(cart(voucher("NEW")), 503)
            assert error["key"] == "outcome_unknown"
            assert {"order", "session"}.isdisjoint(error)


def test_a_rollback_whose_reply_was_lost(shop: Shop, proxy: Proxy, vouchers: VoucherSessions) -> None:
    redeemed = shop.redeem(cart(voucher("A", credits=1000), order="o1"))["redemptions"][0]["id"]
    both = shop.redeem(cart(voucher("A", credits=1), voucher("B", credits=1), order="o2"))["parent_redemption"]["id"]
    proxy.follow(["close", "close"])
    assert shop.roll_back(redeemed, 503)["key"] == "outcome_unknown"
    assert shop.roll_back_all(both, 503)["key"] == "outcome_unknown"
    assert shop.roll_back(redeemed, 400)["key"] == "already_rolled_back"
    assert shop.roll_back_all(both, 400)["key"] == "already_rolled_back"
    assert vouchers.get_voucher("A").credits.used == 0


def test_a_release_whose_reply_was_lost(shop: Shop, proxy: Proxy, vouchers: VoucherSessions) -> None:
    vouchers.validate("A", session=session(SECRET))
    path = f"/v1/vouchers/A/sessions/{SECRET}"
    proxy.follow(["close"])
    response = shop.client.delete(path)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert SECRET not in response.text
    assert shop.client.delete(path).status_code == 204


def test_a_redemption_is_answered_also_if_its_voucher_cannot_be_read(shop: Shop, proxy: Proxy) -> None:
    proxy.follow([None, "close"])
    (redemption,) = shop.redeem(cart(voucher("A", credits=1000), order="o1"))["redemptions"]
    assert redemption["amount"] == 1000
    assert redemption["voucher"] == {"object": "voucher", "code": "A"}


def test_a_server_that_is_down_grants_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with running("valkey", appendonly="yes") as server, client_of(server.url) as client:
        with VoucherSessions.from_url(server.url) as vouchers:
            vouchers.put_voucher(Voucher(code="A", credits=5000))
        shop = Shop(client)
        redeemed = shop.redeem(cart(voucher("A", credits=1), order="o0"))["redemptions"][0]["id"]
        server.kill()
        parent = RedemptionRef("o0", ("A", "B")).text
        body = cart(voucher("A", credits=1000), session=session(SECRET), order="o1")
        requests = [
            ("POST", "/v1/validations", body),
            ("POST", "/v1/validations", cart(voucher("A"))),
            ("POST", "/v1/redemptions", body),
            ("GET", f"/v1/redemptions/{redeemed}", None),
            ("GET", f"/v1/redemptions/{parent}", None),
            ("POST", f"/v1/redemptions/{redeemed}/rollback", None),
            ("POST", f"/v1/redemptions/{parent}/rollbacks", None),
            ("DELETE", f"/v1/vouchers/A/sessions/{SECRET}", None),
            ("GET", "/v1/vouchers/A/redemption", None),
        ]
        for method, path, sent in requests:
            response = client.request(method, path, json=sent)
            assert response.status_code == 503, (method, path)
            assert response.json()["key"] == "server_unavailable"
            assert response.headers["Retry-After"] == "1"
            assert SECRET not in response.text
            assert server.socket not in response.text
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == len(requests)
        assert SECRET not in caplog.text
        server.start()
        with VoucherSessions.from_url(server.url) as vouchers:
            assert vouchers.list_sessions("A") == []
            assert vouchers.get_voucher("A").credits.used == 1
            with pytest.raises(RedemptionNotFound):
                vouchers.get_redemption("A", "o1")
        assert shop.get(redeemed)["status"] == "SUCCEEDED"


def test_a_server_that_refuses_grants_nothing() -> None:
    with running("valkey") as full, client_of(full.url) as client:
        with VoucherSessions.from_url(full.url) as vouchers:
            vouchers.put_voucher(Voucher(code="A"))
        with full.client() as admin:
            admin.config_set("maxmemory", 1)
        response = client.post("/v1/validations", json=cart(voucher("A"), session=session(SECRET)))
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert response.json()["key"] == "server_refused"
        assert SECRET not in response.text


class TestNotDurable:
    """A change that no replica confirms."""

    @pytest.fixture
    def shop(self, server: Server) -> Iterator[Shop]:
        with client_of(server.url, durability=Durability(replicas=1, timeout_ms=10)) as client:
            yield Shop(client)

    def test_a_redemption(self, shop: Shop, vouchers: VoucherSessions) -> None:
        body = cart(voucher("A", credits=1000))
        error = shop.redeem(body, 503)
        assert error["key"] == "not_durable"
        source_id = error["order"]["source_id"]
        assert vouchers.get_redemption("A", source_id).credits == 1000
        assert shop.redeem({**body, "order": {"source_id": source_id}}, 503)["order"] == {"source_id": source_id}
        assert vouchers.get_voucher("A").credits.used == 1000

    def test_a_lock_with_a_generated_key(self, shop: Shop, vouchers: VoucherSessions) -> None:
        error = shop.validate(cart(voucher("A"), voucher("B"), session={"type": "LOCK"}), 503)
        assert error["key"] == "not_durable"
        assert vouchers.get_session("B", error["session"]["key"]).quantity == 1

    def test_a_lock_with_a_key_of_the_client(self, shop: Shop, vouchers: VoucherSessions) -> None:
        error = shop.validate(cart(voucher("A"), session=session(SECRET)), 503)
        assert error["key"] == "not_durable"
        assert SECRET not in str(error)
        assert vouchers.get_session("A", SECRET).quantity == 1


@pytest.mark.unmeasured
class TestManyClients:
    """The last voucher, and 50 clients that want it at the same time."""

    CLIENTS = 50

    @pytest.fixture(autouse=True)
    def last(self, vouchers: VoucherSessions) -> None:
        vouchers.put_voucher(Voucher(code="LAST", quantity=1))

    def at_once(self, service: Service, requests: list[tuple[str, Json]]) -> list[Any]:
        """The answers to requests that are sent at the same time, each over a connection of its own."""
        ready = threading.Barrier(len(requests))

        def send(request: tuple[str, Json]) -> Any:
            path, body = request
            with httpx2.Client(base_url=service.url, timeout=60) as client:
                client.get("/openapi.json")  # the connection is open
                ready.wait(60)
                return client.post(path, json=body)

        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(send, requests))

    def test_exactly_one_redeems_it(self, service: Service, vouchers: VoucherSessions) -> None:
        orders = [f"o{number}" for number in range(self.CLIENTS)]
        answers = self.at_once(service, [("/v1/redemptions", cart(voucher("LAST"), order=order)) for order in orders])
        assert Counter(answer.status_code for answer in answers) == {200: 1, 400: self.CLIENTS - 1}
        assert {answer.json()["key"] for answer in answers if answer.status_code == 400} == {"quantity_exceeded"}
        assert vouchers.get_voucher("LAST").quantity.used == 1

    def test_exactly_one_locks_it_and_redeems_it(self, service: Service, vouchers: VoucherSessions) -> None:
        keys = [f"cart-{number}" for number in range(self.CLIENTS)]
        carts = [cart(voucher("LAST"), session=session(key)) for key in keys]
        answers = self.at_once(service, [("/v1/validations", body) for body in carts])
        winners = [key for key, answer in zip(keys, answers, strict=True) if answer.json()["valid"]]
        assert len(winners) == 1
        assert all(answer.json()["valid"] or answer.json()["locked_by_others"] for answer in answers)
        redemptions = [{**body, "order": {"source_id": body["session"]["key"]}} for body in carts]
        answers = self.at_once(service, [("/v1/redemptions", body) for body in redemptions])
        assert Counter(answer.status_code for answer in answers) == {200: 1, 404: self.CLIENTS - 1}
        assert vouchers.get_redemption("LAST", winners[0]).session_key == winners[0]

    def test_one_order_that_is_sent_by_all_is_redeemed_once(self, service: Service, vouchers: VoucherSessions) -> None:
        body = cart(voucher("A", credits=100), voucher("LAST"), order="o1")
        answers = self.at_once(service, [("/v1/redemptions", body)] * self.CLIENTS)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["parent_redemption"]["id"] for answer in answers}) == 1
        assert vouchers.get_voucher("A").credits.used == 100


def test_a_redis_server_that_refuses_the_password(caplog: pytest.LogCaptureFixture) -> None:
    with running("valkey") as server:
        with server.client() as admin:
            admin.config_set("requirepass", "secret")
        with client_of(server.url) as client:
            answer = client.post("/v1/validations", json=cart(voucher("A")))
    assert (answer.status_code, answer.json()["key"]) == (503, "server_unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert "secret" not in caplog.text
    assert answer.json()["request_id"] in caplog.text

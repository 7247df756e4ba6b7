"""The official client of the API, from PyPI, runs a checkout against uvicorn on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3
import voucherify
from support.listener import Listener
from support.servers import Server, running
from voucherify import models

from contrib.fastapi.services import app_without_retries, running_service
from voucher_sessions import Used, Voucher, VoucherSessions
from voucher_sessions.contrib.fastapi import create_app

pytestmark = pytest.mark.long
KEYS = {"shop": "token-of-the-shop"}
CODES = ["GIFT-50", "GIFT/50 %2F ä?#"]


class LossyProxy(Listener):
    """Between a client and the service: for some answers, it closes the connection instead of passing them on."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.losing = 0
        self.requests: list[bytes] = []
        self.listen()

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while request := await reader.read(1 << 20):
                self.requests.append(request)
                their_writer.write(request)
                answer = await their_reader.read(1 << 20)
                if self.losing:
                    self.losing -= 1
                    return
                writer.write(answer)
        finally:
            for each in (writer, their_writer):
                each.close()


class Client:
    """The parts of the client that a checkout calls."""

    def __init__(self, port: int, *, token: str = KEYS["shop"]) -> None:
        configuration = voucherify.Configuration(
            host=f"http://127.0.0.1:{port}", api_key={"X-App-Id": "shop", "X-App-Token": token}
        )
        api = voucherify.ApiClient(configuration)
        self.pool: urllib3.PoolManager = api.rest_client.pool_manager
        self._validations = voucherify.ValidationsApi(api)
        self._redemptions = voucherify.RedemptionsApi(api)
        self._vouchers = voucherify.VouchersApi(api)

    def validate(self, *redeemables: dict[str, Any], session: Any = None) -> Any:
        item = models.ValidationsValidateRequestBodyRedeemablesItem
        body = models.ValidationsValidateRequestBody(
            redeemables=[item.from_dict(each) for each in redeemables],
            session=session,
            order=models.Order(source_id="o1", amount=6000),
            customer=models.Customer(source_id="customer-1"),
            metadata={"shop": 1},
        )
        return self._validations.validate_stacked_discounts(validations_validate_request_body=body)

    def redeem(self, *redeemables: dict[str, Any], order: str, session: Any = None) -> Any:
        item = models.RedemptionsRedeemRequestBodyRedeemablesItem
        body = models.RedemptionsRedeemRequestBody(
            redeemables=[item.from_dict(each) for each in redeemables],
            session=session,
            order=models.Order(source_id=order, amount=6000),
        )
        return self._redemptions.redeem_stacked_discounts(redemptions_redeem_request_body=body)

    def get(self, redemption_id: str) -> Any:
        return self._redemptions.get_redemption(redemption_id)

    def roll_back(self, redemption_id: str) -> Any:
        return self._redemptions.rollback_redemption(redemption_id, reason="returned & paid back")

    def roll_back_all(self, redemption_id: str) -> Any:
        return self._redemptions.rollback_stacked_redemptions(redemption_id)

    def release(self, code: str, key: str) -> None:
        self._vouchers.release_validation_session(code, key)

    def redemptions_of(self, code: str) -> Any:
        return self._redemptions.get_voucher_redemptions(code)


def gift(code: str, credits: int | None = None) -> dict[str, Any]:
    return {"object": "voucher", "id": code} | ({} if credits is None else {"gift": {"credits": credits}})


def lock(key: str | None) -> Any:
    return models.Session(type="LOCK", key=key, ttl=15, ttl_unit="MINUTES")


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    with running_service(create_app(server.url, api_keys=KEYS)) as service:
        yield service.port


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    client = Client(port)
    yield client
    client.pool.clear()


@pytest.fixture(autouse=True)
def catalogue(vouchers: VoucherSessions) -> None:
    for code in CODES:
        vouchers.put_voucher(Voucher(code=code, credits=5000))
    vouchers.put_voucher(Voucher(code="LOY", points=500))
    vouchers.put_voucher(Voucher(code="LAST", quantity=1))


def error_of(caught: pytest.ExceptionInfo[Any]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(caught.value.body)
    return body


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("key", ["cart-1", "cart/1 ä%2F"])
def test_a_checkout(code: str, key: str, client: Client, vouchers: VoucherSessions) -> None:
    # lock
    locked = client.validate(gift(code, 3000), session=lock(key))
    assert locked.valid is True
    assert locked.redeemables[0].result.gift.credits == 3000
    assert (locked.session.key, locked.session.ttl, locked.session.ttl_unit) == (key, 15, "MINUTES")
    # refuse another cart
    refused = client.validate(gift(code, 3000), session=lock("other"))
    assert refused.valid is False
    assert refused.session is None
    assert refused.redeemables[0].result.error.key == "gift_amount_exceeded"
    assert refused.inapplicable_redeemables[0].id == code
    with pytest.raises(voucherify.exceptions.BadRequestException) as caught:
        client.redeem(gift(code, 3000), order="other")
    assert error_of(caught)["key"] == "gift_amount_exceeded"
    assert error_of(caught)["locked_by_others"] is True
    assert int(caught.value.headers["Retry-After"]) > 890
    # override
    assert client.validate(gift(code, 4000), session=lock(key)).valid is True
    assert vouchers.get_session(code, key).credits == 4000
    # redeem, and once more
    redeemed, again = (client.redeem(gift(code), order="o1", session=lock(key)) for _ in range(2))
    (redemption,) = redeemed.redemptions
    assert redemption.to_dict() == again.redemptions[0].to_dict()
    assert (redemption.amount, redemption.status, redemption.session.key) == (4000, "SUCCEEDED", key)
    assert (redemption.voucher.code, redemption.voucher.gift.balance) == (code, 1000)
    assert redemption.to_dict().items() <= client.get(redemption.id).to_dict().items()
    assert client.redemptions_of(code).redeemed_quantity == 1
    # lock and release, and once more
    assert client.validate(gift(code, 1000), session=lock(key)).valid is True
    client.release(code, key)
    client.release(code, key)
    assert client.validate(gift(code, 1000)).valid is True
    # roll back, and not again
    rollback = client.roll_back(redemption.id)
    assert (rollback.amount, rollback.gift.amount, rollback.redemption) == (-4000, -4000, redemption.id)
    assert rollback.reason == "returned & paid back"
    assert client.get(redemption.id).status == "ROLLED_BACK"
    repeats: list[Callable[[], object]] = [
        lambda: client.roll_back(redemption.id),
        lambda: client.redeem(gift(code), order="o1", session=lock(key)),
    ]
    for repeat in repeats:
        with pytest.raises(voucherify.exceptions.BadRequestException) as caught:
            repeat()
        assert error_of(caught)["key"] == "already_rolled_back"
    assert vouchers.get_voucher(code).credits.available == 5000


def test_a_stack(client: Client, vouchers: VoucherSessions) -> None:
    stack = (gift(CODES[1], 1000), {"object": "voucher", "id": "LOY", "reward": {"points": 50}}, gift("LAST"))
    locked = client.validate(*stack, session=lock(None))
    assert locked.session.key.startswith("ssn_")
    assert locked.redeemables[1].result.loyalty_card.points == 50
    refused = client.validate(gift("LAST"), gift("NONE"), session=lock("other"))
    assert [each.result.error.key for each in refused.inapplicable_redeemables] == ["quantity_exceeded", "not_found"]
    redeemed = client.redeem(*stack, order="o/1", session=models.Session(type="LOCK", key=locked.session.key))
    parent = redeemed.parent_redemption
    assert [each.redemption for each in redeemed.redemptions] == [parent.id] * 3
    assert redeemed.redemptions[1].loyalty_card.points == 50
    assert client.get(parent.id).related_object_type == "redemption"
    for redemption_id, key in (
        (parent.id, "invalid_redemption"),
        (redeemed.redemptions[2].id, "invalid_redemption_parent"),
    ):
        with pytest.raises(voucherify.exceptions.BadRequestException) as caught:
            client.roll_back(redemption_id)
        assert error_of(caught)["key"] == key
    rolled_back = client.roll_back_all(parent.id)
    amounts = {each.redemption: each.amount for each in rolled_back.rollbacks}
    assert [amounts[each.id] for each in redeemed.redemptions] == [-1000, -50, None]
    assert rolled_back.parent_rollback.redemption == parent.id
    assert client.get(redeemed.redemptions[0].id).status == "ROLLED_BACK"
    assert vouchers.get_voucher("LAST").quantity.available == 1


def test_explicit_nulls(client: Client, vouchers: VoucherSessions) -> None:
    nulls = models.Session(type="LOCK", key=None, ttl=None, ttl_unit=None)
    assert {"key": None, "ttl": None, "ttl_unit": None}.items() <= nulls.to_dict().items()
    session = client.validate(gift("LAST"), session=nulls).session
    assert (session.ttl, session.ttl_unit) == (7, "DAYS")
    assert vouchers.get_session("LAST", session.key).quantity == 1


def test_errors_have_the_clients_classes(client: Client, port: int, vouchers: VoucherSessions) -> None:
    client.redeem(gift(CODES[0], 1), order="o1")
    vouchers.put_voucher(Voucher(code="EMPTY", quantity=1), used=Used(quantity=1))
    exceptions = voucherify.exceptions
    stranger = Client(port, token="token")
    cases: list[tuple[Callable[[], object], Any, str]] = [
        (lambda: client.redeem(gift("EMPTY"), order="o2"), exceptions.BadRequestException, "quantity_exceeded"),
        (lambda: client.redeem(gift("NONE"), order="o2"), exceptions.NotFoundException, "not_found"),
        (lambda: client.redeem(gift(CODES[0], 2), order="o1"), exceptions.ApiException, "duplicate_found"),
        (lambda: client.release("LAST", "never"), exceptions.NotFoundException, "not_found"),
        (lambda: client.get("r_never"), exceptions.NotFoundException, "not_found"),
        (client.validate, exceptions.BadRequestException, "invalid_redeemables"),
        (lambda: stranger.validate(gift("LAST")), exceptions.UnauthorizedException, "unauthorized"),
    ]
    for call, kind, key in cases:
        with pytest.raises(kind) as caught:
            call()
        assert error_of(caught)["key"] == key
        assert error_of(caught)["code"] == caught.value.status
    stranger.pool.clear()


def test_a_release_whose_answer_was_lost_is_repeated_by_the_client(
    port: int, client: Client, vouchers: VoucherSessions
) -> None:
    key = "cart/1"
    client.validate(gift(CODES[1], 1), session=lock(key))
    with LossyProxy(port) as proxy:
        over_the_proxy = Client(proxy.port)
        proxy.losing = 1
        over_the_proxy.release(CODES[1], key)
        assert [request.split()[0] for request in proxy.requests] == [b"DELETE", b"DELETE"]
        over_the_proxy.pool.clear()
    assert vouchers.list_sessions(CODES[1]) == []


def test_the_client_waits_for_a_server_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    """It repeats what is safe three times, each after the second that Retry-After names, and a redemption never."""
    with running("valkey") as down, running_service(app_without_retries(down.url)) as service:
        client = Client(service.port)
        down.kill()
        calls: list[tuple[Callable[[], object], int]] = [
            (lambda: client.redeem(gift("LAST"), order="o1"), 1),
            (lambda: client.release("A", "k"), 4),
            (lambda: client.redemptions_of("A"), 4),
        ]
        for call, tries in calls:
            caplog.clear()
            with pytest.raises(voucherify.exceptions.ServiceException) as caught:
                call()
            assert error_of(caught)["key"] == "server_unavailable"
            assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == tries
        with ThreadPoolExecutor(1) as pool:
            release = pool.submit(client.release, "A", "k")
            down.start()
            assert isinstance(release.exception(30), voucherify.exceptions.NotFoundException)
        client.pool.clear()

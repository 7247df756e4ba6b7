"""The shop of examples/django_shop: one voucher and two customers, lost replies, expired locks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
import time_machine
from django.test import AsyncClient, Client
from support.django_project import vouchers

from voucher_sessions import AsyncVoucherSessions, ServerUnavailable, VoucherSessions
from voucher_sessions.contrib import testing
from voucher_sessions.contrib.django import get_engine
from voucher_sessions.contrib.testing import RedisTrouble

IN_USE = "This code is in use in another cart. Please try again in 15 minutes."


@pytest.fixture
def trouble() -> RedisTrouble:
    return RedisTrouble()


@pytest.fixture(autouse=True)
def shop(trouble: RedisTrouble) -> Iterator[VoucherSessions]:
    """The engines of the shop are those of the pytest plugin."""
    from django_shop.catalogue import load

    server, options = testing.memory_server(), {"max_ttl": 900, "loader": load}

    def async_engine() -> AsyncVoucherSessions:
        return testing.async_engine(server, trouble, options)

    with (
        testing.sync_engine(server, trouble, options) as engine,
        vouchers(ENGINE=lambda: engine, ASYNC_ENGINE=async_engine),
    ):
        yield engine


def enter(customer: Client, code: str) -> str:
    return customer.post("/", {"code": code}, follow=True).content.decode()


def errors_on(page: str) -> list[str]:
    return re.findall(r"<li>(.+?)</li>", page)


def used(code: str) -> int:
    return get_engine().get_voucher(code).quantity.used


def test_two_customers_and_the_last_voucher() -> None:
    mine, other = Client(), Client()
    with time_machine.travel("2026-11-21T12:00:00+00:00", tick=False) as clock:
        assert "Voucher LAST-ONE is kept for you" in enter(mine, "LAST-ONE")
        assert errors_on(enter(other, "LAST-ONE")) == [IN_USE]
        clock.shift(timedelta(minutes=15))
        assert "Voucher LAST-ONE is kept for you" in enter(other, "LAST-ONE")
        assert errors_on(mine.post("/pay").content.decode()) == [IN_USE]
        assert "paid with voucher LAST-ONE" in other.post("/pay").content.decode()
        page = mine.post("/pay")
        assert (page.status_code, errors_on(page.content.decode())) == (400, ["This code has been used up."])
    assert used("LAST-ONE") == 1


def test_a_second_tab_pays_nothing_more() -> None:
    customer = Client()
    enter(customer, "GIFT-50")
    tab = Client()
    tab.cookies.update(customer.cookies)
    for each in (customer, tab):
        assert "paid with voucher GIFT-50" in each.post("/pay").content.decode()
    assert used("GIFT-50") == 1
    assert get_engine().get_voucher("GIFT-50").credits.used == 3000


def test_an_expired_lock_does_not_refuse_the_payment() -> None:
    customer = Client()
    with time_machine.travel("2026-11-21T12:00:00+00:00", tick=False) as clock:
        enter(customer, "GIFT-50")
        clock.shift(timedelta(hours=1))
        assert "paid with voucher GIFT-50" in customer.post("/pay").content.decode()
    assert used("GIFT-50") == 1


def test_another_code_replaces_the_first() -> None:
    customer = Client()
    enter(customer, "LAST-ONE")
    assert "Voucher LAST-ONE is kept" in enter(customer, "LAST-ONE")
    assert "Voucher GIFT-50 is kept" in enter(customer, "GIFT-50")
    assert "Voucher LAST-ONE is kept" in enter(Client(), "LAST-ONE")


def test_another_code_also_if_the_first_cannot_be_released(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(*_: object) -> None:
        raise ServerUnavailable("release", ["LAST-ONE"], "it is down")

    customer = Client()
    enter(customer, "LAST-ONE")
    monkeypatch.setattr(VoucherSessions, "release", release)
    assert "Voucher GIFT-50 is kept" in enter(customer, "GIFT-50")
    assert "paid with voucher GIFT-50" in customer.post("/pay").content.decode()


@pytest.mark.parametrize(
    ("code", "sentence"), [("NONE", "This code does not exist."), (" ", "This field is required.")]
)
def test_codes_that_do_not_exist(code: str, sentence: str) -> None:
    assert errors_on(enter(Client(), code)) == [sentence]


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_reply_does_not_pay_twice(lost: int, trouble: RedisTrouble) -> None:
    customer = Client()
    enter(customer, "GIFT-50")
    trouble.lose_replies(lost)
    assert "paid with voucher GIFT-50" in customer.post("/pay").content.decode()
    assert trouble.replies_to_lose == 0
    assert used("GIFT-50") == 1


def test_while_redis_is_down_nobody_pays(trouble: RedisTrouble) -> None:
    customer = Client()
    enter(customer, "GIFT-50")
    sorry = ["We cannot check this code at the moment. Please try again later."]
    with trouble.down():
        assert errors_on(customer.post("/pay").content.decode()) == sorry
        assert errors_on(enter(Client(), "GIFT-50")) == sorry
        assert customer.get("/health").status_code == 503
    trouble.lose_replies(3)
    assert errors_on(customer.post("/pay").content.decode()) == sorry
    assert "paid with voucher GIFT-50" in customer.post("/pay").content.decode()
    assert used("GIFT-50") == 1


def test_without_a_voucher_there_is_nothing_to_pay_with() -> None:
    assert Client().post("/pay", follow=True).redirect_chain == [("/", 302)]


def test_an_async_view_shows_what_a_code_is_worth(trouble: RedisTrouble) -> None:
    async def offer(code: str) -> object:
        return (await AsyncClient().get(f"/offers/{code}")).json()

    enter(Client(), "LAST-ONE")
    held = {"code": "LAST-ONE", "valid": False, "reason": "quantity_exceeded", "locked_by_others": True}
    assert asyncio.run(offer("LAST-ONE")) == held
    free = {"code": "GIFT-50", "valid": True, "reason": None, "locked_by_others": False}
    assert asyncio.run(offer("GIFT-50")) == free
    answer = asyncio.run(AsyncClient().get(f"/offers/{'x' * 300}"))
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_request")
    with trouble.down():
        answer = asyncio.run(AsyncClient().get("/offers/GIFT-50"))
    assert (answer.status_code, answer.json()["reason"]) == (503, "server_unavailable")

"""The shop in examples/fastapi_shop: the page of two customers, one coupon, a Redis that is away."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_shop.shop import COUPON, create_shop
from support.servers import Server, running
from support.waiting import until

from voucher_sessions import VoucherSessions
from voucher_sessions.bulk import scan_redemptions
from voucher_sessions.contrib import testing
from voucher_sessions.contrib.testing import RedisTrouble

FREE = "The last coupon, LAST-ONE, is available."
MINE = "The coupon is kept for you for 2:00 minutes."
HELD = r"Another customer has the last coupon at the moment. It is available again in (1:5\d|2:00) minutes,"
GONE = "The last coupon has been used. You have not ordered anything."
ORDERED = "The coupon LAST-ONE has paid for your tasting box."


@pytest.fixture
def vouchers(server_of: Callable[[str], Server]) -> Iterator[VoucherSessions]:
    """What the shop has in Redis."""
    server = server_of("valkey")
    with server.client() as client:
        client.flushall()
    with VoucherSessions.from_url(server.url) as vouchers:
        yield vouchers


@pytest.fixture
def shop(server_of: Callable[[str], Server]) -> FastAPI:
    return create_shop(server_of("valkey").url)


@pytest.fixture
def mine(vouchers: VoucherSessions, shop: FastAPI) -> Iterator[TestClient]:
    """The browser of the first customer. While it is open, the shop is."""
    with TestClient(shop) as browser:
        yield browser


@pytest.fixture
def other(mine: TestClient) -> TestClient:
    """The browser of another customer."""
    return TestClient(mine.app)


def text_of(response: Any) -> str:
    """What a customer reads about the coupon."""
    note = response.text.partition('id="coupon">')[2].partition("</div>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", note)).split())


def visit(browser: TestClient) -> str:
    response = browser.get("/")
    assert response.status_code == 200
    return text_of(response)


def click(browser: TestClient, path: str) -> str:
    """Send the form of the page that has this path, and return what the next page says."""
    assert f'<form method="post" action="{path}">' in browser.get("/").text
    return send(browser, path)


def send(browser: TestClient, path: str) -> str:
    """Send a form, though the page may not have it any more: another tab may."""
    answer = browser.post(path, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    return visit(browser)


def end_locks(vouchers: VoucherSessions) -> None:
    for session in vouchers.list_sessions("LAST-ONE"):
        vouchers.extend("LAST-ONE", session.key, ttl=1, ttl_unit="MILLISECONDS")
    until(lambda: vouchers.list_sessions("LAST-ONE") == [])


def used(vouchers: VoucherSessions) -> int:
    return vouchers.get_voucher("LAST-ONE").quantity.used


def test_two_carts_and_the_last_coupon(mine: TestClient, other: TestClient, vouchers: VoucherSessions) -> None:
    assert FREE in visit(mine)
    assert "kept for you for 2:00 minutes" in visit(other)
    assert MINE in click(mine, "/coupon")
    assert re.match(HELD, visit(other))
    assert re.match(HELD, send(other, "/coupon"))
    assert re.match(HELD, send(other, "/order"))
    assert ORDERED in click(mine, "/order")
    assert visit(other) == GONE
    assert send(other, "/order") == GONE
    assert used(vouchers) == 1


def test_the_countdown_begins_with_what_is_left(mine: TestClient, other: TestClient) -> None:
    click(mine, "/coupon")
    for browser in (mine, other):
        left = re.search(r'role="timer" data-milliseconds="(\d+)"', browser.get("/").text)
        assert left
        assert 110_000 < int(left[1]) <= 120_000


def test_a_lock_that_has_expired(mine: TestClient, other: TestClient, vouchers: VoucherSessions) -> None:
    click(mine, "/coupon")
    end_locks(vouchers)
    assert FREE in visit(other)
    assert MINE in click(other, "/coupon")
    assert re.match(HELD, send(mine, "/order"))  # from the page that said that the coupon was kept
    end_locks(vouchers)
    assert ORDERED in send(mine, "/order")
    assert send(other, "/order") == GONE
    assert used(vouchers) == 1


def test_a_coupon_that_is_given_back(mine: TestClient, other: TestClient) -> None:
    click(mine, "/coupon")
    assert FREE in click(mine, "/coupon/return")
    assert MINE in click(other, "/coupon")
    assert re.match(HELD, send(mine, "/coupon/return"))  # what others have stays theirs


def test_a_second_tab_and_a_second_click_do_not_pay_twice(mine: TestClient, vouchers: VoucherSessions) -> None:
    click(mine, "/coupon")
    vouchers.adjust("LAST-ONE", adjustment_id="more", quantity=5)  # so that nothing but the order's id prevents it
    for path in ("/order", "/order", "/coupon", "/order"):
        assert ORDERED in send(mine, path)
    assert used(vouchers) == 1
    assert vouchers.list_sessions("LAST-ONE") == []
    assert FREE in click(mine, "/cart")
    assert ORDERED in send(mine, "/order")
    assert used(vouchers) == 2


def test_a_second_click_does_not_prolong_the_lock(mine: TestClient, vouchers: VoucherSessions) -> None:
    click(mine, "/coupon")
    (before,) = vouchers.list_sessions("LAST-ONE")
    send(mine, "/coupon")
    (after,) = vouchers.list_sessions("LAST-ONE")
    assert after.expires_at == before.expires_at


def test_what_the_browser_gets_to_know(mine: TestClient, vouchers: VoucherSessions) -> None:
    first = mine.get("/")
    assert re.fullmatch(r"cart=[\w-]{32}; HttpOnly; Path=/; SameSite=lax", first.headers["Set-Cookie"])
    assert first.headers["Cache-Control"] == "no-store"
    assert first.text.startswith("<!doctype html>")
    click(mine, "/coupon")
    (session,) = vouchers.list_sessions("LAST-ONE")
    answer = mine.get("/")
    assert session.key not in answer.text + str(answer.headers)
    assert mine.cookies["cart"] not in answer.text + session.key


def test_the_cookie_is_secure_where_the_page_is(mine: TestClient) -> None:
    browser = TestClient(mine.app, base_url="https://testserver")
    assert browser.get("/").headers["Set-Cookie"].endswith("; Secure")


@pytest.mark.parametrize("path", ["/coupon", "/coupon/return", "/order", "/cart"])
def test_a_form_without_a_cookie_changes_nothing(path: str, mine: TestClient, vouchers: VoucherSessions) -> None:
    """So come the forms of other sites."""
    assert FREE in send(mine, path)
    assert (used(vouchers), vouchers.list_sessions("LAST-ONE")) == (0, [])


def test_a_restart_changes_nothing(mine: TestClient, vouchers: VoucherSessions) -> None:
    visit(mine)
    send(mine, "/order")
    with TestClient(mine.app) as browser:
        assert visit(browser) == GONE
    vouchers.adjust("LAST-ONE", adjustment_id="one-more", quantity=1)
    with TestClient(mine.app) as browser:
        assert FREE in visit(browser)
    assert used(vouchers) == 1


def test_an_order_that_was_rolled_back(mine: TestClient, vouchers: VoucherSessions) -> None:
    click(mine, "/coupon")
    click(mine, "/order")
    (order,) = scan_redemptions(vouchers)
    vouchers.rollback("LAST-ONE", order.id)
    assert visit(mine) == send(mine, "/order") == "Your coupon was not used up by it."
    assert FREE in click(mine, "/cart")
    assert used(vouchers) == 0


def test_a_campaign_that_has_ended(mine: TestClient, vouchers: VoucherSessions) -> None:
    click(mine, "/coupon")
    vouchers.delete_voucher("LAST-ONE")
    assert visit(mine) == send(mine, "/order") == send(mine, "/coupon") == GONE


def test_redis_is_away() -> None:
    with running("valkey") as server, TestClient(create_shop(server.url)) as browser:
        click(browser, "/coupon")
        server.kill()
        answer = browser.get("/")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert text_of(answer) == "We cannot check our coupons at the moment, so we cannot show your cart."
        for path in ("/coupon", "/coupon/return", "/order"):
            answer = browser.post(path)
            assert answer.status_code == 503
            assert text_of(answer) == "We cannot check our coupons at the moment. Your click has changed nothing."
            assert "<form" not in answer.text


def test_a_lost_reply_is_not_taken_for_an_answer() -> None:
    shop, trouble = create_shop("memory://"), RedisTrouble()
    with TestClient(shop) as browser:
        engine = testing.async_engine(testing.memory_server(), trouble, {"max_ttl": 120})
        shop.state.engine = engine
        assert browser.portal
        browser.portal.call(engine.put_voucher, COUPON)
        visit(browser)
        trouble.lose_replies(1)
        answer = browser.post("/order")
        assert answer.status_code == 503
        assert "we do not know whether it took effect" in text_of(answer)
        assert ORDERED in visit(browser)
        assert ORDERED in send(browser, "/order")

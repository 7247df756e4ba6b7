"""The page of examples/fastapi_shop in Chromium: two customers and the last coupon, two tabs, a browser without scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from contrib.fastapi.services import running_service
from fastapi_shop.shop import create_shop
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from support.servers import Server, running

from voucher_sessions import VoucherSessions

HOLD_SECONDS = 10
FREE = "The last coupon, LAST-ONE, is available."
MINE = "The coupon is kept for you for"
HELD = "Another customer has the last coupon at the moment. It is available again in"
GONE = "The last coupon has been used."
ORDERED = "The coupon LAST-ONE has paid for your tasting box."


@pytest.fixture
def server() -> Iterator[Server]:
    with running("valkey") as server:
        yield server


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """Where the shop is."""
    with running_service(create_shop(server.url, hold_seconds=HOLD_SECONDS)) as service:
        yield service.url


@pytest.fixture
def slow_url(server: Server) -> Iterator[str]:
    """A shop in which no lock expires during a test."""
    with running_service(create_shop(server.url, hold_seconds=600)) as service:
        yield service.url


def waiting(browser: Chrome) -> WebDriverWait[Chrome]:
    """Waits for a page. While one page follows another, the driver has many kinds of errors."""
    return WebDriverWait(browser, 60, 0.05, [WebDriverException])


def text_of(browser: Chrome) -> str:
    """What the page says about the coupon."""
    return " ".join(browser.find_element(By.ID, "coupon").text.split())


def expect(browser: Chrome, text: str) -> None:
    """Wait until the page says this."""
    waiting(browser).until(lambda browser: text in text_of(browser), f"the page does not say: {text}")


def click(browser: Chrome, name: str) -> None:
    """Click on a button or a link. The next page follows: expect what it says."""
    path = f"//*[self::button or self::a][.='{name}']"
    waiting(browser).until(lambda browser: browser.find_element(By.XPATH, path), f"no button: {name}").click()


def seconds_left(browser: Chrome) -> int:
    """What the countdown shows; 0 if there is none."""
    found = re.search(r"(\d+):(\d\d) minutes", text_of(browser))
    return int(found[1]) * 60 + int(found[2]) if found else 0


def used(server: Server) -> int:
    with VoucherSessions.from_url(server.url) as vouchers:
        return vouchers.get_voucher("LAST-ONE").quantity.used


def test_two_customers_and_the_last_coupon(customer: Callable[..., Chrome], url: str, server: Server) -> None:
    mine, other = customer("mine"), customer("other")
    for browser in (mine, other):
        browser.get(url)
        expect(browser, FREE)
    click(mine, "Use the coupon")
    expect(mine, MINE)
    click(other, "Use the coupon")  # from the page that said that it is available
    expect(other, HELD)
    assert other.find_elements(By.TAG_NAME, "button") == []
    shown = seconds_left(other)
    assert 0 < shown <= HOLD_SECONDS
    waiting(other).until(lambda other: 0 < seconds_left(other) < shown, "the countdown does not run")
    # Nobody touches either page: both say that it is available when the lock of the first has expired.
    for browser in (mine, other):
        expect(browser, FREE)
    click(other, "Use the coupon")
    expect(other, MINE)
    click(other, "Place the order")
    expect(other, ORDERED)
    click(mine, "Use the coupon")
    expect(mine, GONE)
    assert used(server) == 1


def test_a_second_tab_of_the_same_customer(customer: Callable[..., Chrome], slow_url: str, server: Server) -> None:
    browser = customer("mine")
    browser.get(slow_url)
    click(browser, "Use the coupon")
    expect(browser, MINE)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(slow_url)
    expect(browser, MINE)
    click(browser, "Place the order")
    expect(browser, ORDERED)
    browser.switch_to.window(first)
    expect(browser, MINE)
    click(browser, "Place the order")
    expect(browser, ORDERED)
    assert used(server) == 1


def test_without_scripts(customer: Callable[..., Chrome], slow_url: str) -> None:
    """All but the countdown works."""
    mine, other = customer("mine", scripts=False), customer("other", scripts=False)
    mine.get(slow_url)
    click(mine, "Use the coupon")
    expect(mine, MINE)
    other.get(slow_url)
    expect(other, HELD)
    assert 540 < seconds_left(other) <= 600
    click(mine, "Give the coupon back")
    expect(mine, FREE)
    click(other, "Look again")
    expect(other, FREE)
    click(other, "Use the coupon")
    expect(other, MINE)
    click(other, "Place the order")
    expect(other, ORDERED)
    click(mine, "Use the coupon")
    expect(mine, GONE)


def test_redis_is_away(customer: Callable[..., Chrome], slow_url: str, server: Server) -> None:
    browser = customer("mine")
    browser.get(slow_url)
    server.kill()
    click(browser, "Use the coupon")
    expect(browser, "We cannot check our coupons at the moment. Your click has changed nothing.")
    click(browser, "Look again")
    expect(browser, "We cannot check our coupons at the moment, so we cannot show your cart.")


@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_is_as_wide_as_the_window(width: int, customer: Callable[..., Chrome], slow_url: str) -> None:
    browser = customer("mine")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(slow_url)
    click(browser, "Use the coupon")
    expect(browser, MINE)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    for button in browser.find_elements(By.TAG_NAME, "button"):
        assert button.size["height"] >= 44
        assert button.rect["x"] + button.size["width"] <= width

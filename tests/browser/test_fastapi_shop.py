"""The page of examples/fastapi_shop in Chromium: two customers and the last coupon, two tabs, a browser without scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from contrib.fastapi.services import running_service
from fastapi_shop.shop import create_shop
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from support.servers import Server, running
from support.waiting import until

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


def text_of(browser: Chrome) -> str:
    """What the page says about the coupon; nothing while another page is loaded."""
    try:
        return " ".join(browser.find_element(By.ID, "coupon").text.split())
    except (NoSuchElementException, StaleElementReferenceException):
        return ""


def shows(browser: Chrome, text: str) -> bool:
    return text in text_of(browser)


def click(browser: Chrome, name: str) -> None:
    """Click on a button or a link, and wait until the next page is there."""
    before = browser.find_element(By.TAG_NAME, "main")
    browser.find_element(By.XPATH, f"//*[self::button or self::a][.='{name}']").click()
    until(lambda: is_gone(before) and text_of(browser) != "")


def is_gone(element: WebElement) -> bool:
    try:
        return not element.is_enabled()
    except StaleElementReferenceException:
        return True


def seconds_left(browser: Chrome) -> int:
    """What the countdown shows."""
    found = re.search(r"(\d+):(\d\d) minutes", text_of(browser))
    assert found, text_of(browser)
    return int(found[1]) * 60 + int(found[2])


def test_two_customers_and_the_last_coupon(customer: Callable[..., Chrome], url: str, server: Server) -> None:
    mine, other = customer("mine"), customer("other")
    for browser in (mine, other):
        browser.get(url)
        assert FREE in text_of(browser)
    click(mine, "Use the coupon")
    assert MINE in text_of(mine)
    click(other, "Use the coupon")  # from the page that said that it is available
    assert HELD in text_of(other)
    assert other.find_elements(By.TAG_NAME, "button") == []
    shown = seconds_left(other)
    assert 0 < shown <= HOLD_SECONDS
    until(lambda: shows(other, HELD) and seconds_left(other) < shown)
    # Nobody touches either page: both say that it is available when the lock of the first has expired.
    until(lambda: shows(other, FREE) and shows(mine, FREE))
    click(other, "Use the coupon")
    click(other, "Place the order")
    assert ORDERED in text_of(other)
    click(mine, "Use the coupon")
    assert GONE in text_of(mine)
    with VoucherSessions.from_url(server.url) as vouchers:
        assert vouchers.get_voucher("LAST-ONE").quantity.used == 1


def test_a_second_tab_of_the_same_customer(customer: Callable[..., Chrome], slow_url: str, server: Server) -> None:
    browser = customer("mine")
    browser.get(slow_url)
    click(browser, "Use the coupon")
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(slow_url)
    assert MINE in text_of(browser)
    click(browser, "Place the order")
    assert ORDERED in text_of(browser)
    browser.switch_to.window(first)
    assert MINE in text_of(browser)
    click(browser, "Place the order")
    assert ORDERED in text_of(browser)
    with VoucherSessions.from_url(server.url) as vouchers:
        assert vouchers.get_voucher("LAST-ONE").quantity.used == 1


def test_without_scripts(customer: Callable[..., Chrome], slow_url: str) -> None:
    """All but the countdown works."""
    mine, other = customer("mine", scripts=False), customer("other", scripts=False)
    mine.get(slow_url)
    click(mine, "Use the coupon")
    other.get(slow_url)
    assert HELD in text_of(other)
    assert 540 < seconds_left(other) <= 600
    click(mine, "Give the coupon back")
    click(other, "Look again")
    assert FREE in text_of(other)
    click(other, "Use the coupon")
    click(other, "Place the order")
    assert ORDERED in text_of(other)
    click(mine, "Use the coupon")
    assert GONE in text_of(mine)


def test_redis_is_away(customer: Callable[..., Chrome], slow_url: str, server: Server) -> None:
    browser = customer("mine")
    browser.get(slow_url)
    server.kill()
    click(browser, "Use the coupon")
    assert text_of(browser).endswith("Your click has changed nothing.")
    click(browser, "Look again")
    assert text_of(browser).endswith("so we cannot show your cart.")


@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_is_as_wide_as_the_window(width: int, customer: Callable[..., Chrome], slow_url: str) -> None:
    browser = customer("mine")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(slow_url)
    click(browser, "Use the coupon")
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    for button in browser.find_elements(By.TAG_NAME, "button"):
        assert button.size["height"] >= 44
        assert button.rect["x"] + button.size["width"] <= width

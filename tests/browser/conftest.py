"""Customers: each has a Chromium of its own with a private, temporary profile, which ends with the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service


def installed(program: str) -> str:
    """The path of a program. Without it the test fails: a skipped test proves nothing."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"{program} is not installed. On Debian: apt install chromium chromium-driver", pytrace=False)
    return path


def chromium(profile: Path) -> Chrome:
    options = ChromeOptions()
    options.binary_location = installed("chromium")
    options.add_argument("--headless")
    options.add_argument("--disable-dev-shm-usage")  # containers have a small /dev/shm
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # no other host is asked
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root
    return Chrome(options, Service(installed("chromedriver")))


@pytest.fixture
def customer(tmp_path: Path) -> Iterator[Callable[..., Chrome]]:
    """Opens the browser of another customer, who has a name; the scripts of pages run, unless that is said."""
    with ExitStack() as browsers:

        def open_browser(name: str, *, scripts: bool = True) -> Chrome:
            browser = chromium(tmp_path / name)
            browsers.callback(browser.quit)
            browser.set_page_load_timeout(60)
            if not scripts:
                browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
            return browser

        yield open_browser

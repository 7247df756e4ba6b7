"""A new project that is made as docs/django.md says works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from documents.examples import ROOT, examples
from support.servers import Server

SETTINGS, URLS, FORMS, HEALTH, TESTS = (
    block[0].parsed for path, block in examples() if path == ROOT / "docs" / "django.md"
)
# What pytest-django does.
CONFTEST = """
import os
import django
from django.test.utils import setup_test_environment

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()
setup_test_environment()
"""


def run(project: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), *sys.path])}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path, server_of: Callable[[str], Server]) -> Path:
    """The project, its server where the tests have one."""
    run(tmp_path, "-m", "django", "startproject", "shop", ".")
    shop = tmp_path / "shop"
    settings = SETTINGS.replace("INSTALLED_APPS = [", "INSTALLED_APPS += [")
    settings = settings.replace("redis://localhost:6379/0", server_of("valkey").url)
    (shop / "settings.py").write_text(f"{(shop / 'settings.py').read_text()}\n{settings}")
    (shop / "urls.py").write_text(URLS)
    (shop / "forms.py").write_text(FORMS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_shop.py").write_text(f"{TESTS}\n{FORMS_TEST}")
    return tmp_path


FORMS_TEST = """

def test_a_form(vouchers: VoucherSessions) -> None:
    from django.core.exceptions import ValidationError
    from shop.forms import clean_code

    with pytest.raises(ValidationError) as caught:
        clean_code("GIFT-50", "cart-1")
    assert caught.value.code == "voucher_not_found"
    vouchers.put_voucher(Voucher(code="GIFT-50", credits=5000))
    assert clean_code("GIFT-50", "cart-1") == "GIFT-50"
    refused = {"valid": False, "reason": "gift_amount_exceeded", "locked_by_others": True}
    assert Client().post("/carts/cart-2/vouchers/GIFT-50").json() == refused
    assert Client().post("/carts/cart-1/vouchers/GIFT-50").status_code == 200


def test_what_fails_has_a_status(vouchers: VoucherSessions, redis_trouble: RedisTrouble) -> None:
    vouchers.put_voucher(Voucher(code="GIFT-50", credits=5000))
    paths = ["/carts/cart-1/vouchers/{}", "/carts/cart-1/vouchers/{}/payment"]
    assert Client().post(paths[0].format("NONE")).json()["reason"] == "not_found"
    assert Client().post(paths[1].format("NONE")).status_code == 400
    for path in paths:
        for code in ("%20", "x" * 257):
            assert Client().post(path.format(code)).status_code == 400
    assert Client().get("/offers/%20").status_code == 400
    with redis_trouble.down():
        answers = [Client().post(path.format("GIFT-50")) for path in paths] + [Client().get("/offers/GIFT-50")]
        assert {(each.status_code, each.json()["reason"]) for each in answers} == {(503, "server_unavailable")}
    redis_trouble.lose_replies(3)
    assert Client().post(paths[1].format("GIFT-50")).status_code == 503
    assert Client().post(paths[1].format("GIFT-50")).json() == {"paid": 3000}
    vouchers.rollback("GIFT-50", "order-cart-1")
    answer = Client().post(paths[1].format("GIFT-50"))
    assert (answer.status_code, answer.json()) == (400, {"reason": "redemption_rolled_back"})


def test_health() -> None:
    assert Client().get("/health").json() == {"status": "ok"}
"""


def test_a_new_project_that_follows_the_page(project: Path) -> None:
    assert "no issues" in run(project, "manage.py", "check")
    plugin = "voucher_sessions.contrib.pytest_plugin"
    options = ["-p", "no:voucher_sessions", "-p", plugin, "-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "error"]
    assert "4 passed" in run(project, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", *options, "test_shop.py")


def test_the_health_check_that_the_page_names_exists() -> None:
    from django.utils.module_loading import import_string

    named: dict[str, list[str]] = {}
    exec(HEALTH, named)
    assert [import_string(path).__name__ for path in named["CHECKS"]] == ["VoucherSessionsHealthCheck"]

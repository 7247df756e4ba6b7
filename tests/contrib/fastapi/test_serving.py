"""``serve``: what it listens on, and a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient
from support.servers import Server

from contrib.fastapi.shop import cart, session, voucher
from voucher_sessions import InvalidRequest, Voucher, VoucherSessions
from voucher_sessions.contrib.fastapi import serve

KEYS = {"shop": "token-of-the-shop"}


OTHER_NAMES = [
    *("evil.example", "127.0.0.1.evil.example", "evil.example:1", "localhost.evil.example", "192.0.2.1", "[::2]"),
    *("", ":1", "[", "[::1", "::1", "[localhost]", "evil.example@127.0.0.1:x/", "127.0.0.1, evil.example"),
]


OTHER_PAGES = [
    *("https://evil.example", "null", "", "http://127.0.0.1.evil.example:8000", "file://", "127.0.0.1:8000"),
    *("ftp://127.0.0.1", "http://localhost@evil.example", "http://127.0.0.1:1/", "http://127.0.0.1, null"),
]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """The applications that uvicorn would run, and its options."""
    runs: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: runs.append((app, options)))
    return runs


def test_it_listens_on_loopback(served: list[tuple[Any, dict[str, Any]]]) -> None:
    serve("memory://", api_keys=None)
    ((_, options),) = served
    assert options == {"host": "127.0.0.1", "port": 8000, "access_log": False, "server_header": False}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str, served: list[tuple[Any, dict[str, Any]]]) -> None:
    serve("memory://", api_keys=None, host=host, port=1)
    ((app, options),) = served
    assert (options["host"], options["port"]) == (host, 1)
    own = f"[{host}]" if ":" in host else host
    with TestClient(app) as client:
        for name in (own, f"{own}:1", own.upper(), "localhost:1", "127.0.0.1", "[::1]:1"):
            response = client.post("/v1/validations", json=cart(voucher("A")), headers={"Host": name})
            assert response.status_code == 200, name
        for name in OTHER_NAMES:
            response = client.post("/v1/validations", json=cart(voucher("A")), headers={"Host": name})
            assert (response.status_code, response.json()["key"]) == (400, "invalid_host"), name


def test_a_page_from_elsewhere_cannot_roll_back(served: list[tuple[Any, dict[str, Any]]]) -> None:
    """A browser sends a form without a body for any page, without asking the service first."""
    serve("memory://", api_keys=None)
    ((app, _),) = served
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert client.portal is not None
        client.portal.call(app.state.voucher_sessions.put_voucher, Voucher(code="A", quantity=1))
        (redeemed,) = client.post("/v1/redemptions", json=cart(voucher("A"), order="o1")).json()["redemptions"]
        path = f"/v1/redemptions/{redeemed['id']}/rollback"
        for page in OTHER_PAGES:
            response = client.post(path, headers={"Origin": page})
            assert (response.status_code, response.json()["key"]) == (400, "invalid_origin"), page
        several = [("Origin", "http://127.0.0.1:8000"), ("Origin", "https://evil.example")]
        assert client.post(path, headers=several).status_code == 400
        for page in ("http://127.0.0.1:8000", "https://localhost", "http://[::1]:8000"):
            assert client.get(f"/v1/redemptions/{redeemed['id']}", headers={"Origin": page}).status_code == 200, page
        assert client.post(path, headers={"Origin": "http://localhost:8000"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "example.com", "127.0.0.1.example.com", "*"])
def test_other_addresses_need_keys(host: str, served: list[tuple[Any, dict[str, Any]]]) -> None:
    with pytest.raises(InvalidRequest, match=r"^host: must be a loopback address"):
        serve("memory://", api_keys=None, host=host)
    assert served == []
    serve("memory://", api_keys=KEYS, host=host)
    ((app, options),) = served
    assert options["host"] == host
    with TestClient(app) as client:
        assert client.post("/v1/validations", json=cart(voucher("A"))).status_code == 401


def test_its_options_are_those_of_the_application(served: list[tuple[Any, dict[str, Any]]]) -> None:
    serve("memory://", api_keys=None, prefix="other", default_ttl=60, max_ttl=120)
    ((app, _),) = served
    with TestClient(app, base_url="http://localhost") as client:
        assert client.portal is not None
        engine = app.state.voucher_sessions
        client.portal.call(engine.put_voucher, Voucher(code="A"))
        assert list(client.portal.call(engine.client.keys)) == [b"other:{A}"]
        answer = client.post("/v1/validations", json=cart(voucher("A"), session={"type": "LOCK"})).json()
        assert (answer["session"]["ttl"], answer["session"]["ttl_unit"]) == (1, "MINUTES")
        assert client.post("/v1/validations", json=cart(voucher("A"), session=session())).status_code == 400


def test_a_process_of_its_own(server: Server, vouchers: VoucherSessions) -> None:
    """It names its port, writes no session key into its log, and ends with SIGTERM."""
    vouchers.put_voucher(Voucher(code="A", quantity=1))
    code = f"from voucher_sessions.contrib.fastapi import serve; serve({server.url!r}, api_keys={KEYS!r}, port=0)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log = ""
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log)):
            line = process.stderr.readline()
            assert line, log
            log += line
        headers = {"X-App-Id": "shop", "X-App-Token": "token-of-the-shop"}
        with httpx2.Client(base_url=found[1], headers=headers) as client:
            key = "cart-key-that-nobody-may-see"
            assert client.post("/v1/validations", json=cart(voucher("A"), session=session(key))).json()["valid"]
            response = client.delete(f"/v1/vouchers/A/sessions/{key}")
            assert response.status_code == 204
            assert "Server" not in response.headers
            assert client.delete(f"/v1/vouchers/A/sessions/{key}-2").status_code == 404
            assert client.post("/v1/validations", json={}, headers={"X-App-Token": "x"}).status_code == 401
        process.send_signal(signal.SIGTERM)
        log += process.stderr.read()
        process.wait(30)
    assert key not in log
    assert "token-of" not in log
    assert "Traceback" not in log

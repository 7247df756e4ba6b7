"""Codes and session keys in paths: what a client encodes arrives as it was."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send
from support.servers import Server

from contrib.fastapi.services import Service, running_service
from contrib.fastapi.shop import session
from voucher_sessions import AsyncVoucherSessions, SessionNotFound, Voucher, VoucherSessions
from voucher_sessions.contrib.fastapi import create_router
from voucher_sessions.contrib.fastapi.routes import path_with_encoded_slashes

TEXTS = [
    *("a/b", "/", "//", "a/", "/a", "a/sessions/b", "sessions", "a/redemption", "redemption"),
    *("%2F", "%252F", "a%2fb", "100%", "%", "a b", "a+b", "a?b=c", "a#b", "a;b,c", "ä/ö", "\N{PARTY POPPER}"),
    *(".a", "a\\b", "\x7f", "a\0b", "{code}", "x" * 256),
]


def assert_released(vouchers: VoucherSessions, code: str, key: str, delete: Callable[[str], int]) -> None:
    """Of all codes and keys that could be confused with it, the one that is named is released."""
    vouchers.put_voucher(Voucher(code=code))
    vouchers.validate(code, session=session(key))
    path = f"/v1/vouchers/{quote(code, safe='')}/sessions/{quote(key, safe='')}"
    assert delete(path) == 204
    with pytest.raises(SessionNotFound):
        vouchers.get_session(code, key)
    assert vouchers.release(code, key).ended


@pytest.mark.unmeasured
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_can_be_released(text: str, client: TestClient, vouchers: VoucherSessions) -> None:
    for code, key in ((text, "cart-1"), ("GIFT", text), (text, text)):
        assert_released(vouchers, code, key, lambda path: client.delete(path).status_code)


def test_any_text_can_be_released_over_the_network(service: Service, vouchers: VoucherSessions) -> None:
    with httpx2.Client(base_url=service.url) as client:
        for text in TEXTS:
            assert_released(vouchers, text, text, lambda path: client.delete(path).status_code)
            redeemed = client.get(f"/v1/vouchers/{quote(text, safe='')}/redemption")
            assert redeemed.json()["redeemed_quantity"] == 0


def test_an_encoded_slash_does_not_choose_another_endpoint(client: TestClient, vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="A"))
    vouchers.validate("A", session=session("B"))
    assert client.delete("/v1/vouchers/A%2Fsessions%2FB").status_code == 404
    assert client.post("/v1/redemptions/r_x%2Frollback").status_code == 405
    assert client.post("/v1/redemptions/r_x%2Frollbacks").status_code == 405
    assert vouchers.get_session("A", "B").quantity == 1


def test_a_proxy_that_decodes_paths_can_be_in_between(client: TestClient, vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="a/b"))
    vouchers.validate("a/b", session=session("cart-1"))
    assert client.delete("/v1/vouchers/a/b/sessions/cart-1").status_code == 204


@pytest.mark.parametrize("place", ["prefix", "mount", "root_path"])
def test_behind_a_prefix(place: str, server: Server, vouchers: VoucherSessions) -> None:
    router = create_router(AsyncVoucherSessions.from_url(server.url))
    app = FastAPI()
    inner = FastAPI() if place == "mount" else app
    inner.include_router(router, prefix="/a b" if place == "prefix" else "")
    if place == "mount":
        app.mount("/a b", inner)
    root_path = "/a b" if place == "root_path" else ""
    with running_service(app, root_path=root_path) as service, httpx2.Client(base_url=service.url) as client:
        prefix = "" if place == "root_path" else quote("/a b")  # uvicorn puts its root_path before the path
        assert_released(vouchers, "x/y", "k/1", lambda path: client.delete(f"{prefix}{path}").status_code)


def test_behind_a_prefix_with_a_parameter(server: Server, vouchers: VoucherSessions) -> None:
    app = FastAPI()
    app.include_router(create_router(AsyncVoucherSessions.from_url(server.url)), prefix="/shops/{shop:int}")
    with TestClient(app) as client:
        assert_released(vouchers, "x/y", "k/1", lambda path: client.delete(f"/shops/7{path}").status_code)


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({"path": "/a/b"}, None),
        ({"path": "/a/b", "raw_path": None}, None),
        ({"path": "/a/b", "raw_path": b"/rewritten"}, None),
        ({"path": "/a/b", "raw_path": b"/a%2Fb"}, "/a\udc2fb"),
        ({"path": "/a/b", "raw_path": b"/%61%2fb"}, "/a\udc2fb"),
        ({"path": "/ä", "raw_path": "/ä".encode()}, "/ä"),
        ({"path": "/a/b", "raw_path": b"/a%252Fb"}, "/a%2Fb"),
        ({"path": "/\ufffd", "raw_path": b"/%FF"}, "/\udcff"),
    ],
)
def test_the_path_is_read_as_it_was_encoded(scope: dict[str, object], path: str | None) -> None:
    assert path_with_encoded_slashes(scope) == path


def test_a_server_that_does_not_say_how_a_path_was_encoded(app: FastAPI, vouchers: VoucherSessions) -> None:
    """Then the last ``/sessions/`` is the one between the code and the key."""

    async def without_raw_path(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "raw_path": None}, receive, send)

    with TestClient(without_raw_path) as client:
        assert_released(vouchers, "a/b", "cart-1", lambda path: client.delete(path).status_code)

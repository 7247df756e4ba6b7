"""``create_app``: its keys, its life, its description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import WebSocketDenialResponse
from support.servers import Server

from contrib.fastapi.shop import Shop, cart, session, voucher
from voucher_sessions import AsyncVoucherSessions, InvalidRequest, Voucher, VoucherSessions
from voucher_sessions.contrib.fastapi import create_app, create_router

KEYS = {"shop": "token-of-the-shop", "till": "token-of-the-till"}
SHOP = {"X-App-Id": "shop", "X-App-Token": "token-of-the-shop"}
Headers = list[tuple[bytes, bytes]]


@pytest.fixture(autouse=True)
def catalogue(vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="A", quantity=1))


@pytest.fixture
def client(server: Server) -> Iterator[TestClient]:
    with TestClient(create_app(server.url, api_keys=KEYS)) as client:
        yield client


def redeem(client: TestClient, headers: Mapping[str, str] | Headers) -> int:
    return client.post("/v1/redemptions", json=cart(voucher("A"), order="o1"), headers=headers).status_code


@pytest.mark.parametrize("app_id", KEYS)
def test_an_app_with_its_token_is_let_in(app_id: str, client: TestClient) -> None:
    assert redeem(client, {"x-app-id": app_id, "X-APP-TOKEN": KEYS[app_id]}) == 200


REFUSED: list[Headers] = [
    [],
    [(b"X-App-Id", b"shop")],
    [(b"X-App-Token", b"token-of-the-shop")],
    [(b"X-App-Id", b"shop"), (b"X-App-Token", b"token-of-the-till")],
    [(b"X-App-Id", b"unknown"), (b"X-App-Token", b"token-of-the-shop")],
    [(b"X-App-Id", b"SHOP"), (b"X-App-Token", b"token-of-the-shop")],
    [(b"X-App-Id", b"shop"), (b"X-App-Token", b"token-of-the-shop-")],
    [(b"X-App-Id", b"shop"), (b"X-App-Token", b"token-of-the-sho")],
    [(b"X-App-Id", b""), (b"X-App-Token", b"")],
    [(b"X-App-Id", b"*"), (b"X-App-Token", b"*")],
    [(b"X-App-Id", b"\xff\xfe"), (b"X-App-Token", b"\xff" * 10_000)],
    [(b"X-App-Id", b"shop,till"), (b"X-App-Token", b"token-of-the-shop,token-of-the-till")],
    # Twice: a proxy might check the one, and this application the other
    [(b"X-App-Id", b"shop"), (b"X-App-Id", b"till"), (b"X-App-Token", b"token-of-the-shop")],
    [(b"X-App-Id", b"shop"), (b"X-App-Token", b"token-of-the-shop"), (b"X-App-Token", b"x")],
    [(b"X-App-Id", b"shop"), (b"X-App-Token", b"token-of-the-shop"), (b"x-app-token", b"token-of-the-shop")],
    [(b"Authorization", b"Bearer token-of-the-shop"), (b"Cookie", b"X-App-Token=token-of-the-shop")],
    [(b"X_App_Id", b"shop"), (b"X_App_Token", b"token-of-the-shop")],
]


@pytest.mark.parametrize("headers", REFUSED, ids=range(len(REFUSED)))
def test_other_headers_are_refused(headers: Headers, client: TestClient, vouchers: VoucherSessions) -> None:
    response = client.post("/v1/redemptions", json=cart(voucher("A"), order="o1"), headers=headers)
    assert response.status_code == 401
    error = response.json()
    assert (error["code"], error["key"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "X-App-Token"
    assert "shop" not in response.text
    assert vouchers.get_voucher("A").quantity.used == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/v1/validations"), ("GET", "/v1/redemptions/r_x"), ("DELETE", "/v1/vouchers/A/sessions/k")),
        *(("OPTIONS", "/v1/redemptions"), ("HEAD", "/"), ("GET", "/no/such/path"), ("GET", "/docs/")),
        *(("GET", "//docs"), ("GET", "/v1/redemptions/..%2F..%2Fdocs"), ("GET", "/docs%2F..%2Fv1/redemptions/r_x")),
    ],
)
def test_every_path_needs_keys(method: str, path: str, client: TestClient) -> None:
    assert client.request(method, path).status_code == 401


def test_without_keys_the_body_is_not_read(server: Server) -> None:
    app = create_app(server.url, api_keys=KEYS)
    read: list[int] = []

    async def receive_counted(scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            read.append(1)
            return await receive()

        await app(scope, counted if scope["type"] == "http" else receive, send)

    with TestClient(receive_counted) as client:
        assert client.post("/v1/redemptions", content=b" " * 10_000).status_code == 401
        assert read == []
        assert client.post("/v1/redemptions", content=b"{}", headers=SHOP).status_code == 400
        assert read != []


def test_a_websocket_is_refused_too(client: TestClient) -> None:
    with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect("/v1/redemptions"):
        pass
    assert caught.value.status_code == 401


def test_api_keys_none_accepts_every_request(server: Server) -> None:
    with TestClient(create_app(server.url, api_keys=None)) as client:
        assert redeem(client, {}) == 200


def test_api_keys_has_no_default(server: Server) -> None:
    create: Any = create_app
    with pytest.raises(TypeError, match="api_keys"):
        create(server.url)


@pytest.mark.parametrize(
    "api_keys",
    [
        {},
        *({app_id: "token"} for app_id in ("", " ", " shop", "shop ", "shöp", "a\nb", "a\0b")),
        *({"shop": token} for token in ("", " ", " secret", "secret ", "secrët", "secret\r\n", "secret\x7f", None, 7)),
        {"shop": "token", "till": ""},
    ],
)
def test_keys_that_cannot_be_sent_are_refused(api_keys: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^api_keys: ") as caught:
        create_app("redis://localhost", api_keys=api_keys)
    assert "secr" not in str(caught.value)


def test_a_changed_mapping_changes_nothing(server: Server) -> None:
    keys = dict(KEYS)
    app = create_app(server.url, api_keys=keys)
    keys.clear()
    with TestClient(app) as client:
        assert redeem(client, SHOP) == 200


def test_a_wrong_url_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="url"):
        create_app("http://localhost", api_keys=None)


def test_its_options_are_those_of_the_engine(server: Server, vouchers: VoucherSessions) -> None:
    with VoucherSessions.from_url(server.url, prefix="other") as others:
        others.put_voucher(Voucher(code="B"))
    app = create_app(server.url, api_keys=None, prefix="other", default_ttl=60, max_ttl=120)
    with TestClient(app) as client:
        shop = Shop(client)
        assert shop.validate(cart(voucher("A")))["valid"] is False
        found = shop.validate(cart(voucher("B"), session={"type": "LOCK"}))["session"]
        assert (found["ttl"], found["ttl_unit"]) == (1, "MINUTES")
        error = shop.validate(cart(voucher("B"), session=session()), 400)
        assert error["details"] == "session.ttl: must be at most 2 minutes, the max_ttl of the engine"


def test_its_engine_is_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[AsyncVoucherSessions] = []

    async def aclose(self: AsyncVoucherSessions) -> None:
        closed.append(self)

    monkeypatch.setattr(AsyncVoucherSessions, "aclose", aclose)
    app = create_app("memory://", api_keys=None)
    with TestClient(app):
        assert closed == []
    assert closed == [app.state.voucher_sessions]


def test_vouchers_in_memory(server: Server) -> None:
    app = create_app("memory://", api_keys=None)
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(app.state.voucher_sessions.put_voucher, Voucher(code="M"))
        assert Shop(client).validate(cart(voucher("M")))["valid"]


class TestDescription:
    """OpenAPI, and the page that is made of it."""

    def test_it_is_valid_and_public(self, client: TestClient) -> None:
        schema = client.get("/openapi.json").json()
        OpenAPIV31SpecValidator(schema).validate()
        assert schema["security"] == [{"AppId": [], "AppToken": []}]
        schemes = schema["components"]["securitySchemes"]
        assert {scheme["name"] for scheme in schemes.values()} == {"X-App-Id", "X-App-Token"}
        for page in ("/docs", "/redoc"):
            assert client.get(page).status_code == 200

    def test_without_keys_it_needs_no_headers(self, server: Server) -> None:
        schema = create_app(server.url, api_keys=None).openapi()
        OpenAPIV31SpecValidator(schema).validate()
        assert "security" not in schema
        assert "securitySchemes" not in schema["components"]

    def test_it_speaks_in_plain_words(self, client: TestClient) -> None:
        schema = client.get("/openapi.json").json()
        operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
        assert len(operations) == 7
        for operation in operations:
            assert operation["description"].endswith(".")
            assert "422" not in operation["responses"]  # wrong input is 400
            assert {"400", "404", "409", "503", "default"} <= operation["responses"].keys()
            for parameter in operation.get("parameters", []):
                assert parameter["schema"]
                assert parameter["description"]
        texts = [operation["description"] for operation in operations]
        texts += [model.get("description", "") for model in schema["components"]["schemas"].values()]
        assert all(texts)
        for text in texts:
            assert not {"Args:", "Returns:", "Raises:", "Attributes:", "``", "engine", "InvalidRequest"} & set(
                text.replace("\n", " ").split(" ")
            )
            assert "``" not in text

    def test_bodies_are_described(self, client: TestClient) -> None:
        models = client.get("/openapi.json").json()["components"]["schemas"]
        assert {"RedeemablesRequest", "SessionBody", "ValidationAnswer", "RedemptionsAnswer", "ErrorBody"} <= set(
            models
        )
        amount = models["Gift"]["properties"]["credits"]["anyOf"][0]
        assert amount == {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
        for name in ("SessionBody", "Gift", "Reward", "RedeemableBody", "Order", "RedeemablesRequest", "ErrorBody"):
            fields = models[name]["properties"]
            assert all(field.get("description") for field in fields.values()), name

    def test_a_router_in_another_application_is_described_too(self, server: Server) -> None:
        app = FastAPI()
        app.include_router(create_router(AsyncVoucherSessions.from_url(server.url)), prefix="/vouchers")
        OpenAPIV31SpecValidator(app.openapi()).validate()

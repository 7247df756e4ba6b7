"""``create_router``: which engines it takes, and its options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from support.servers import Server

from contrib.fastapi.shop import Json, Shop, cart, session, voucher
from voucher_sessions import AsyncVoucherSessions, InvalidRequest, Voucher, VoucherSessions
from voucher_sessions.contrib.fastapi import create_router


@pytest.fixture(autouse=True)
def catalogue(vouchers: VoucherSessions) -> None:
    vouchers.put_voucher(Voucher(code="A", quantity=1))


@pytest.fixture
def engine(server: Server) -> AsyncVoucherSessions:
    return AsyncVoucherSessions.from_url(server.url)


def app_with(*arguments: Any, **options: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(create_router(*arguments, **options))
    return app


def valid(app: FastAPI) -> bool:
    with TestClient(app) as client:
        found: bool = Shop(client).validate(cart(voucher("A")))["valid"]
        return found


def test_a_dependency_can_be_a_function_a_coroutine_or_a_generator(engine: AsyncVoucherSessions) -> None:
    closed: list[str] = []

    def function(request: Request) -> AsyncVoucherSessions:
        found: AsyncVoucherSessions = request.app.state.engine
        return found

    async def coroutine() -> AsyncVoucherSessions:
        return engine

    def generator() -> Iterator[AsyncVoucherSessions]:
        yield engine
        closed.append("generator")

    async def async_generator() -> AsyncIterator[AsyncVoucherSessions]:
        yield engine
        closed.append("async generator")

    for dependency in (function, coroutine, generator, async_generator):
        app = app_with(dependency)
        app.state.engine = engine
        assert valid(app)
    assert closed == ["generator", "async generator"]


def test_a_dependency_can_be_overridden_in_tests(engine: AsyncVoucherSessions) -> None:
    def not_in_tests() -> AsyncVoucherSessions:
        raise AssertionError

    app = app_with(not_in_tests)
    app.dependency_overrides[not_in_tests] = lambda: engine
    assert valid(app)


def test_the_state_of_an_application_stays_its_own(engine: AsyncVoucherSessions) -> None:
    """It may keep its engine there under the same name."""
    seen: list[object] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, object]]:
        yield {"voucher_sessions": engine}

    def engine_of(request: Request) -> Iterator[AsyncVoucherSessions]:
        yield request.state.voucher_sessions
        seen.append(request.state.voucher_sessions)

    app = FastAPI(lifespan=lifespan)
    app.include_router(create_router(engine_of))
    with TestClient(app) as client:
        assert Shop(client).validate(cart(voucher("A")))["valid"]
    assert seen == [engine]


def test_a_sync_engine_is_refused(vouchers: VoucherSessions) -> None:
    sync: Any = vouchers
    with pytest.raises(InvalidRequest, match=r"engine: is a sync engine.*use AsyncVoucherSessions"):
        create_router(sync)


@pytest.mark.parametrize("engine", [None, "redis://localhost", 7])
def test_what_is_no_engine_is_refused(engine: Any) -> None:
    with pytest.raises(InvalidRequest, match="engine: must be an AsyncVoucherSessions, or a dependency"):
        create_router(engine)


def test_a_dependency_that_returns_no_asyncio_engine_is_an_error_of_the_application(vouchers: VoucherSessions) -> None:
    app = app_with(lambda: vouchers)
    with TestClient(app) as client, pytest.raises(TypeError, match="must return an AsyncVoucherSessions"):
        Shop(client).validate(cart(voucher("A")))


def test_the_errors_of_a_dependency_are_the_applications(engine: AsyncVoucherSessions) -> None:
    def forbidden() -> None:
        raise HTTPException(403, "not you")

    def wrong() -> None:
        raise HTTPException(400, "not so")

    def caused() -> None:
        raise HTTPException(400, "not so either") from ValueError()

    wrongs = ((forbidden, 403, "not you"), (wrong, 400, "not so"), (caused, 400, "not so either"))
    for dependency, status, detail in wrongs:
        app = FastAPI()
        app.include_router(create_router(engine), dependencies=[Depends(dependency)])
        with TestClient(app) as client:
            response = client.post("/v1/validations", json=cart(voucher("A")))
            assert (response.status_code, response.json()) == (status, {"detail": detail})


class TestMaxTtl:
    """A router that browsers can reach."""

    @pytest.fixture(params=[900, 900.0, timedelta(minutes=15)])
    def shop(self, request: pytest.FixtureRequest, engine: AsyncVoucherSessions) -> Iterator[Shop]:
        with TestClient(app_with(engine, max_ttl=request.param)) as client:
            yield Shop(client)

    @pytest.mark.parametrize(
        "fields",
        [
            {"ttl": 15, "ttl_unit": "MINUTES"},
            {"ttl": 0.25, "ttl_unit": "HOURS"},
            {"ttl": 900_000_000_000, "ttl_unit": "NANOSECONDS"},
            {"ttl": 1, "ttl_unit": "MICROSECONDS"},
        ],
    )
    def test_what_is_not_longer_is_as_asked(self, fields: Json, shop: Shop) -> None:
        answer = shop.validate(cart(voucher("A"), session=session(**fields)))
        assert answer["session"] == {"key": "cart-1", "type": "LOCK", **fields}

    @pytest.mark.parametrize(
        ("ttl", "ttl_unit"),
        [
            *((15.001, "MINUTES"), (7, "DAYS"), (0.2500001, "HOURS"), (901, "SECONDS"), (900_001, "MILLISECONDS")),
            *((900_000_000.1, "MICROSECONDS"), (900_000_000_001, "NANOSECONDS"), (10**4000, "NANOSECONDS")),
            (1e300, "DAYS"),
        ],
    )
    def test_what_is_longer_is_refused(self, ttl: float, ttl_unit: str, shop: Shop, vouchers: VoucherSessions) -> None:
        error = shop.validate(cart(voucher("A"), session=session(ttl=ttl, ttl_unit=ttl_unit)), 400)
        assert error["details"] == "session.ttl: must be at most 900 seconds"
        assert vouchers.list_sessions("A") == []

    def test_without_a_ttl_a_session_lives_that_long(self, shop: Shop, vouchers: VoucherSessions) -> None:
        for fields in ({"type": "LOCK", "key": "k"}, {"type": "LOCK", "key": "k", "ttl": None, "ttl_unit": None}):
            answer = shop.validate(cart(voucher("A"), session=fields))
            assert answer["session"] == {"key": "k", "type": "LOCK", "ttl": 900, "ttl_unit": "SECONDS"}
        assert 890_000 < vouchers.get_session("A", "k").remaining_ms <= 900_000

    @pytest.mark.parametrize("fields", [{"ttl": 1}, {"ttl_unit": "DAYS"}])
    def test_half_a_ttl_is_refused(self, fields: Json, shop: Shop) -> None:
        error = shop.validate(cart(voucher("A"), session={"type": "LOCK", "key": "k", **fields}), 400)
        assert error["details"] == "session.ttl: ttl and ttl_unit must be given together or not at all"

    @pytest.mark.parametrize("max_ttl", [0, -1, float("nan"), float("inf"), True, "900", timedelta(0), 3651 * 86_400])
    def test_a_wrong_limit_is_refused(self, max_ttl: Any, engine: AsyncVoucherSessions) -> None:
        with pytest.raises(InvalidRequest, match=r"^max_ttl: "):
            create_router(engine, max_ttl=max_ttl)

    def test_it_cannot_be_above_that_of_the_engine(self, server: Server) -> None:
        engine = AsyncVoucherSessions.from_url(server.url, max_ttl=60)
        with TestClient(app_with(engine, max_ttl=900)) as client:
            error = Shop(client).validate(cart(voucher("A"), session={"type": "LOCK"}), 400)
            assert error["details"] == "session.ttl: must be at most 1 minute, the max_ttl of the engine"


def test_without_a_limit_the_engine_decides(server: Server, vouchers: VoucherSessions) -> None:
    engine = AsyncVoucherSessions.from_url(server.url, default_ttl=60)
    with TestClient(app_with(engine)) as client:
        for fields, ttl in (({}, (1, "MINUTES")), ({"ttl": 3650, "ttl_unit": "DAYS"}, (3650, "DAYS"))):
            found = Shop(client).validate(cart(voucher("A"), session={"type": "LOCK", "key": "k", **fields}))["session"]
            assert (found["ttl"], found["ttl_unit"]) == ttl


def test_a_router_for_browsers_validates_and_releases(engine: AsyncVoucherSessions) -> None:
    def endpoints(**options: bool) -> set[tuple[str, str]]:
        paths = app_with(engine, **options).openapi()["paths"]
        return {(method, path) for path, methods in paths.items() for method in methods}

    for_browsers = {("post", "/v1/validations"), ("delete", "/v1/vouchers/{code}/sessions/{session_key}")}
    assert endpoints(redemptions=False) == for_browsers
    assert endpoints() == for_browsers | {
        ("post", "/v1/redemptions"),
        ("get", "/v1/redemptions/{redemption_id}"),
        ("post", "/v1/redemptions/{redemption_id}/rollback"),
        ("post", "/v1/redemptions/{parent_id}/rollbacks"),
        ("get", "/v1/vouchers/{code}/redemption"),
    }
    with TestClient(app_with(engine, redemptions=False)) as client:
        assert client.post("/v1/redemptions", json=cart(voucher("A"))).status_code == 404


def test_a_loader_is_asked(server: Server) -> None:
    async def loader(code: str) -> Voucher | None:
        await asyncio.sleep(0)
        return Voucher(code=code, quantity=1) if code == "LOADED" else None

    with TestClient(app_with(AsyncVoucherSessions.from_url(server.url, loader=loader))) as client:
        shop = Shop(client)
        assert shop.redeem(cart(voucher("LOADED"), order="o1"))["redemptions"][0]["voucher"]["code"] == "LOADED"
        assert shop.redeem(cart(voucher("NONE"), order="o1"), 404)["resource_type"] == "voucher"


def test_two_routers_have_engines_of_their_own(server: Server, engine: AsyncVoucherSessions) -> None:
    app = app_with(engine)
    app.include_router(create_router(AsyncVoucherSessions.from_url(server.url, prefix="other")), prefix="/other")
    with TestClient(app) as client:
        assert client.post("/v1/validations", json=cart(voucher("A"))).json()["valid"] is True
        assert client.post("/other/v1/validations", json=cart(voucher("A"))).json()["valid"] is False

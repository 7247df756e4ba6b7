"""The router over a real server: in process, and behind uvicorn on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.servers import Server

from contrib.fastapi.services import Service, running_service
from contrib.fastapi.shop import Shop
from voucher_sessions import AsyncVoucherSessions, VoucherSessions
from voucher_sessions.contrib.fastapi import create_router


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not only its tests are long: each process would take seconds to import the client's 1,400 modules."""
    return True if collection_path.name == "test_official_client.py" and not config.getoption("--remaining") else None


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    """An empty Redis server."""
    server = server_of("valkey")
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture
def vouchers(server: Server) -> Iterator[VoucherSessions]:
    """The vouchers of the server, for the test itself."""
    with VoucherSessions.from_url(server.url) as engine:
        yield engine


@pytest.fixture
def app(server: Server) -> FastAPI:
    """An application with the router."""
    app = FastAPI()
    app.include_router(create_router(AsyncVoucherSessions.from_url(server.url)))
    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application, in process."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def service(app: FastAPI) -> Iterator[Service]:
    """The application behind uvicorn."""
    with running_service(app) as service:
        yield service


@pytest.fixture
def shop(client: TestClient) -> Shop:
    """A shop that uses the application."""
    return Shop(client)

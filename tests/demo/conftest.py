"""The servers and engines of the demo's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from support.servers import Server

from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.demo.carts import GIFT_CARD


@pytest.fixture(scope="module")
def server(server_of: Callable[[str], Server]) -> Server:
    return server_of("valkey")


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def shop() -> Iterator[VoucherSessions]:
    with VoucherSessions.from_url("memory://") as engine:
        yield engine


@pytest.fixture
def gift_card(shop: VoucherSessions) -> VoucherSessions:
    shop.put_voucher(Voucher(code=GIFT_CARD, credits=25))
    return shop


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The TMPDIR of a demo process. Its path is short, because sockets may be in it."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        yield Path(folder)

"""A plugin for pytest: engines for the tests of a shop, and a way to make their Redis fail.

pytest imports this module at its start in every project that has the library installed. So it does not import the
library: what the fixtures need is imported when a test uses one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from voucher_sessions import AsyncVoucherSessions, VoucherSessions
    from voucher_sessions.contrib.testing import RedisTrouble, Server

_SERVER: Final = "voucher_sessions_server"
_FIXTURES: Final = frozenset(("voucher_sessions", "async_voucher_sessions", "redis_trouble"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of pytest's configuration file."""
    text = "the server of the fixture voucher_sessions: memory (fakeredis, the default) or embedded (a real Valkey)"
    parser.addini(_SERVER, text, default="memory")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import what the fixtures need before the first test.

    A test may stop the clock with freezegun before it uses a fixture. freezegun replaces ``datetime`` by another class,
    which pydantic does not accept in a model.
    """
    if any(_FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items):
        import_module("voucher_sessions.contrib.testing")


@pytest.fixture
def voucher_sessions_prefix() -> str:
    """The prefix of all keys of a test: each test has its own."""
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def voucher_sessions_options() -> Mapping[str, object]:
    """Options of the engines of a test, for example ``max_ttl`` and ``loader``. Override it to give those of your shop."""
    return {}


@pytest.fixture
def redis_trouble() -> RedisTrouble:
    """Makes the Redis of this test's engines fail: ``down()``, ``lose_replies(n)`` and ``slow(ms)``."""
    from voucher_sessions.contrib.testing import RedisTrouble

    return RedisTrouble()


@pytest.fixture(scope="session")
def _voucher_sessions_embedded() -> Iterator[Server]:
    from voucher_sessions.contrib import testing

    with testing.embedded_server() as server:
        yield server


@pytest.fixture
def _voucher_sessions_server(request: pytest.FixtureRequest) -> Server:
    from voucher_sessions.contrib import testing

    chosen: str = request.config.getini(_SERVER)
    if chosen not in {"memory", "embedded"}:
        pytest.fail(f"the option {_SERVER} must be memory or embedded, not {chosen!r}", pytrace=False)
    if chosen == "memory":
        return testing.memory_server()
    server: Server = request.getfixturevalue("_voucher_sessions_embedded")
    return server


@pytest.fixture
def voucher_sessions(
    _voucher_sessions_server: Server,
    redis_trouble: RedisTrouble,
    voucher_sessions_prefix: str,
    voucher_sessions_options: Mapping[str, object],
) -> Iterator[VoucherSessions]:
    """An engine without vouchers. ``async_voucher_sessions`` has the same vouchers."""
    from voucher_sessions.contrib import testing

    with testing.sync_engine(
        _voucher_sessions_server, redis_trouble, {"prefix": voucher_sessions_prefix, **voucher_sessions_options}
    ) as engine:
        yield engine


@pytest.fixture
def async_voucher_sessions(
    _voucher_sessions_server: Server,
    redis_trouble: RedisTrouble,
    voucher_sessions_prefix: str,
    voucher_sessions_options: Mapping[str, object],
) -> AsyncVoucherSessions:
    """An engine for asyncio without vouchers. ``voucher_sessions`` has the same vouchers.

    It works with every plugin that runs tests in an event loop, and with ``asyncio.run``, since it keeps no connection
    open between two calls.
    """
    from voucher_sessions.contrib import testing

    return testing.async_engine(
        _voucher_sessions_server, redis_trouble, {"prefix": voucher_sessions_prefix, **voucher_sessions_options}
    )

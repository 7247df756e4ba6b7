"""What the tests of connections share: engines over a URL, and embedded servers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from conftest import OpenEngines
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.servers import Server
from support.waiting import until

from transport.embedded_processes import User, nothing_runs, temporary_folders
from voucher_sessions import Durability


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for data. ``no_left_overs`` checks that nothing runs on it at the end."""
    return tmp_path / "data"


@pytest.fixture
def no_left_overs(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The test ends with nothing running on its folder, no temporary folder and no new open file in this process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    files = len(os.listdir("/dev/fd"))
    yield
    if (folder / "server.lock").is_file():
        until(lambda: nothing_runs(folder))
    until(lambda: not temporary_folders())
    assert len(os.listdir("/dev/fd")) == files


@pytest.fixture
def user(folder: Path, no_left_overs: None) -> Iterator[Callable[..., User]]:
    users = []

    def another(url: str = f"embedded://{folder}") -> User:
        users.append(User(url))
        return users[-1]

    yield another
    for each in users:
        each.end()


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    """An empty Valkey, of which other tests use other data."""
    server = server_of("valkey")
    with server.client() as admin:
        admin.flushall()
    return server


@pytest.fixture(params=["sync", "async"])
def engine_at(request: pytest.FixtureRequest, engines: OpenEngines) -> Callable[..., Any]:
    """Makes an engine of each kind over a URL, whose client repeats a failed command ``retries`` times, at once."""

    def make(url: str, *, retries: int = 0, durability: Durability | None = None, **options: Any) -> Any:
        retry = Retry if request.param == "sync" else AsyncRetry
        library: Any = redis if request.param == "sync" else redis.asyncio
        client = library.Redis.from_url(url, **{"retry": retry(NoBackoff(), retries), **options})
        return engines.over(client, durability=durability)

    return make

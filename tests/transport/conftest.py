"""What the tests of connections share: engines over a URL, and embedded servers."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from conftest import BlockingAsync
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.waiting import until

from transport.embedded_processes import User, nothing_runs, temporary_folders
from voucher_sessions import AsyncVoucherSessions, Durability, VoucherSessions


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


@pytest.fixture(params=["sync", "async"])
def engine_at(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Any]]:
    """Makes an engine of each kind over a URL, whose client repeats a failed command ``retries`` times, at once."""
    opened: list[Callable[[], object]] = []

    def make(url: str, *, retries: int = 0, durability: Durability | None = None, **options: Any) -> Any:
        if request.param == "sync":
            direct = redis.Redis.from_url(url, **{"retry": Retry(NoBackoff(), retries), **options})
            engine = VoucherSessions(direct, durability=durability)
            opened.extend((direct.close, engine.close))
            return engine
        waiting = redis.asyncio.Redis.from_url(url, **{"retry": AsyncRetry(NoBackoff(), retries), **options})
        blocking = BlockingAsync(AsyncVoucherSessions(waiting, durability=durability), loop)
        opened.extend((lambda: loop.run_until_complete(waiting.aclose()), blocking.aclose))
        return blocking

    yield make
    for close in reversed(opened):
        close()

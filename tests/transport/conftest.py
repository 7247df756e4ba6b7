"""What the tests of embedded servers share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import until

from transport.embedded_processes import User, nothing_runs, temporary_folders


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

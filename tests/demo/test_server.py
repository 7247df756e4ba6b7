"""The temporary server that the demo's processes share."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest

from voucher_sessions.demo import server as demo_server


def test_the_folder_is_removed_after_the_server_has_ended(tmp_path: Path) -> None:
    (tmp_path / "users.lock").touch()
    server_lock = (tmp_path / "server.lock").open("wb")
    fcntl.flock(server_lock, fcntl.LOCK_EX)
    still_there: list[bool] = []

    def end() -> None:
        time.sleep(0.1)
        still_there.append(tmp_path.exists())
        server_lock.close()

    server = threading.Thread(target=end)
    server.start()
    demo_server._remove(tmp_path)
    server.join()
    assert still_there == [True]
    assert not tmp_path.exists()


def test_the_folder_is_removed_even_if_the_server_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_server, "SERVER_ENDS_SECONDS", 0.05)
    with (tmp_path / "server.lock").open("wb") as server_lock:
        fcntl.flock(server_lock, fcntl.LOCK_EX)
        demo_server._remove(tmp_path)
    assert not tmp_path.exists()


def test_embedded_is_a_temporary_folder_that_all_processes_share() -> None:
    with demo_server.shared_url("embedded://") as url:
        folder = Path(url.removeprefix("embedded://"))
        assert folder.is_dir()
    assert not folder.exists()
    with demo_server.shared_url("embedded:///some/dir") as url:
        assert url == "embedded:///some/dir"

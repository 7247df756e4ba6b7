"""The temporary server that the demo's processes share."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest
import redis
from support.servers import Server

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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://user:secret@host:6380/1?password=secret&ssl_ca_certs=a", "rediss://host:6380/1"),
        ("redis+sentinel://:secret@h1:1,h2:2/service?sentinel_password=secret", "redis+sentinel://h1:1,h2:2/service"),
        ("unix://user:secret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("embedded://", "embedded://"),
        ("embedded:///some/dir", "embedded:///some/dir"),
        ("embedded://some/dir", "embedded://some/dir"),
    ],
)
def test_a_url_is_shown_without_credentials(url: str, shown: str) -> None:
    assert demo_server.without_credentials(url) == shown


def test_all_keys_of_the_prefix_are_deleted_and_no_others(server: Server, admin: redis.Redis) -> None:
    others = {"vs-demo-2:{A}", "vs-demo-12:{A}", "xvs-demo-1:{A}"}
    admin.mset(dict.fromkeys(["vs-demo-1:{A}", "vs-demo-1:{B}:redemption:x", *others], "value"))
    with demo_server.keys_deleted(server.url, "vs-demo-1"):
        assert len(list(admin.scan_iter())) == 5
    assert {key.decode() for key in admin.scan_iter()} == others


def test_keys_stay_where_they_cannot_be_deleted() -> None:
    with demo_server.keys_deleted("unix:///nowhere/at/all", "vs-demo-1"):
        pass

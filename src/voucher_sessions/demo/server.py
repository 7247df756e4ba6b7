"""The server that the demo uses: by default an embedded one that its processes share."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from voucher_sessions import VoucherSessions, VoucherSessionsError
from voucher_sessions.errors import CLIENT_ERRORS

SERVER_ENDS_SECONDS: Final = 5.0  # the longest wait for it


@contextmanager
def shared_url(url: str) -> Iterator[str]:
    """A URL of one server for all processes: ``embedded://`` gets a temporary folder, which is removed at the end."""
    if url != "embedded://":
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="voucher-sessions-demo-"))
    try:
        yield f"embedded://{folder}"
    finally:
        _remove(folder)


def without_credentials(url: str) -> str:
    """The URL without user, password and options, any of which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def keys_deleted(url: str, prefix: str) -> Iterator[None]:
    """Delete all keys of the demo at the end, also receipts and other keys that would expire minutes later.

    A user of the server who has no permission for this leaves them to expire.
    """
    try:
        yield
    finally:
        with suppress(VoucherSessionsError, *CLIENT_ERRORS), VoucherSessions.from_url(url) as engine:
            for key in engine.client.scan_iter(match=f"{prefix}:*", count=1000):
                engine.client.delete(key)  # one at a time: on a cluster they are in different slots


def _remove(folder: Path) -> None:
    """Remove the data when the server has ended, which it does a moment after the last engine is closed."""
    deadline = time.monotonic() + SERVER_ENDS_SECONDS
    while _in_use(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    """Whether an engine or the server still holds a lock file of the folder."""
    for lock in folder.glob("*.lock"):
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False

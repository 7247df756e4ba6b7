"""The embedded server that the demo's processes share by default."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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

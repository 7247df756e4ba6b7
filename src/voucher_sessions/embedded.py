"""A real Valkey server of the library's own: ``embedded:///some/dir``.

All engines of all processes that name the same folder share one server. It belongs to a small keeper process and not
to any of them, so that the first to end does not take it from the others:

    starting.lock  held by the engine that looks for a running server, or starts one
    users.lock     every engine holds it shared; the kernel lets go of it when a process dies, however it dies
    socket.txt     where the running server listens

The keeper starts the server and then waits to have ``users.lock`` for itself: when it gets it, nobody is left, and it
ends the server in peace. The server in turn is told by the kernel (Linux) to end should its keeper die. Nothing
listens on a TCP port; the folder and the socket are the user's alone. Data is kept in an append-only file that is
flushed to disk before each reply.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from voucher_sessions import _keeper
from voucher_sessions.errors import EmbeddedServerError


class EmbeddedServer:
    """This engine's share in the server of a folder. ``socket_path`` is where to connect."""

    def __init__(self, binary: Path, folder: str) -> None:
        kind = "kept" if folder else "temporary"
        self._folder = Path(folder or tempfile.mkdtemp(prefix="voucher-sessions-data-")).absolute()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock_file("starting.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._users = self._lock_file("users.lock")
            fcntl.flock(self._users, fcntl.LOCK_SH)  # waits while a keeper ends its server
            try:
                if not self._running():
                    self._start(binary, kind)
                self.socket_path = (self._folder / "socket.txt").read_text("utf-8")
            except BaseException:
                self._users.close()
                raise

    def close(self) -> None:
        """Let go of the server, which ends when nobody holds it."""
        self._users.close()

    def _lock_file(self, name: str) -> IO[bytes]:
        return os.fdopen(os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+")

    def _running(self) -> bool:
        try:
            path = (self._folder / "socket.txt").read_text("utf-8")
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
        except OSError:
            return False
        return True

    def _start(self, binary: Path, kind: str) -> None:
        command = [sys.executable, "-I", "-S", _keeper.__file__, str(binary), str(self._folder), kind]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        said = done.stdout.decode(errors="replace")
        if said != "ready":
            raise EmbeddedServerError(self._folder, said or "its keeper ended")

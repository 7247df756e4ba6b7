"""A real Valkey server that the library starts: ``embedded:///some/dir``.

All engines of all processes that name the same folder share one server. It belongs to a small keeper process and not
to one of the engines, so that it stays when the engine that started it ends:

    users.lock     each engine holds it shared; the kernel releases it when a process ends, for whatever reason
    server.lock    the keeper and its server hold it together, so that a folder never has two servers
    socket         where the server listens, see ``keeper.socket_path``
    server.log     what the server prints

An engine that finds no server starts a keeper. If several do so at once, the keeper that gets ``server.lock`` starts
the server, and the others wait until it answers. The keeper then waits for ``users.lock`` without sharing it: when it
gets it, no engine is left, and it ends the server. If the server ends before that, for example because the disk is
full, the keeper starts it again, and repeats this until the server runs. If the keeper is killed, the kernel kills the
server with it, and the next engine that is opened starts both again. (On Linux. Elsewhere such a server runs on without
a keeper, and engines share it.)

Without a folder, the keeper creates a temporary one and removes it at the end. The engine's process creates no files
that it could leave behind.

Nothing listens on a TCP port, and no other user can read the data or use the socket. The server writes an append-only
file and flushes it to disk before each reply, so that no crash of any process loses a change that got a reply.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

from voucher_sessions._transport import keeper
from voucher_sessions.errors import EmbeddedServerError


class EmbeddedServer:
    """One engine's use of the server of a folder. ``url`` is where to connect.

    A process that forks shares it with its child: the server stays until both have closed it or ended.
    """

    def __init__(self, binary: Path, folder: str) -> None:
        place = Path(folder or tempfile.gettempdir()).absolute()
        with ExitStack() as undo:
            try:
                if folder:
                    data = place
                    with suppress(FileExistsError):
                        data.mkdir(mode=0o700, parents=True)
                    self._users = undo.enter_context(_shared_lock(data))
                    if not keeper.ping(keeper.socket_path(data)).startswith(b"+PONG"):
                        with _started_keeper(binary, data, "kept"):
                            pass  # this engine has the lock already
                else:
                    with _started_keeper(binary, place, "temporary") as data:
                        self._users = undo.enter_context(_shared_lock(data))
                self.url = f"unix://{quote(str(_socket_path(data)))}"
            except (OSError, ValueError) as error:
                raise EmbeddedServerError(place, str(error)) from error
            undo.pop_all()

    def close(self) -> None:
        """Stop using the server, which ends a moment later if nobody else uses it."""
        self._users.close()


def _shared_lock(folder: Path) -> IO[bytes]:
    users = os.fdopen(os.open(folder / "users.lock", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "ab+")
    fcntl.flock(users, fcntl.LOCK_SH)  # waits while a keeper ends its server
    return users


def _socket_path(folder: Path) -> Path:
    path = keeper.socket_path(folder)
    if path is None:
        raise FileNotFoundError(
            "the directory of the server's socket was removed: close all engines of this folder, then open them again"
        )
    return path


@contextmanager
def _started_keeper(binary: Path, folder: Path, kind: str) -> Iterator[Path]:
    """Start a keeper, which does not look at ``users.lock`` before the end of the block. Yields the data folder."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(binary), kind],
        cwd=folder,
        start_new_session=True,  # a signal to the process group of this engine must not end it
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as process:
        assert process.stdin
        assert process.stdout
        output = os.fsdecode(process.stdout.read())
        if not output.startswith("ready\n"):
            raise ChildProcessError(output.strip() or "its keeper ended")
        yield Path(output.removeprefix("ready\n"))
        with suppress(BrokenPipeError):
            process.stdin.write(b"users.lock is taken")

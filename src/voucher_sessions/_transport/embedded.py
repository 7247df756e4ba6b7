"""A real Valkey server of the library's own: ``embedded:///some/dir``.

All engines of all processes that name the same folder share one server. It belongs to a small keeper process and not
to any of them, so that the first to end does not take it from the others:

    users.lock     every engine holds it shared; the kernel lets go of it when a process dies, however it dies
    server.lock    the keeper and its server hold it together, so that a folder never has two servers

An engine that finds no server starts a keeper. Of several at once the one that gets ``server.lock`` starts the server,
and the others wait until it answers. The keeper then waits to have ``users.lock`` for itself: when it gets it, nobody
is left, and it ends the server in peace. A server that ends before that is started again. Should the keeper be killed,
the kernel kills the server with it, and the next engine to open the folder starts both anew. (Linux does; elsewhere
such a server goes on until somebody ends it, and engines go on to share it.)

Nothing listens on a TCP port; the data and the socket are the user's alone. Data is kept in an append-only file that
is flushed to disk before each reply, so no end of any process loses what was answered.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

from voucher_sessions._transport import keeper
from voucher_sessions.errors import EmbeddedServerError


class EmbeddedServer:
    """This engine's share in the server of a folder. ``url`` is where to connect.

    A process that forks shares it with its child: the server stays until both have closed it or ended.
    """

    def __init__(self, binary: Path, folder: str) -> None:
        self._folder = Path(folder or tempfile.mkdtemp(prefix="voucher-sessions-data-")).absolute()
        with ExitStack() as undo:
            if not folder:
                undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            try:
                with suppress(FileExistsError):
                    self._folder.mkdir(mode=0o700, parents=True)
                self._users = undo.enter_context(open(self._folder / "users.lock", "ab+", opener=_private))
                fcntl.flock(self._users, fcntl.LOCK_SH)  # waits while a keeper ends its server
                if not keeper.answer(self._folder).startswith(b"+PONG"):
                    self._start(binary, "kept" if folder else "temporary")
                self.url = f"unix://{quote(str(keeper.socket_path(self._folder)))}"
            except (OSError, ValueError) as error:
                raise EmbeddedServerError(self._folder, str(error)) from error
            undo.pop_all()

    def close(self) -> None:
        """Let go of the server, which ends by itself, a moment later, when nobody holds it."""
        self._users.close()

    def _start(self, binary: Path, kind: str) -> None:
        """A keeper in a session of its own: what ends the process group of this engine leaves it to the others."""
        done = subprocess.run(
            [sys.executable, "-I", "-S", keeper.__file__, str(binary), kind],
            cwd=self._folder,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        if said != "ready":
            raise EmbeddedServerError(self._folder, said or "its keeper ended")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

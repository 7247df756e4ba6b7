"""The process that keeps an embedded server: started by path, so it needs the standard library alone.

    keeper.py SERVER_BINARY kept|temporary        in the folder of the data

It sees to it that a server answers for the folder, says ``ready`` or what went wrong on its standard output, and stays
until nobody holds ``users.lock`` any more. See ``embedded.py`` for the whole arrangement.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

PATIENCE_SECONDS = 30  # with silence; a server that says it is loading its data is waited for
STOP_SECONDS = 30


def socket_path(folder: Path) -> Path:
    """Where the server of a folder listens, in a private folder of its own.

    It follows from the folder's identity. So every process knows it, an engine finds the next server where the last
    one was, and a copy of the folder never leads to the server of the original. It cannot be in the folder itself:
    the path of a socket is short, and not every file system has sockets. Nor does TMPDIR count while there is a
    ``/tmp``: it differs from process to process.
    """
    common = "/tmp"  # noqa: S108 - only a folder in it is used, of mode 700, and never one of another user's (below)
    parent = common if os.access(common, os.W_OK) else tempfile.gettempdir()
    identity = folder.stat()
    place = Path(parent, f"voucher-sessions-{identity.st_dev:x}-{identity.st_ino:x}")
    with suppress(FileNotFoundError):
        if place.lstat().st_uid != os.geteuid():
            raise PermissionError(f"{place} belongs to another user")
    return place / "server.sock"


def answer(folder: Path) -> bytes:
    """What the server of a folder says to a PING; nothing if there is none."""
    path = socket_path(folder)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
        except OSError:
            return b""


def keep(binary: str, say: Callable[[str], None]) -> None:
    """Keep a server on the current folder until nobody uses it; say ``ready`` as soon as one answers."""
    with open("users.lock", "ab+") as users, open("server.lock", "ab+") as alone, open("server.log", "ab+") as log:
        try:
            while True:
                server = _answering_server(binary, alone, log)
                say("ready")
                if server is None:
                    return
                threading.Thread(target=_end_when_unused, args=(server, users), daemon=True).start()
                server.wait()
                if _locked(users):
                    return
                # It crashed, or gave up on a full disk: its engines find the next one at the same place.
        finally:
            if _locked(alone):
                shutil.rmtree(socket_path(Path()).parent, ignore_errors=True)


def _answering_server(binary: str, alone: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes] | None:
    """A server that answers, started here; None if it is the one of another keeper."""
    server = None
    log_before = log.seek(0, os.SEEK_END)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (said := answer(Path())).startswith(b"+PONG"):
        if said.startswith(b"-LOADING"):
            deadline = time.monotonic() + PATIENCE_SECONDS
        if server is None:
            server = _started(binary, alone, log) if _locked(alone) else None
        elif server.poll() is not None:
            log.seek(log_before)
            last_words = log.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ChildProcessError(f"the server ended with status {server.returncode}: {last_words}")
        if time.monotonic() > deadline:
            if server is None:
                raise TimeoutError("another server holds server.lock, but cannot be reached from here")
            server.kill()
            server.wait()
            raise TimeoutError(f"the server did not answer for {PATIENCE_SECONDS} seconds")
        time.sleep(0.01)
    return server


def _started(binary: str, alone: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    socket_path(Path()).parent.mkdir(mode=0o700, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_path(Path())),  # asked again: now that its folder is there, it must be ours
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "lazyfree-lazy-expire": "yes",
        "loglevel": "warning",
    }
    return subprocess.Popen(
        [binary, *(word for name, value in options.items() for word in (f"--{name}", value))],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[alone.fileno()],  # so that the lock is held for as long as either of the two lives
        preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - the other thread waits in flock or sleep: it has no lock
    )


def die_with(parent: int) -> None:  # pragma: no cover - runs between fork and exec, which no coverage survives
    """End when the parent does, however it ends. Only Linux can promise that."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _end_when_unused(server: subprocess.Popen[bytes], users: IO[bytes]) -> None:
    """Who comes from now on waits for ``users.lock``, and then finds no server and the data whole."""
    fcntl.flock(users, fcntl.LOCK_EX)
    server.terminate()
    time.sleep(STOP_SECONDS)
    server.kill()


def _locked(file: IO[bytes]) -> bool:
    """Whether the lock is this process's alone, from now on at the latest."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(text: str) -> None:  # pragma: no cover - tests run it by python -I -S, which loads no coverage
    """Tell the engine that waits, if it still does, and let go of its pipe."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), text.encode(errors="surrogateescape"))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


def main() -> None:  # pragma: no cover - tests run it by python -I -S, which loads no coverage
    """Run as a program of its own."""
    binary, kind, folder = sys.argv[1], sys.argv[2], Path.cwd()
    os.umask(0o077)  # what the server writes is the user's alone
    if os.fork():
        os._exit(0)  # the engine's process need not wait for the keeper's end
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # it ends with the last engine: one may still be at its last requests
    try:
        keep(binary, _say)
    except OSError as error:
        _say(str(error))
    finally:
        if kind == "temporary":
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":  # pragma: no cover - tests run it by python -I -S, which loads no coverage
    main()

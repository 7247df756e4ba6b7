"""The process that keeps an embedded server. It is started by its path, so it imports the standard library alone.

    keeper.py SERVER_BINARY kept         in the folder of the data
    keeper.py SERVER_BINARY temporary    in the folder in which a temporary folder for the data is created

It makes sure that a server answers for the folder, and writes ``ready`` and the folder, or an error, to its standard
output. The engine that started it takes ``users.lock`` and closes the keeper's standard input. The keeper ends when no
engine has ``users.lock`` any more. ``embedded.py`` describes how engines, keeper and server work together.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

START_SECONDS = 30  # to wait for a reply; while the server replies that it is loading its data, the wait starts anew
STOP_SECONDS = 30
STABLE_SECONDS = 1.0  # a server that ended sooner is started again only after a pause
PAUSE_SECONDS = 0.1  # before the second attempt to start a server, then twice as long each time
LONGEST_PAUSE_SECONDS = 2.0


def socket_path(folder: Path) -> Path | None:
    """The socket of a folder's server, or None if the folder has none.

    The socket is in a private directory with a random name, so that no other user can create it first. Its path is
    recorded in the data folder, and the directory is kept while engines are open: a server that is started again
    listens where they look for it. The socket cannot be in the data folder itself, because its path must be short and
    not every file system has sockets.
    """
    path = _recorded_path(folder)
    with suppress(FileNotFoundError):
        if path is not None and (found := path.parent.lstat()).st_uid == (folder / "socket").stat().st_uid:
            if found.st_uid != os.geteuid():
                raise PermissionError(f"{path.parent} belongs to another user")
            return path
    return None


def ping(path: Path | None) -> bytes:
    """What the server at a socket replies to PING; nothing if there is none."""
    if path is None:
        return b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
        except OSError:
            return b""


def keep(binary: str, report: Callable[[str], None]) -> None:
    """Keep a server for the current folder until no engine uses it; report ``ready`` as soon as one answers."""
    with open("users.lock", "ab+") as users, open("server.lock", "ab+") as lock, open("server.log", "ab+") as log:
        try:
            server = _answering_server(binary, lock, log)
            report("ready")
            while server is not None:
                started = time.monotonic()
                threading.Thread(target=_end_when_unused, args=(server, users), daemon=True).start()
                server.wait()
                if _locked(users):
                    return
                if time.monotonic() < started + STABLE_SECONDS:
                    time.sleep(PAUSE_SECONDS)
                server = _restarted_server(binary, users, lock, log)
        finally:
            if _locked(lock) and (path := socket_path(Path())):
                shutil.rmtree(path.parent, ignore_errors=True)


def _restarted_server(binary: str, users: IO[bytes], lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes] | None:
    """Start a server after the old one has ended, for example on a full disk; None if no engine uses the folder any more.

    It tries until a server runs: the disk may stay full for long, and engines cannot start a server themselves.
    """
    pause = PAUSE_SECONDS
    while not _locked(users):
        with suppress(OSError):
            return _answering_server(binary, lock, log)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return None


def _answering_server(binary: str, lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes] | None:
    """A server that answers, started by this process; None if another keeper started it."""
    server = None
    log_before = log.seek(0, os.SEEK_END)
    deadline = time.monotonic() + START_SECONDS
    while not (reply := ping(socket_path(Path()))).startswith(b"+PONG"):
        if reply.startswith(b"-LOADING"):
            deadline = time.monotonic() + START_SECONDS
        if server is None:
            server = _started_server(binary, lock, log) if _locked(lock) else None
        elif server.poll() is not None:
            log.seek(log_before)
            last_line = log.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ChildProcessError(f"the server ended with status {server.returncode}: {last_line}")
        if time.monotonic() > deadline:
            if server is None:
                raise TimeoutError(
                    "another process runs the server of this folder, but its socket in /tmp cannot be reached: give both "
                    "processes the same /tmp (systemd: PrivateTmp=no), or use another folder"
                )
            server.kill()
            server.wait()
            raise TimeoutError(f"the server did not answer for {START_SECONDS} seconds")
        time.sleep(0.01)
    return server


def _started_server(binary: str, lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(_prepared_socket_path()),
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "lazyfree-lazy-expire": "yes",
        "loglevel": "warning",
    }
    return started(
        [binary, *(word for name, value in options.items() for word in (f"--{name}", value))],
        output=log,
        pass_fds=[lock.fileno()],  # so that the lock is held as long as either of the two processes lives
    )


def _recorded_path(folder: Path) -> Path | None:
    """The path in the folder's file ``socket``, unless a copy of another folder brought that file along.

    A copy has another inode, so it never leads to the server of the original.
    """
    try:
        device, inode, path = os.fsdecode((folder / "socket").read_bytes()).split(" ", 2)
    except (FileNotFoundError, ValueError):
        return None
    identity = folder.stat()
    return Path(path) if (device, inode) == (f"{identity.st_dev:x}", f"{identity.st_ino:x}") else None


def _prepared_socket_path() -> Path:
    """The socket path for a new server, in a directory that exists and is private. The caller holds ``server.lock``.

    It is the recorded path if possible, because open engines know no other.
    """
    path = _recorded_path(Path())
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(mode=0o700)
        if _is_private_directory(path.parent):
            return path
    # TMPDIR may have a long path, so it counts only if there is no /tmp.
    common = "/tmp"  # noqa: S108 - the rule warns of names in /tmp that others can guess; mkdtemp, below, makes a random one that only this user may enter
    parent = common if os.access(common, os.W_OK) else tempfile.gettempdir()
    path = Path(tempfile.mkdtemp(prefix="voucher-sessions-", dir=parent), "server.sock")
    try:
        identity = Path().stat()
        new_record = Path("socket.new")
        new_record.write_bytes(os.fsencode(f"{identity.st_dev:x} {identity.st_ino:x} {path}"))
        new_record.replace("socket")
    except OSError:
        path.parent.rmdir()  # on a full disk, each attempt would leave one behind
        raise
    return path


def _is_private_directory(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def started(
    command: Sequence[str | Path],
    *,
    output: IO[bytes] | int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    pass_fds: Collection[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process that reads no input and ends when this one ends."""
    end = ending_with(os.getpid())
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=env,
        cwd=cwd,
        user=user,
        pass_fds=pass_fds,
        preexec_fn=end,  # noqa: PLW1509 - the rule warns of a child that waits forever for a lock that a thread held at the fork; `end` takes no lock
    )


def ending_with(parent: int) -> Callable[[], None]:
    """A function for a child process: the child ends when the parent ends, for whatever reason. Only Linux can do that.

    ``prctl`` is looked up here, before the fork: between fork and exec a child must not wait for a lock, which a thread
    of the parent may have held at the fork.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def end_with_parent() -> None:
        if prctl is not None:
            set_parent_death_signal = 1
            prctl(set_parent_death_signal, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return end_with_parent


def _end_when_unused(server: subprocess.Popen[bytes], users: IO[bytes]) -> None:
    """End the server when no engine uses it. An engine that is opened meanwhile waits for ``users.lock``."""
    fcntl.flock(users, fcntl.LOCK_EX)
    server.terminate()
    time.sleep(STOP_SECONDS)
    server.kill()


def _locked(file: IO[bytes]) -> bool:
    """Whether this process alone has the lock, which it takes if it can."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _report(text: str) -> None:  # pragma: no cover - test_embedded_server.py runs it, in a process without coverage.py
    """Write a text to the engine that waits for it, and wait until that engine has taken ``users.lock`` or ended."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), os.fsencode(text))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, sys.stdout.fileno())
    os.dup2(null, sys.stderr.fileno())
    os.read(sys.stdin.fileno(), 1)
    os.dup2(null, sys.stdin.fileno())
    os.close(null)


def main() -> None:  # pragma: no cover - test_embedded_server.py runs it, in a process without coverage.py
    """Run as a program of its own."""
    binary, kind = sys.argv[1:]
    os.umask(0o077)  # only this user may read what the server writes
    if os.fork():
        os._exit(0)  # so that the engine's process need not wait for the keeper's end
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # engines may still be in use; it ends with the last of them
    folder = None
    try:
        if kind == "temporary":
            folder = tempfile.mkdtemp(prefix="voucher-sessions-data-", dir=Path.cwd())
            os.chdir(folder)
        keep(binary, lambda status: _report(f"{status}\n{Path.cwd()}"))
    except OSError as error:
        _report(str(error))
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":  # pragma: no cover - test_embedded_server.py runs it, in a process without coverage.py
    main()

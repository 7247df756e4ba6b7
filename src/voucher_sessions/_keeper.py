"""The process that keeps an embedded server: started by path, so it needs the standard library alone.

    _keeper.py SERVER_BINARY FOLDER temporary|kept

It starts the server, says ``ready`` or what went wrong on its standard output, and waits until nobody holds
``users.lock`` any more. See ``embedded.py`` for the whole arrangement.
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
import time
from pathlib import Path

START_SECONDS = 60  # a large append-only file takes its time to load
STOP_SECONDS = 30


def _die_with(parent: int) -> None:
    """In the server, before it runs: end when the keeper does. Only Linux can promise that."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _started(binary: str, folder: Path, path: str) -> subprocess.Popen[bytes]:
    keeper = os.getpid()
    options = {
        "port": "0",
        "unixsocket": path,
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "lazyfree-lazy-expire": "yes",
        "logfile": str(folder / "server.log"),
        "loglevel": "warning",
    }
    command = [binary, *(word for name, value in options.items() for word in (f"--{name}", value))]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: _die_with(keeper),
    )


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _wait_until_it_answers(server: subprocess.Popen[bytes], path: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return f"the server ended with status {server.returncode}"
        if _answers(path):
            return "ready"
        time.sleep(0.01)
    return f"the server did not answer within {START_SECONDS} seconds"


def _ended(_signal: int, _frame: object) -> None:
    raise SystemExit(1)


def _keep(binary: str, folder: Path) -> None:
    socket_folder = tempfile.mkdtemp(prefix="voucher-sessions-")  # short, as the path of a socket must be
    path = os.path.join(socket_folder, "server.sock")
    server = _started(binary, folder, path)
    try:
        said = _wait_until_it_answers(server, path)
        if said == "ready":
            (folder / "socket.txt").write_text(path, "utf-8")
        os.write(sys.stdout.fileno(), said.encode())
        os.close(sys.stdout.fileno())
        if said == "ready":
            signal.signal(signal.SIGCHLD, _ended)
            signal.signal(signal.SIGTERM, _ended)
            with open(folder / "users.lock", "rb") as users:
                fcntl.flock(users, fcntl.LOCK_EX)
                _stop(server, socket_folder, folder)
    finally:
        _stop(server, socket_folder, folder)


def _stop(server: subprocess.Popen[bytes], socket_folder: str, folder: Path) -> None:
    """While ``users.lock`` is held: who comes next waits for it, and then finds no server and the data whole."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    (folder / "socket.txt").unlink(missing_ok=True)
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    shutil.rmtree(socket_folder, ignore_errors=True)


def main() -> None:
    binary, folder, kind = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if os.fork():
        os._exit(0)  # the engine's process must not wait for the keeper
    os.setsid()
    try:
        _keep(binary, folder)
    finally:
        if kind == "temporary":
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

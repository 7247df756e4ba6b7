"""Servers whose clock a test moves while they run: ``running_with_clock``.

The three binaries are linked dynamically and ask glibc for the time, so a preloaded library can answer instead of it
(``moved_clock.c``; ``cc`` builds it when it is first needed). The time can stand still: then a test says at which
millisecond each call runs, and it does not matter how busy the machine is. ``FakeClock`` does the same for fakeredis.
"""

from __future__ import annotations

import atexit
import mmap
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Protocol

import redis
import time_machine

from support.servers import Server, running_in

START_MS = 1_795_262_400_000  # 2026-11-21 12:00 UTC; the time at which a clock stands first
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StoppedClock(Protocol):
    """The time of a server, which stands still unless it is moved, forward or back."""

    def now_ms(self) -> int: ...

    def reach(self, at_ms: int) -> None: ...

    def move(self, ms: int) -> None: ...


class FakeClock:
    """The clock of fakeredis: that of this process, as time_machine moves it (``tick=False``)."""

    def __init__(self, traveller: time_machine.Traveller) -> None:
        self._traveller = traveller
        self.reach(START_MS)

    def now_ms(self) -> int:
        return round(time.time() * 1000)

    def reach(self, at_ms: int) -> None:
        self._traveller.move_to(EPOCH + timedelta(milliseconds=at_ms), tick=False)
        assert self.now_ms() == at_ms

    def move(self, ms: int) -> None:
        self.reach(self.now_ms() + ms)


class ServerClock:
    """The clock of a server that was started with ``environment``. It stands at START_MS until it is moved."""

    def __init__(self, folder: str) -> None:
        path = Path(folder) / "clock"
        path.write_bytes(struct.pack("qq", START_MS * 1_000_000, 0))
        with path.open("r+b") as file:
            self._settings = mmap.mmap(file.fileno(), 16)
        self.environment = {"LD_PRELOAD": str(preloaded_library()), "MOVED_CLOCK": str(path)}
        self._admin: redis.Redis | None = None

    def belongs_to(self, server: Server) -> None:
        self._admin = server.client()
        assert self.now_ms() == START_MS, f"{server.binary} does not ask the preloaded library for the time"

    def close(self) -> None:
        if self._admin:
            self._admin.close()
        self._settings.close()

    def now_ms(self) -> int:
        assert self._admin is not None, "the server runs"
        seconds, micros = self._admin.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def reach(self, at_ms: int) -> None:
        """The time is ``at_ms`` from now on, for every command. Valkey keeps a time for some ms: that is waited for."""
        self._write(0, at_ms * 1_000_000)
        deadline = time.monotonic() + 10
        while self.now_ms() != at_ms:
            assert time.monotonic() < deadline, "the server does not show the time that was set"

    def move(self, ms: int) -> None:
        self.reach(self.now_ms() + ms)

    def run(self, offset_ms: int = 0) -> None:
        """The time is the machine's, ``offset_ms`` added, and goes on. Call it again to move the running clock."""
        self._write(1, offset_ms * 1_000_000)
        self._write(0, 0)
        expected = time.time() * 1000 + offset_ms
        deadline = time.monotonic() + 10
        while abs(self.now_ms() - expected) > 10_000:
            assert time.monotonic() < deadline, "the server does not show the time that was set"

    def _write(self, at: int, value: int) -> None:
        struct.pack_into("q", self._settings, 8 * at, value)


@cache
def preloaded_library() -> Path:
    """``moved_clock.c`` as a library, which goes with this process."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("tests that move a server's clock need a C compiler named cc (Debian: gcc and libc6-dev)")
    folder = tempfile.mkdtemp(prefix="vs-clock-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = Path(folder) / "moved_clock.so"
    source = Path(__file__).with_name("moved_clock.c")
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{compiler} cannot build {source.name}: {done.stderr}")
    return library


@contextmanager
def running_with_clock(name: str, **options: str) -> Iterator[tuple[Server, ServerClock]]:
    """A server, and its clock, which stands still until it is moved or set running."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        clock = ServerClock(folder)
        with running_in(clock.environment, name, **options) as server:
            clock.belongs_to(server)
            yield server, clock
        clock.close()

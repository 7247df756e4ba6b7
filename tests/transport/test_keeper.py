"""The keeper's own functions, in this process, where they can be measured and slowed down."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.servers import BINARIES
from support.waiting import until

from transport.embedded_processes import Running, nothing_runs
from voucher_sessions._transport import keeper

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="watches the processes through /proc"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # forks in a worker of xdist
    pytest.mark.usefixtures("no_left_overs"),
]


class TestEndingWithTheParent:
    """What a child calls between fork and exec, called in this process."""

    @pytest.fixture(autouse=True)
    def _afterwards_this_process_outlives_its_parent(self) -> Iterator[None]:
        yield
        ctypes.CDLL(None).prctl(1, 0)

    def signal_at_the_parents_end(self) -> int:
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(number))
        return number.value

    def test_the_kernel_kills_the_child_when_its_parent_ends(self) -> None:
        keeper.ending_with(os.getppid())()
        assert self.signal_at_the_parents_end() == signal.SIGKILL

    def test_a_child_whose_parent_has_ended_already_ends_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ended: list[int] = []
        monkeypatch.setattr(os, "_exit", ended.append)
        keeper.ending_with(os.getpid())()  # this process is not its own parent
        assert ended == [1]

    def test_elsewhere_than_on_linux_nothing_happens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        keeper.ending_with(os.getpid())()
        assert self.signal_at_the_parents_end() == 0


class TestKeeper:
    """The keeper's own functions, in this process, where they can be measured and slowed down."""

    @pytest.fixture(autouse=True)
    def _there(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        monkeypatch.chdir(folder)

    @contextmanager
    def in_use(self, name: str = "users.lock", kind: int = fcntl.LOCK_SH) -> Iterator[None]:
        with open(name, "ab+") as file:
            fcntl.flock(file, kind)
            yield

    @contextmanager
    def keeping(self, binary: Path = BINARIES["valkey"]) -> Iterator[list[str]]:
        reports: list[str] = []
        thread = threading.Thread(target=keeper.keep, args=(str(binary), reports.append), daemon=True)
        thread.start()
        try:
            yield reports
        finally:
            thread.join(10)
            assert not thread.is_alive()

    def test_keeps_a_server_while_it_is_used(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.2)
        with self.keeping() as reports, self.in_use():
            until(lambda: reports == ["ready"])
            assert keeper.ping(keeper.socket_path(folder)) == b"+PONG\r\n"
            assert not nothing_runs(folder)
        assert nothing_runs(folder)

    def test_starts_a_server_that_was_killed_again(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.2)
        monkeypatch.setattr(keeper, "STABLE_SECONDS", 0)
        with self.keeping() as reports, self.in_use():
            until(lambda: reports == ["ready"])
            before = Running(folder).server
            os.kill(before, signal.SIGKILL)
            until(lambda: keeper.ping(keeper.socket_path(folder)).startswith(b"+PONG"))
            assert Running(folder).server != before

    def test_tries_again_after_a_pause_while_a_server_cannot_be_started(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.2)
        start = keeper._started_server
        attempts: list[float] = []

        def fails_twice(*args: Any) -> subprocess.Popen[bytes]:
            attempts.append(time.monotonic())
            if len(attempts) in {2, 3}:
                raise OSError(errno.ENOSPC, "No space left on device")
            return start(*args)

        monkeypatch.setattr(keeper, "_started_server", fails_twice)
        with self.keeping() as reports, self.in_use():
            until(lambda: reports == ["ready"])
            os.kill(Running(folder).server, signal.SIGKILL)
            until(lambda: len(attempts) == 4)
            until(lambda: keeper.ping(keeper.socket_path(folder)).startswith(b"+PONG"))
        pauses = [after - before for before, after in itertools.pairwise(attempts[1:])]
        assert pauses[0] >= 0.1
        assert pauses[1] >= 0.2

    def test_stops_trying_when_nobody_waits_any_more(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        attempts: list[float] = []

        def fails(*_: object) -> None:
            attempts.append(time.monotonic())
            raise OSError(errno.ENOSPC, "No space left on device")

        with self.keeping() as reports, self.in_use():
            until(lambda: reports == ["ready"])
            monkeypatch.setattr(keeper, "_started_server", fails)
            os.kill(Running(folder).server, signal.SIGKILL)
            until(lambda: len(attempts) > 1)

    def test_kills_a_server_that_does_not_end(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.1)
        with self.keeping() as reports, self.in_use():
            until(lambda: reports == ["ready"])
            os.kill(Running(folder).server, signal.SIGSTOP)

    def test_leaves_the_folder_to_a_keeper_that_is_there(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.2)
        with self.keeping() as reports, self.in_use():
            until(lambda: reports == ["ready"])
            before = Running(folder).server
            keeper.keep("never started", reports.append)
            assert reports == ["ready", "ready"]
            assert Running(folder).server == before

    def test_waits_for_a_server_that_loads_its_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "START_SECONDS", 0.2)
        replies = iter([b"-LOADING"] * 40 + [b"+PONG\r\n"])
        monkeypatch.setattr(keeper, "ping", lambda path: next(replies))
        reports: list[str] = []
        with self.in_use("server.lock", fcntl.LOCK_EX):
            keeper.keep("never started", reports.append)
        assert reports == ["ready"]

    def test_gives_up_when_the_server_of_another_is_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "START_SECONDS", 0.1)
        with self.in_use("server.lock", fcntl.LOCK_EX), pytest.raises(TimeoutError, match="cannot be reached"):
            keeper.keep("never started", pytest.fail)

    def test_gives_up_and_kills_a_server_that_is_silent(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "START_SECONDS", 0.1)
        silent = folder / "silent"
        silent.write_text("#!/bin/sh\nexec sleep 60\n")
        silent.chmod(0o700)
        with pytest.raises(TimeoutError, match=r"did not answer for 0\.1 seconds"):
            keeper.keep(str(silent), pytest.fail)

    def test_reports_only_the_log_of_this_start(self, folder: Path) -> None:
        Path("server.log").write_text("long ago\n")
        with pytest.raises(ChildProcessError, match=r"ended with status 1: $"):
            keeper.keep(shutil.which("false") or "", pytest.fail)

    def test_goes_on_when_the_engine_that_started_it_has_gone(self, folder: Path) -> None:
        with self.in_use():
            command = [sys.executable, "-I", "-S", keeper.__file__, str(BINARIES["valkey"]), "kept"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as starting:
                assert starting.stdout
                starting.stdout.close()
            until(lambda: keeper.ping(keeper.socket_path(folder)).startswith(b"+PONG"))
            running = Running(folder)
        until(running.both_ended)

    def test_the_socket_is_under_tmpdir_where_there_is_no_common_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        path = keeper._prepared_socket_path()
        assert str(path.parent.parent) == tempfile.gettempdir()
        shutil.rmtree(path.parent)

    def test_gets_no_reply_where_no_server_listens(self, folder: Path) -> None:
        assert keeper.ping(keeper.socket_path(folder)) == b""
        path = keeper._prepared_socket_path()
        assert keeper.socket_path(folder) == path
        assert keeper.ping(path) == b""
        path.write_text("")
        assert keeper.ping(path) == b""
        shutil.rmtree(path.parent)

    @pytest.mark.parametrize("record", ["", "1 2", "1 2 /tmp/of-another-folder/server.sock"])
    def test_a_record_of_another_folder_is_ignored(self, record: str, folder: Path) -> None:
        Path("socket").write_text(record)
        assert keeper.socket_path(folder) is None
        path = keeper._prepared_socket_path()
        assert keeper.socket_path(folder) == path
        shutil.rmtree(path.parent)

    def test_the_recorded_path_is_used_again_while_it_is_private(self, folder: Path) -> None:
        path = keeper._prepared_socket_path()
        assert keeper._prepared_socket_path() == path
        path.parent.rmdir()
        assert keeper._prepared_socket_path() == path
        path.parent.chmod(0o755)
        another = keeper._prepared_socket_path()
        assert another != path
        another.parent.rmdir()
        another.parent.write_text("a file of somebody else in its place")
        third = keeper._prepared_socket_path()
        assert third not in {path, another}
        shutil.rmtree(third.parent)
        another.parent.unlink()
        path.parent.rmdir()

    def test_a_recorded_path_whose_parent_is_gone_is_replaced(self, folder: Path, tmp_path: Path) -> None:
        identity = folder.stat()
        Path("socket").write_text(f"{identity.st_dev:x} {identity.st_ino:x} {tmp_path}/gone/a/server.sock")
        path = keeper._prepared_socket_path()
        assert path.parent.is_dir()
        assert keeper.socket_path(folder) == path
        shutil.rmtree(path.parent)

    def test_a_path_that_cannot_be_recorded_leaves_no_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        Path("socket.new").mkdir()  # like a full disk: the record cannot be written
        with pytest.raises(IsADirectoryError):
            keeper._prepared_socket_path()
        assert not list(Path(tempfile.gettempdir()).iterdir())

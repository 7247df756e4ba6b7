"""``embedded://``: processes that are killed, and servers that fail."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from support.waiting import until

from transport.embedded_processes import GIFT, Running, User, ended, nothing_runs, recovered, temporary_folders
from voucher_sessions import EmbeddedServerError, VoucherSessions
from voucher_sessions._transport import keeper
from voucher_sessions._transport.embedded import EmbeddedServer

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="watches the processes through /proc"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # forks in a worker of xdist
    pytest.mark.usefixtures("no_left_overs"),
]


class TestKilled:
    def test_the_only_user_takes_keeper_server_and_temporary_folder_along(self, user: Callable[[str], User]) -> None:
        only = user("embedded://")
        only.opened()
        (made,) = temporary_folders()
        running = Running(made)
        only.kill_group()
        until(running.both_ended)
        until(lambda: not made.exists())
        assert not running.socket.parent.exists()

    def test_the_process_that_started_the_server_leaves_it_to_the_others(
        self, folder: Path, user: Callable[[], User]
    ) -> None:
        starter = user()
        starter.opened()
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            running = Running(folder)
            starter.kill_group()
            starter.process.join()
            engine.put_voucher(GIFT)
            assert Running(folder).server == running.server
        until(running.both_ended)

    def test_the_process_that_started_the_server_leaves_none_of_its_files_open(
        self, folder: Path, user: Callable[[], User]
    ) -> None:
        read, write = os.pipe()
        before = [os.dup(descriptor) for descriptor in (1, 2)]
        for descriptor in (1, 2):
            os.dup2(write, descriptor)  # whoever waits for the end of the starter's output must see it
        try:
            starter = user()
        finally:
            for descriptor, saved in zip((1, 2), before, strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
        os.close(write)
        starter.opened()
        with VoucherSessions.from_url(f"embedded://{folder}"):
            starter.process.kill()
            with os.fdopen(read, "rb") as output:
                output.read()

    def test_a_server_is_started_again_where_its_engines_find_it(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)
            before = Running(folder)
            os.kill(before.server, signal.SIGKILL)
            until(lambda: recovered(engine))
            after = Running(folder)
            assert after.keeper == before.keeper
            assert after.server != before.server
        until(after.both_ended)

    def test_a_server_holds_the_lock_of_its_folder_even_where_it_outlives_its_keeper(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}"):
            files = [os.readlink(each) for each in Path(f"/proc/{Running(folder).server}/fd").iterdir()]
            assert str(folder / "server.lock") in files

    def test_a_keeper_takes_its_server_along_and_the_next_engine_starts_both_for_all(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)
            before = Running(folder)
            os.kill(before.keeper, signal.SIGKILL)
            until(before.both_ended)
            with VoucherSessions.from_url(f"embedded://{folder}") as another:
                assert another.get_voucher("GIFT-50").code == "GIFT-50"
                assert recovered(engine)
        until(lambda: nothing_runs(folder))

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_keeper_that_is_asked_to_end_stays_for_its_engines(self, folder: Path, number: signal.Signals) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            running = Running(folder)
            os.kill(running.keeper, number)
            engine.put_voucher(GIFT)
            assert Running(folder).keeper == running.keeper


OPEN_TEMPORARY = """
import os, signal, subprocess, sys
from voucher_sessions import VoucherSessions

class KilledAtStart(subprocess.Popen):
    def __init__(self, *args, **options):
        if MOMENT == "before":
            os.kill(os.getpid(), SIGNAL)
        super().__init__(*args, **options)
        if MOMENT == "after":
            os.kill(os.getpid(), SIGNAL)

subprocess.Popen = KilledAtStart
with VoucherSessions.from_url("embedded://") as engine:
    engine.check_server()
    os.kill(os.getpid(), SIGNAL)
"""


@pytest.mark.parametrize("moment", ["before", "after", "open"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_killed_leaves_no_temporary_folder(number: signal.Signals, moment: str) -> None:
    """Before and right after its keeper is started, and while its engine is open."""
    script = f"SIGNAL, MOMENT = {int(number)}, {moment!r}\n{OPEN_TEMPORARY}"
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=30, check=False)
    assert done.returncode == -number
    until(lambda: not temporary_folders())


def limit_file_size(process: int, size: int) -> None:
    """What the process writes beyond this size in any file fails and ends it, like the server on a full disk."""
    _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.long
def test_a_running_engine_goes_on_when_a_full_disk_has_space_again(folder: Path) -> None:
    with VoucherSessions.from_url(f"embedded://{folder}") as engine:
        engine.put_voucher(GIFT)
        engine.validate("GIFT-50", credits=10, session={"type": "LOCK", "key": "cart"})
        before = engine.get_voucher("GIFT-50")
        running = Running(folder)
        limit_file_size(running.keeper, 0)  # a new server inherits it, and cannot even start
        limit_file_size(running.server, 0)
        for _ in range(4):
            with pytest.raises(redis.ConnectionError, match="redeem of 'GIFT-50'"):
                engine.redeem("GIFT-50", credits=20, session="cart", redemption_id="order-1")
            time.sleep(0.2)
        assert ended(running.server)
        assert not ended(running.keeper)
        limit_file_size(running.keeper, resource.RLIM_INFINITY)
        until(lambda: recovered(engine))
        assert engine.get_voucher("GIFT-50") == before
        redemption = engine.redeem("GIFT-50", credits=20, session="cart", redemption_id="order-1")
        assert (redemption.credits, redemption.replayed) == (20, False)
        running = Running(folder)
    until(running.both_ended)


def test_a_keeper_whose_server_cannot_start_ends_with_its_last_engine(folder: Path) -> None:
    with VoucherSessions.from_url(f"embedded://{folder}"):
        running = Running(folder)
        limit_file_size(running.keeper, 0)
        os.kill(running.server, signal.SIGKILL)
        time.sleep(0.5)
        assert not ended(running.keeper)
    until(running.both_ended)
    with VoucherSessions.from_url(f"embedded://{folder}") as engine:
        engine.put_voucher(GIFT)


class TestFailingServer:
    def test_with_corrupt_data_is_reported_with_the_last_line_of_its_log(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)
        until(lambda: nothing_runs(folder))
        (log,) = folder.glob("appendonlydir/*.incr.aof")
        log.write_bytes(b"no append-only file\r\n" * 9)
        for _ in range(2):
            with pytest.raises(EmbeddedServerError, match=r"ended with status 1: .*Bad file format") as caught:
                VoucherSessions.from_url(f"embedded://{folder}")
            assert caught.value.folder == folder
            assert "\n" not in str(caught.value)
            assert nothing_runs(folder)

    def test_of_a_temporary_folder_leaves_no_folder(self) -> None:
        with pytest.raises(EmbeddedServerError, match="ended with status 1"):
            EmbeddedServer(Path(shutil.which("false") or ""), "")

    def test_that_does_not_exist_is_reported(self, folder: Path) -> None:
        with pytest.raises(EmbeddedServerError, match="/no/such/binary"):
            EmbeddedServer(Path("/no/such/binary"), str(folder))

    def test_with_a_keeper_that_cannot_be_started_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(EmbeddedServerError, match="/no/such/python"):
            VoucherSessions.from_url("embedded://")

    def test_with_a_keeper_that_writes_nothing_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", shutil.which("true"))
        with pytest.raises(EmbeddedServerError, match="its keeper ended"):
            VoucherSessions.from_url("embedded://")

    def test_with_a_keeper_that_fails_is_reported_in_full(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "keeper.py").write_text("raise SystemError('unheard of')")
        monkeypatch.setattr(keeper, "__file__", str(tmp_path / "keeper.py"))
        with pytest.raises(EmbeddedServerError, match="unheard of"):
            VoucherSessions.from_url("embedded://")

"""``embedded://`` with real servers and real processes, which the tests kill."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import redis
from support.servers import BINARIES
from support.waiting import until

from voucher_sessions import AsyncVoucherSessions, EmbeddedServerError, Voucher, VoucherSessions
from voucher_sessions._transport import keeper
from voucher_sessions._transport.embedded import EmbeddedServer

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="watches the processes through /proc"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # forks in a worker of xdist
]

GIFT = Voucher(code="GIFT-50", credits=5000)


def state_and_parent(pid: int) -> tuple[str, int]:
    """As /proc has it. Who has gone is a zombie here: when an orphan is reaped is the machine's affair."""
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
        self.socket = keeper.socket_path(folder)
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            self.info = client.info()
            self.config = client.config_get("*")
        self.server: int = self.info["process_id"]
        self.keeper = state_and_parent(self.server)[1]

    def both_ended(self) -> bool:
        return ended(self.server) and ended(self.keeper)


def nothing_runs(folder: Path) -> bool:
    """No keeper, no server, and nothing left of them outside the folder."""
    with (folder / "server.lock").open("ab") as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return not keeper.socket_path(folder).parent.exists()


def temporary_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).iterdir())


class User:
    """Another process with an engine of its own. It is forked before the test itself opens one, or it would share it."""

    def __init__(self, url: str) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self._main, args=(url, theirs))
        self.process.start()
        theirs.close()

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

    def kill_group(self) -> None:
        assert self.process.pid
        os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        self._pipe.close()
        self.process.join(10)
        self.process.kill()
        self.process.join()
        self.process.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for data; whatever the test does, nothing runs on it in the end."""
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def no_left_overs(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Every test ends with nothing running on its folder, no temporary folder and no new open file in this process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    files = len(os.listdir("/dev/fd"))
    yield
    if (folder / "server.lock").is_file():
        until(lambda: nothing_runs(folder))
    until(lambda: not temporary_folders())
    assert len(os.listdir("/dev/fd")) == files


@pytest.fixture
def user(folder: Path, no_left_overs: None) -> Iterator[Callable[[], User]]:
    users = []

    def another(url: str = f"embedded://{folder}") -> User:
        users.append(User(url))
        return users[-1]

    yield another
    for each in users:
        each.end()


class TestData:
    def test_is_there_at_the_next_start(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            engine.put_voucher(GIFT)
            engine.validate("GIFT-50", credits=10, session={"type": "LOCK", "key": "cart"})
            before = engine.get_voucher("GIFT-50")
            first = Running(folder)
        until(first.both_ended)
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            assert engine.get_voucher("GIFT-50") == before
            assert [each.key for each in engine.list_sessions("GIFT-50")] == ["cart"]

    def test_is_flushed_before_each_reply_and_the_users_alone(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)
            running = Running(folder)
            assert running.config["port"] == "0"
            assert running.config["appendonly"] == "yes"
            assert running.config["appendfsync"] == "always"
            assert stat.S_IMODE(running.socket.stat().st_mode) == 0o700
            assert stat.S_IMODE(running.socket.parent.stat().st_mode) == 0o700
            written = [each for each in folder.rglob("*") if each.name != "data"]
            assert {each.name for each in written} >= {"users.lock", "server.lock", "server.log", "appendonlydir"}
            assert not [each for each in written if each.stat().st_mode & 0o077]

    def test_without_a_folder_is_temporary_and_every_engines_own(self) -> None:
        with VoucherSessions.from_url("embedded://") as one, VoucherSessions.from_url("embedded://") as other:
            one.put_voucher(GIFT)
            assert not other.validate("GIFT-50").valid
            made = temporary_folders()
            assert len(made) == 2
            running = [Running(each) for each in made]
        until(lambda: all(each.both_ended() for each in running))
        until(lambda: not temporary_folders())

    def test_of_a_copied_folder_is_served_by_a_server_of_its_own(self, folder: Path, tmp_path: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as original:
            original.put_voucher(GIFT)
            shutil.copytree(folder, tmp_path / "copy")
            with VoucherSessions.from_url(f"embedded://{tmp_path / 'copy'}") as copy:
                copy.delete_voucher("GIFT-50")
            assert original.get_voucher("GIFT-50").code == "GIFT-50"
        until(lambda: nothing_runs(tmp_path / "copy"))

    def test_stays_served_when_the_folder_is_renamed(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder.with_name('before')}") as engine:
            engine.put_voucher(GIFT)
            folder.with_name("before").rename(folder)
            with VoucherSessions.from_url(f"embedded://{folder}") as another:
                assert another.get_voucher("GIFT-50").code == "GIFT-50"


class TestFolder:
    @pytest.mark.parametrize(
        "name",
        [
            "with spaces and 'quotes\" \\ in it",
            "Gutscheine-äöü-🎁",
            "--port 6379\nwith a line",
            "%20?db=1#x",
            "/".join(["long" * 50] * 8),
        ],
        ids=["spaces", "unicode", "options", "url", "long"],
    )
    def test_may_have_any_name(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / name
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)
            assert list(folder.glob("appendonlydir/*.aof"))
        until(lambda: nothing_runs(folder))

    def test_may_be_relative_to_where_the_engine_is_opened(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with VoucherSessions.from_url("embedded://data") as engine:
            monkeypatch.chdir("/")
            engine.put_voucher(GIFT)
            assert (folder / "appendonlydir").is_dir()
            monkeypatch.chdir(tmp_path)
            with pytest.raises(EmbeddedServerError) as caught:
                VoucherSessions.from_url("embedded://data/users.lock")
            assert caught.value.folder == folder / "users.lock"

    @pytest.mark.parametrize("beneath", ["", "/deeper/still"])
    def test_cannot_be_a_file(self, tmp_path: Path, beneath: str) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(EmbeddedServerError, match="Not a directory") as caught:
            VoucherSessions.from_url(f"embedded://{tmp_path}/file{beneath}")
        assert caught.value.folder == Path(f"{tmp_path}/file{beneath}")
        assert (tmp_path / "file").read_text() == "mine"

    def test_must_have_a_possible_name(self) -> None:
        with pytest.raises(EmbeddedServerError, match="null"):
            VoucherSessions.from_url("embedded:///a\0b")
        with pytest.raises(EmbeddedServerError, match="too long"):
            VoucherSessions.from_url(f"embedded:///{'a' * 5000}")

    @pytest.mark.parametrize("name", ["users.lock", "server.lock", "server.log"])
    def test_must_be_one_that_can_be_written(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "no" / name).mkdir(parents=True)  # not even root can write there
        with pytest.raises(EmbeddedServerError, match=name):
            VoucherSessions.from_url(f"embedded://{tmp_path / 'no'}")

    def test_served_by_another_user_is_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}"):
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
            with pytest.raises(EmbeddedServerError, match="belongs to another user"):
                VoucherSessions.from_url(f"embedded://{folder}")


class TestSharing:
    def test_engines_of_both_kinds_share_one_server_until_the_last_closes(self, folder: Path) -> None:
        async def use(first: VoucherSessions) -> None:
            async with AsyncVoucherSessions.from_url(f"embedded://{folder}") as second:
                first.close()
                assert (await second.get_voucher("GIFT-50")).code == "GIFT-50"
                assert not running.both_ended()

        first = VoucherSessions.from_url(f"embedded://{folder}")
        first.put_voucher(GIFT)
        running = Running(folder)
        asyncio.run(use(first))
        until(running.both_ended)

    def test_an_engine_that_finds_a_server_starts_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}"):
            monkeypatch.setattr(sys, "executable", "/no/such/python")
            with VoucherSessions.from_url(f"embedded://{folder}") as engine:
                engine.put_voucher(GIFT)

    def test_eight_processes_that_open_at_once_get_one_server(self, folder: Path, user: Callable[[], User]) -> None:
        users = [user() for _ in range(8)]
        for each in users:
            each.opened()
        for number, each in enumerate(users):
            each.does("put_voucher", Voucher(code=f"V-{number}"))
        running = Running(folder)
        assert running.info["db0"]["keys"] == 8
        for each in users[:7]:
            each.process.kill()
            each.process.join()
        assert users[7].does("get_voucher", "V-0").code == "V-0"
        assert Running(folder).server == running.server

    def test_closing_twice_is_fine(self, folder: Path) -> None:
        engine = VoucherSessions.from_url(f"embedded://{folder}")
        engine.close()
        engine.close()

        async def twice() -> None:
            engine = AsyncVoucherSessions.from_url(f"embedded://{folder}")
            await engine.aclose()
            await engine.aclose()

        asyncio.run(twice())

    def test_a_forked_child_shares_the_engine_and_ends_without_taking_it_away(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)

            def child() -> None:
                with engine:
                    engine.redeem("GIFT-50", credits=1)

            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(10)
            assert process.exitcode == 0
            process.close()
            lock = f":{(folder / 'users.lock').stat().st_ino} "
            assert [each for each in Path("/proc/locks").read_text().splitlines() if " READ " in each and lock in each]
            assert engine.redeem("GIFT-50", credits=1).credits == 1
            assert engine.get_voucher("GIFT-50").credits.used == 2

    def test_a_forked_child_keeps_the_server_that_its_parent_has_closed(self, folder: Path) -> None:
        engine = VoucherSessions.from_url(f"embedded://{folder}")
        engine.put_voucher(GIFT)
        running = Running(folder)
        go_on, wait = multiprocessing.Pipe()

        def child() -> None:
            assert wait.poll(10)
            engine.redeem("GIFT-50", credits=1)
            assert not running.both_ended()

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        engine.close()
        go_on.send(None)
        process.join(10)
        assert process.exitcode == 0
        process.close()
        for each in (go_on, wait):
            each.close()
        until(running.both_ended)


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


def recovered(engine: VoucherSessions) -> bool:
    try:
        return engine.get_voucher("GIFT-50").code == "GIFT-50"
    except redis.ConnectionError:
        return False


class TestFailingServer:
    def test_with_corrupt_data_is_told_with_its_last_words(self, folder: Path) -> None:
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

    def test_that_does_not_exist_is_told(self, folder: Path) -> None:
        with pytest.raises(EmbeddedServerError, match="/no/such/binary"):
            EmbeddedServer(Path("/no/such/binary"), str(folder))

    def test_with_a_keeper_that_cannot_be_started_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(EmbeddedServerError, match="/no/such/python"):
            VoucherSessions.from_url("embedded://")

    def test_with_a_keeper_that_says_nothing_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", shutil.which("true"))
        with pytest.raises(EmbeddedServerError, match="its keeper ended"):
            VoucherSessions.from_url("embedded://")

    def test_with_a_keeper_that_fails_is_told_in_full(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "keeper.py").write_text("raise SystemError('unheard of')")
        monkeypatch.setattr(keeper, "__file__", str(tmp_path / "keeper.py"))
        with pytest.raises(EmbeddedServerError, match="unheard of"):
            VoucherSessions.from_url("embedded://")


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
        said: list[str] = []
        thread = threading.Thread(target=keeper.keep, args=(str(binary), said.append), daemon=True)
        thread.start()
        try:
            yield said
        finally:
            thread.join(10)
            assert not thread.is_alive()

    def test_keeps_a_server_while_it_is_used(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.2)
        with self.keeping() as said, self.in_use():
            until(lambda: said == ["ready"])
            assert keeper.answer(folder) == b"+PONG\r\n"
            assert not nothing_runs(folder)
        assert nothing_runs(folder)

    def test_starts_a_server_that_was_killed_again(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.2)
        with self.keeping() as said, self.in_use():
            until(lambda: said == ["ready"])
            os.kill(Running(folder).server, signal.SIGKILL)
            until(lambda: said == ["ready", "ready"])

    def test_kills_a_server_that_does_not_end(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.1)
        with self.keeping() as said, self.in_use():
            until(lambda: said == ["ready"])
            os.kill(Running(folder).server, signal.SIGSTOP)

    def test_leaves_the_folder_to_a_keeper_that_is_there(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "STOP_SECONDS", 0.2)
        with self.keeping() as said, self.in_use():
            until(lambda: said == ["ready"])
            before = Running(folder).server
            keeper.keep("never started", said.append)
            assert said == ["ready", "ready"]
            assert Running(folder).server == before

    def test_has_patience_with_a_server_that_loads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "PATIENCE_SECONDS", 0.2)
        answers = iter([b"-LOADING"] * 40 + [b"+PONG\r\n"])
        monkeypatch.setattr(keeper, "answer", lambda folder: next(answers))
        said: list[str] = []
        with self.in_use("server.lock", fcntl.LOCK_EX):
            keeper.keep("never started", said.append)
        assert said == ["ready"]

    def test_gives_up_when_the_server_of_another_is_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "PATIENCE_SECONDS", 0.1)
        with self.in_use("server.lock", fcntl.LOCK_EX), pytest.raises(TimeoutError, match="cannot be reached"):
            keeper.keep("never started", pytest.fail)

    def test_gives_up_and_kills_a_server_that_is_silent(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper, "PATIENCE_SECONDS", 0.1)
        silent = folder / "silent"
        silent.write_text("#!/bin/sh\nexec sleep 60\n")
        silent.chmod(0o700)
        with pytest.raises(TimeoutError, match=r"did not answer for 0\.1 seconds"):
            keeper.keep(str(silent), pytest.fail)

    def test_tells_the_last_words_of_this_start_alone(self, folder: Path) -> None:
        Path("server.log").write_text("long ago\n")
        with pytest.raises(ChildProcessError, match=r"ended with status 1: $"):
            keeper.keep(shutil.which("false") or "", pytest.fail)

    def test_goes_on_when_the_engine_that_started_it_has_gone(self, folder: Path) -> None:
        with self.in_use():
            command = [sys.executable, "-I", "-S", keeper.__file__, str(BINARIES["valkey"]), "kept"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as starting:
                assert starting.stdout
                starting.stdout.close()
            until(lambda: keeper.answer(folder).startswith(b"+PONG"))
            running = Running(folder)
        until(running.both_ended)

    def test_listens_elsewhere_where_there_is_no_common_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert str(keeper.socket_path(folder).parent.parent) == tempfile.gettempdir()

    def test_hears_nothing_where_nobody_listens(self, folder: Path) -> None:
        assert keeper.answer(folder) == b""
        place = keeper.socket_path(folder).parent
        place.mkdir()
        (place / "server.sock").write_text("")
        assert keeper.answer(folder) == b""
        shutil.rmtree(place)

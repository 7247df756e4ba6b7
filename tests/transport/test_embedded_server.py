"""``embedded://``: the data, the folder, and engines that share a server."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import until

from transport.embedded_processes import GIFT, Running, User, nothing_runs, temporary_folders
from voucher_sessions import AsyncVoucherSessions, EmbeddedServerError, Voucher, VoucherSessions
from voucher_sessions._transport import keeper

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="watches the processes through /proc"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # forks in a worker of xdist
    pytest.mark.usefixtures("no_left_overs"),
]


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


class TestSocket:
    def test_no_other_user_can_block_a_folder(self, folder: Path) -> None:
        folder.mkdir()
        identity = folder.stat()
        predictable = Path(f"/tmp/voucher-sessions-{identity.st_dev:x}-{identity.st_ino:x}")
        with occupied(predictable), VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)

    def test_a_path_that_was_used_before_cannot_be_blocked_either(self, folder: Path) -> None:
        with VoucherSessions.from_url(f"embedded://{folder}") as engine:
            engine.put_voucher(GIFT)
            before = Running(folder)
        until(lambda: before.both_ended() and not before.socket.parent.exists())
        with occupied(before.socket.parent), VoucherSessions.from_url(f"embedded://{folder}") as engine:
            assert engine.get_voucher("GIFT-50").code == "GIFT-50"
            assert Running(folder).socket != before.socket

    def test_it_stays_the_same_when_the_server_is_started_again(self, folder: Path) -> None:
        paths = set()
        for _ in range(2):
            with VoucherSessions.from_url(f"embedded://{folder}") as engine:
                engine.put_voucher(GIFT)
                running = Running(folder)
                paths.add(running.socket)
            until(running.both_ended)
        assert len(paths) == 1

    def test_a_keeper_that_names_no_socket_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "keeper.py").write_text("import os; print('ready'); print(os.getcwd(), end='')")
        monkeypatch.setattr(keeper, "__file__", str(tmp_path / "keeper.py"))
        with pytest.raises(EmbeddedServerError, match="socket was removed"):
            VoucherSessions.from_url(f"embedded://{tmp_path}/data")


@contextmanager
def occupied(path: Path) -> Iterator[None]:
    """Put something in the place of a directory that the library cannot use: as root, another user's directory."""
    if os.geteuid() == 0:
        path.mkdir(mode=0o700)
        os.chown(path, 12345, 12345)
    else:
        path.write_text("")
    try:
        yield
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


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

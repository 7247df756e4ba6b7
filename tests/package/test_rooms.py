"""The rooms of the package: a wrong import fails ``lint-imports``, and ``_core`` takes little from redis-py."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import redis.exceptions

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/voucher_sessions"
CONTRACTS = [
    each["name"]
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
]
LINT_IMPORTS = Path(sysconfig.get_path("scripts"), "lint-imports")

LAYERS = "Imports run one way"
NO_IO = "_core does no I/O"
NO_CIRCLES = "No circles"
REDIS = "redis is imported in _transport alone, but for exception classes and the slot of a key"
PUBLIC_NAMES = "cli and contrib import only public names"

# Where which wrong import is planted, and the contracts that it breaks.
WRONG_IMPORTS = [
    ("pipelines.py", "from voucher_sessions.engine import VoucherSessions", [LAYERS, NO_CIRCLES]),
    ("engine.py", "from voucher_sessions.aio import AsyncVoucherSessions", [LAYERS]),
    ("aio.py", "from voucher_sessions.engine import VoucherSessions", [LAYERS]),
    ("_core/keys.py", "from voucher_sessions._transport.sync import SyncTransport", [LAYERS, NO_IO, NO_CIRCLES]),
    ("_core/keys.py", "import socket", [NO_IO]),
    ("_core/keys.py", "from voucher_sessions._core.verbs import Verbs", [NO_CIRCLES]),
    ("_transport/clients.py", "from voucher_sessions._transport.urls import open_url", [NO_CIRCLES]),
    ("__init__.py", "import redis", [REDIS]),
    ("pipelines.py", "import redis", [REDIS]),
    ("_core/verbs.py", "import redis", [REDIS]),
    ("cli/__init__.py", "import redis", [REDIS]),
    ("cli/__init__.py", "from voucher_sessions._core.keys import Keys", [PUBLIC_NAMES]),
    ("contrib/__init__.py", "from voucher_sessions.models import Text", [PUBLIC_NAMES]),
    ("contrib/__init__.py", "from voucher_sessions.demo import run", [PUBLIC_NAMES]),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, and of its contracts."""
    shutil.copytree(PACKAGE, tmp_path / "src/voucher_sessions", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(copy: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT_IMPORTS), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=copy, env=environment, check=False, capture_output=True, text=True)


def broken_contracts(copy: Path) -> list[str]:
    """The contracts that lint-imports reports as broken; none if it passes."""
    done = lint_imports(copy)
    broken = [name for name in CONTRACTS if f"{name} BROKEN" in " ".join(done.stdout.split())]
    assert done.returncode == bool(broken), done.stdout + done.stderr
    return broken


def test_the_contracts_are_kept(copy: Path) -> None:
    assert broken_contracts(copy) == []


def test_each_contract_has_a_wrong_import() -> None:
    assert {contract for *_, broken in WRONG_IMPORTS for contract in broken} == set(CONTRACTS)


@pytest.mark.long
@pytest.mark.parametrize(("path", "statement", "broken"), WRONG_IMPORTS)
def test_a_wrong_import_breaks_its_contracts(path: str, statement: str, broken: list[str], copy: Path) -> None:
    with (copy / "src/voucher_sessions" / path).open("a") as module:
        module.write(f"\n{statement}\n")
    assert sorted(broken_contracts(copy)) == sorted(broken)


def test_a_module_without_a_room_breaks_the_order(copy: Path) -> None:
    (copy / "src/voucher_sessions/anywhere.py").touch()
    done = lint_imports(copy)
    assert done.returncode != 0
    assert "anywhere" in done.stdout + done.stderr


def imported_from_redis(path: Path) -> dict[str, object]:
    """What a module takes from redis-py, by name; type-checking imports aside."""
    found: dict[str, object] = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names if alias.name.split(".")[0] == "redis"}
            assert names <= {"redis.exceptions"}, f"{path}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "redis":
            found |= {f"{node.module}.{alias.name}": alias.name for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path",
    [*sorted(PACKAGE.glob("_core/**/*.py")), PACKAGE / "errors.py", *sorted(PACKAGE.glob("contrib/**/*.py"))],
    ids=lambda path: path.name,
)
def test_outside_the_transport_only_exception_classes_come_from_redis_and_the_slot_of_a_key(path: Path) -> None:
    found = imported_from_redis(path)
    if path.name == "keys.py":
        assert found == {"redis.crc.key_slot": "key_slot"}
        return
    for full_name, name in found.items():
        assert full_name == f"redis.exceptions.{name}"
        assert issubclass(getattr(redis.exceptions, str(name)), Exception)

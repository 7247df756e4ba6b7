"""Mutation tests: puts one small defect at a time into a copy of the project, and reports those that no test notices.

    python -m mutation.run                                all of them; takes some hours on two cores
    python -m mutation.run    --files lua/redeem.lua      of these files
    python -m mutation.run    --sample 40                 this number of mutants, evenly spread
    python -m mutation.run    --files lua/book.lua --list list them without running tests
    python -m mutation.run    --jobs 8                    this number at a time; by default one per core

Each mutant is the project with one small defect (``defects.py``), in a copy of its own: the checkout stays as it is. The
quickest tests of its file run first, then more and more of them, until one fails or does not end. A test that fails
without any defect is left out and reported. At the end the surviving mutants are listed: file, line, the original text
and the changed text. A survivor is either a defect that no test notices, or a change without an effect; a reader must
decide which.

The same files give the same mutants in the same order. The exit code is 0 even if mutants survive.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import lupa
from lua_tools import sources as lua_sources

from mutation.defects import Mutant, mutants

ROOT: Final = Path(__file__).parents[2]
FILES: Final = [
    *sorted(f"lua/{path.name}" for path in (ROOT / "lua").iterdir()),
    *(
        f"src/voucher_sessions/_core/{name}.py"
        for name in (
            *("verbs", "call", "confirmation", "client_errors", "replies", "receipts", "keys", "requests"),
            *("adjustments", "audit", "batch", "loading", "walks", "rows", "steps"),
        )
    ),
    *(
        f"src/voucher_sessions/{name}.py"
        for name in (
            *("_transport/sync", "_transport/aio", "_transport/runners"),
            *("bulk/imports", "bulk/reconciling", "bulk/rows", "bulk/scans"),
        )
    ),
]
COPIED: Final = ("lua", "src", "tests", "docs", "README.md", "pyproject.toml")


class Selection(NamedTuple):
    """Some tests: files, what pytest's -k takes, and how many seconds they may take."""

    files: tuple[str, ...]
    expression: str
    seconds: int

    @property
    def arguments(self) -> list[str]:
        return [*(f"tests/{name}.py" for name in self.files), "-k", self.expression]


_BEHAVIOUR: Final = (
    *(
        f"behaviour/{name}"
        for name in (
            *("test_semantics", "test_stacks", "test_repeated_calls", "test_audit", "test_pipelines"),
            *("test_lowered_limits", "test_amount_required", "test_repeated_ids", "test_put_if_exists"),
            *("test_stored_formats", "test_blocked_stacks", "test_only_lock", "test_repeated_batches"),
            *("test_extend", "test_extend_stack", "test_extend_retries", "test_get_session", "test_iter_sessions"),
            *("test_adjust", "test_partial_rollback", "test_odd_texts", "test_loader"),
        )
    ),
    "core/test_client_errors",
    "core/test_replies",
    "core/test_own_replies",
    "behaviour/test_foreign_values",
    "bulk/test_import_redemptions",
    "bulk/test_scans",
)
# From the quickest to the widest, each for one server and few variants: a survivor is tried by all of them.
LUA: Final = (
    Selection(_BEHAVIOUR, "valkey and sync-bytes-resp3", 60),
    # Tests that make an engine of one kind themselves
    Selection(_BEHAVIOUR, "valkey and not resp and not sync-repeated", 60),
    Selection(
        ("behaviour/test_state_machine", "scripts/test_command_counts"), "valkey and not text and not async", 120
    ),
    Selection(_BEHAVIOUR, "valkey and sync-repeated", 60),
    # Some tests need a clock that stands still.
    Selection(_BEHAVIOUR, "fakeredis and (sync-text-resp2 or not resp)", 120),
    Selection(
        ("faults/test_damaged_keys", "faults/test_lost_replies", "core/test_server_check", "faults/test_clocks"),
        "valkey and not async and not text and not evicted and not flushall or test_overtaken_by_other_calls and close",
        180,
    ),
)
PYTHON: Final = (
    Selection(
        ("behaviour/test_bad_input", "public/test_models_and_errors", "core/test_retries"),
        "not redis7 and not redis8 and not text",
        60,
    ),
    Selection(
        _BEHAVIOUR,
        "valkey and (sync-bytes-resp3 or async-text-resp3) or not (valkey or redis8 or redis7 or fakeredis)",
        120,
    ),
    Selection(
        (
            "behaviour/test_durability",
            "core/test_server_check",
            "transport/test_urls_and_clients",
            "transport/test_signals_and_forks",
        ),
        "not redis7 and not redis8",
        180,
    ),
    Selection(
        (
            "faults/test_cancelled_calls",
            "faults/test_damaged_keys",
            "faults/test_hostile_input",
            "faults/test_hostile_replies",
        ),
        "not redis7 and not redis8 and not any_answers",
        180,
    ),
)


def selections(path: str) -> tuple[Selection, ...]:
    return LUA if path.endswith(".lua") else PYTHON


@dataclass
class Outcome:
    """What became of a mutant, or of the project without one. ``failed``: the tests that failed."""

    verdict: str
    failed: list[str] = field(default_factory=list)


# --- One run of some tests, in a process of its own -----------------------------------------------------------------


class _FailedTests:
    """A plugin of pytest that keeps the names of what fails."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.names.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.names.append(report.nodeid)


def _import_what_never_changes() -> None:
    """So that each run, which is a fork, has it already. Nothing of the project's own."""
    used = "asyncio fakeredis.aioredis hypothesis.stateful pydantic pytest redis.asyncio.sentinel time_machine trustme"
    for name in used.split():
        import_module(name)


def _run(copy: Path, selection: Selection, ignored: Iterable[str], *, all_of_them: bool) -> Outcome:
    """The tests in a fork, which is ended when it takes too long."""
    result_file = copy / "outcome.json"
    result_file.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        _run_tests_in_child(copy, selection, list(ignored), result_file, all_of_them=all_of_them)
    deadline = time.monotonic() + selection.seconds * (10 if all_of_them else 1)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Outcome("does not end")
        time.sleep(0.01)
    if not result_file.exists():
        return Outcome("crashed")
    code, failed = json.loads(result_file.read_text("utf-8"))
    return Outcome("survived" if code == 0 else "killed", failed)


def _run_tests_in_child(
    copy: Path, selection: Selection, ignored: list[str], result_file: Path, *, all_of_them: bool
) -> None:
    """Never returns: what fails here is the fork's alone."""
    try:
        os.setsid()
        _write_result(copy, selection, ignored, result_file, all_of_them=all_of_them)
    finally:
        os._exit(0)


def _write_result(
    copy: Path, selection: Selection, ignored: list[str], result_file: Path, *, all_of_them: bool
) -> None:
    """Write what became of the tests; nothing where not even that works, which counts as a crash."""
    import pytest

    os.chdir(copy)
    sys.path[:] = [str(copy / "src"), *(path for path in sys.path if not path.startswith(str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "lua_tools"]:
        del sys.modules[name]  # the copy has its own
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    failed = _FailedTests()
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += [] if all_of_them else ["-x"]
    options += [word for name in ignored for word in ("--deselect", name)]
    code = pytest.main([*selection.arguments, *options], plugins=[failed])
    import voucher_sessions

    assert Path(voucher_sessions.__file__).is_relative_to(copy), "not the copy is tested"
    result_file.write_text(json.dumps([int(code), failed.names]), "utf-8")


# --- Copies --------------------------------------------------------------------------------------------------------


def _copied(into: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy(source, into / name)
    return into


class _WorkingCopy:
    """Where one worker process keeps its copy."""

    folder: tempfile.TemporaryDirectory[str]
    copy: Path

    @classmethod
    def prepare(cls) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tool itself ends its workers
        cls.folder = tempfile.TemporaryDirectory(prefix="mutants-")
        cls.copy = _copied(Path(cls.folder.name).resolve())


def tried(mutant: Mutant, ignored: dict[Selection, list[str]]) -> tuple[Mutant, Outcome]:
    """What becomes of one mutant, in the worker's copy."""
    file = _WorkingCopy.copy / mutant.path
    original = file.read_text("utf-8")
    try:
        _written(file, mutant.mutation.applied(original))
        outcome = Outcome("survived")
        for selection in selections(mutant.path):
            outcome = _run(_WorkingCopy.copy, selection, ignored[selection], all_of_them=False)
            if outcome.verdict != "survived":
                break
        return mutant, outcome
    finally:
        _written(file, original)


def _written(file: Path, text: str) -> None:
    """Python would take a compiled file for the source's if size and second are the same."""
    file.write_text(text, "utf-8")
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def red_without_a_mutant(selection: Selection) -> tuple[Selection, list[str]]:
    return selection, _run(_WorkingCopy.copy, selection, (), all_of_them=True).failed


# --- The whole run -------------------------------------------------------------------------------------------------


def compiles(mutant: Mutant) -> bool:
    """Whether a script is one still, in all that include it."""
    if not mutant.path.endswith(".lua"):
        return True
    stem = Path(mutant.path).stem
    original = lua_sources.source
    changed = mutant.mutation.applied(original(stem))

    def source(name: str) -> str:
        return changed if name == stem else original(name)

    lua_sources.source = source
    try:
        for path in lua_sources.FOLDER.iterdir():
            if path.stem != "book" and stem in ("book", path.stem):
                lua_sources.executable_lines(lua_sources.text_of(lua_sources.assembled(path.stem)))
    except lupa.LuaError:
        return False
    finally:
        lua_sources.source = original
    return True


def chosen(files: list[str], sample: int | None) -> list[Mutant]:
    found = [mutant for path in files for mutant in mutants(ROOT, path) if compiles(mutant)]
    if sample is None or sample >= len(found):
        return found
    return [found[at * len(found) // sample] for at in range(sample)]


def run(to_try: list[Mutant], jobs: int) -> list[Mutant]:
    """The survivors. Reports each mutant as soon as its tests have ended."""
    _import_what_never_changes()
    found: list[tuple[Mutant, Outcome]] = []
    with multiprocessing.get_context("fork").Pool(jobs, _WorkingCopy.prepare) as pool:
        needed = list(dict.fromkeys(each for mutant in to_try for each in selections(mutant.path)))
        print(f"{len(to_try)} mutants; first the tests without any …", flush=True)
        ignored = dict(pool.imap_unordered(red_without_a_mutant, needed))
        for name in sorted({name for names in ignored.values() for name in names}):
            print(f"left out, since it is red anyway: {name}")
        begin = time.monotonic()
        for done, (mutant, outcome) in enumerate(pool.imap_unordered(partial(tried, ignored=ignored), to_try), 1):
            found.append((mutant, outcome))
            by = f" by {outcome.failed[0]}" if outcome.failed else ""
            seconds = time.monotonic() - begin
            print(f"[{done}/{len(to_try)}, {seconds:.0f} s] {outcome.verdict}{by}: {mutant}", flush=True)
    result_file = Counter((mutant.path, outcome.verdict) for mutant, outcome in found)
    print("\n" + "\n".join(f"{path}: {count} {verdict}" for (path, verdict), count in sorted(result_file.items())))
    return sorted(mutant for mutant, outcome in found if outcome.verdict == "survived")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=FILES, help="paths from the root of the project")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--sample", type=int, help="how many, evenly spread over all")
    parser.add_argument("--list", action="store_true", help="list them and run nothing")
    asked = parser.parse_args()
    to_try = chosen(asked.files, asked.sample)
    if asked.list:
        print("\n".join(map(str, to_try)))
        return
    survivors = run(to_try, asked.jobs)
    print(f"\n{len(survivors)} of {len(to_try)} survived")
    print("\n".join(map(str, survivors)))


if __name__ == "__main__":
    main()

"""Checks the scripts with luacheck: ``PYTHONPATH=tests python -m lua_tools.lint``.

luacheck sees each script as the server gets it, with only the globals that Redis, Valkey and fakeredis share, and read
only. Its findings are printed with the line of the file in ``lua/``. A block of book.lua declares more than each script
needs: what is unused there is a finding only if no script uses it.

luacheck is not on PyPI. Where it is missing the command prints how to install it, and succeeds, except in CI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lua_tools import sources
from lua_tools.sources import Place

MISSING: Final = "luacheck is not installed; on Debian and Ubuntu: apt-get install lua-check"


def luacheck(scripts: Iterable[str]) -> str:
    """What luacheck prints of the scripts, one finding a line."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name in scripts:
            files.append(f"{name}.lua")
            Path(folder, files[-1]).write_text(sources.text_of(sources.assembled(name)), "utf-8")
        options = ["--no-config", "--no-cache", "--formatter", "plain", "--codes"]
        options += ["--no-max-line-length"]  # blocks are indented where they are included
        options += ["--std", "none", "--read-globals", *sorted(sources.SANDBOX)]
        command = ["luacheck", *options, "--", *files]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode > 2:  # 1: warnings, 2: errors of syntax
        raise RuntimeError(f"luacheck failed: {done.stdout}{done.stderr}")
    return done.stdout


def findings(printed: str) -> list[str]:
    """The lines that luacheck has printed of all scripts as findings in ``lua/``, each once."""
    scripts = {name: [line.place for line in sources.assembled(name)] for name in sources.verbs()}
    scripts_with: dict[tuple[Place, str], set[str]] = defaultdict(set)
    for line in printed.splitlines():
        match = re.fullmatch(r"(\w+)\.lua:(\d+):\d+: (.*)", line)
        if not match:
            raise ValueError(f"not a finding: {line}")
        name, number, problem = match[1], int(match[2]), match[3]
        scripts_with[scripts[name][number - 1], problem].add(name)
    return [
        f"{place}: {problem}"
        for (place, problem), found_in in sorted(scripts_with.items())
        if not _is_unused(problem) or all(name in found_in for name, places in scripts.items() if place in places)
    ]


def _is_unused(problem: str) -> bool:
    """Whether luacheck's code is one of unused variables (2…) or unused values (3…)."""
    return problem.startswith(("(W2", "(W3"))


def main() -> int:
    if not shutil.which("luacheck"):
        print(MISSING, file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    found = findings(luacheck(sources.verbs()))
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

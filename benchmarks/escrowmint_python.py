"""A Python for escrowmint alone, which pins an old redis-py: a virtual environment in the user's cache folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = ("escrowmint>=0.5", "hiredis>=3")
ROOT = Path(__file__).parents[1]


def path() -> str:
    """The path of that Python. The first call installs it, which takes some seconds and needs PyPI."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voucher-sessions-benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"escrowmint-python{sys.version_info.major}.{sys.version_info.minor}"
    installed, python = folder / "installed", str(folder / "bin" / "python")
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes can come here at once
        if not installed.exists() or installed.read_text("utf-8").split() != list(REQUIREMENTS):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
            subprocess.run([*pip, *REQUIREMENTS], check=True, env=environment())
            installed.write_text("\n".join(REQUIREMENTS), "utf-8")
    return python


def environment() -> dict[str, str]:
    """This process' environment, with no path to its packages but that of this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}

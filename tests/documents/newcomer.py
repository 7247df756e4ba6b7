"""Follows the pages on FastAPI and Django literally, each in a virtual environment of its own, and says how long it took.

    PYTHONPATH=tests python -m documents.newcomer

Nothing is installed there but what the commands of the page install. The server of the vouchers is one of the tests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Final

from support.servers import running

from documents.examples import ROOT, blocks_of

URL: Final = "redis://localhost:6379/0"


class Newcomer:
    """Somebody with a new folder, a new virtual environment and one page."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.blocks = [[each.parsed for each in block] for block in blocks_of(page)]
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        for arguments in re.findall(r"python -m pip install ([^`\n]+)", page.read_text("utf-8")):
            self.python("-m", "pip", "install", "--quiet", *shlex.split(arguments), where=ROOT)

    def python(self, *arguments: str, where: Path | None = None, **environment: str) -> str:
        """What a command prints that succeeds."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self.folder / "venv" / "bin" / "python"), *arguments]
        done = subprocess.run(
            command, cwd=where or self.folder, env={**clean, **environment}, check=False, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}")
        return done.stdout


def follow_fastapi(newcomer: Newcomer) -> None:
    """Run each block, and compare what it prints."""
    for number, (block, *output) in enumerate(newcomer.blocks):
        (newcomer.folder / f"block_{number}.py").write_text(block, "utf-8")
        printed = newcomer.python(f"block_{number}.py")
        if printed != "".join(output):
            sys.exit(f"block {number} prints:\n{printed}")


def follow_django(newcomer: Newcomer) -> None:
    """Start a project, and use its settings, its urls.py, the management command and the tests of the page."""
    settings, urls, _forms, _health, tests = (block for (block,) in newcomer.blocks)
    newcomer.python("-m", "django", "startproject", "shop", ".")
    with running("valkey") as server:
        settings = settings.replace("INSTALLED_APPS = [", "INSTALLED_APPS += [").replace(URL, server.url)
        with (newcomer.folder / "shop" / "settings.py").open("a", encoding="utf-8") as file:
            file.write(settings)
        (newcomer.folder / "shop" / "urls.py").write_text(urls, "utf-8")
        (newcomer.folder / "test_shop.py").write_text(tests, "utf-8")
        newcomer.python("manage.py", "check")
        newcomer.python("manage.py", "voucher_sessions", "put", "GIFT-50", "--credits", "5000")
        newcomer.python("manage.py", "voucher_sessions", "show", "GIFT-50")
        newcomer.python("-m", "pytest", DJANGO_SETTINGS_MODULE="shop.settings")


def main() -> None:
    """Follow both pages."""
    for name, follow in (("fastapi", follow_fastapi), ("django", follow_django)):
        with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
            begun = time.monotonic()
            newcomer = Newcomer(ROOT / "docs" / f"{name}.md", Path(folder))
            installed = time.monotonic()
            follow(newcomer)
            print(
                f"docs/{name}.md: {installed - begun:.0f} s to install, {time.monotonic() - installed:.0f} s to follow"
            )


if __name__ == "__main__":
    main()

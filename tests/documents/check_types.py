"""Type-checks every Python example in the documents, as it stands, with mypy --strict and pyright.

    PYTHONPATH=tests python -m documents.check_types

Each example becomes a file of its own, named after its document, in which it keeps its line numbers. It can import the
package and what is in examples/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from documents.examples import ROOT, examples

SOURCES: Final = [str(ROOT / "src"), str(ROOT / "examples")]
PYRIGHT_CONFIGURATION: Final = {"include": ["."], "typeCheckingMode": "strict", "extraPaths": SOURCES}
CHECKERS: Final = (
    # It takes what it knows of the package from the cache of its run on the sources. Pyright finds missing modules.
    [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
        ".",
    ],
    [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", "."],
)


def write_examples(folder: Path) -> int:
    """How many examples were written."""
    blocks = [(path, block[0]) for path, block in examples()]
    for path, example in blocks:
        lines_before = "\n" * (example.line + example.parsed.line_offset)
        name = "_".join(path.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
        (folder / f"{name}_{example.line}.py").write_text(lines_before + example.parsed, "utf-8")
    return len(blocks)


def main() -> int:
    """0 if no checker found anything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{write_examples(folder)} examples", flush=True)
        (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT_CONFIGURATION), "utf-8")
        environment = os.environ | {"MYPYPATH": os.pathsep.join(SOURCES)}
        runs = [
            subprocess.Popen(checker, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for checker in CHECKERS
        ]
        for run in runs:
            print(run.communicate()[0].decode(), end="")
    return int(any(run.returncode for run in runs))


if __name__ == "__main__":
    sys.exit(main())

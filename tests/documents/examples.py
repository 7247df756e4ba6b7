"""The Python examples in the Markdown documents that users read, found by sybil."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final

from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]

_run: Final = PythonEvaluator()


def _run_and_keep_output(example: Example) -> None:
    """Run a block in a namespace of its own, since a reader copies one block."""
    namespace = example.document.namespace
    namespace.clear()
    output = StringIO()
    with redirect_stdout(output):
        _run(example)
    namespace["printed"] = output.getvalue()


def _compare_output(example: Example) -> str | None:
    """What is wrong with a block ``output``, which shows what the Python block before it prints."""
    printed = example.document.namespace["printed"]
    return None if printed == example.parsed else f"{example.path}:{example.line}: the example prints:\n{printed}"


_sybil: Final = Sybil(
    parsers=[CodeBlockParser("python", _run_and_keep_output), CodeBlockParser("output", _compare_output)],
    patterns=["*.md"],
)


def examples() -> Iterator[tuple[Path, list[Example]]]:
    """Each Python block, followed by the block with its output if it has one."""
    for path in DOCUMENTS:
        document: Document = _sybil.parse(path)
        block: list[Example] = []
        for example in document.examples():
            if example.region.evaluator is _run_and_keep_output and block:
                yield path, block
                block = []
            block.append(example)
        if block:
            yield path, block

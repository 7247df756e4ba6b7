"""Every Python example in the documents runs, and prints what the document shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sybil import Example
from sybil.example import SybilFailure

from documents.examples import DOCUMENTS, ROOT, blocks_of, examples

pytestmark = pytest.mark.unmeasured

FENCE = re.compile(r"^ *```(.*)\n(?:.*\n)*?^ *```$", re.MULTILINE)
EXAMPLES = [pytest.param(block, id=f"{path.relative_to(ROOT)}:{block[0].line}") for path, block in examples()]


def evaluate(block: list[Example]) -> None:
    for example in block:
        example.evaluate()


@pytest.mark.parametrize("block", EXAMPLES)
def test_an_example_runs(block: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate(block)


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        ("```python\nassert 1 == 2\n```\n", AssertionError, "^$"),
        ('```python\nprint("that")\n```\n\n```output\nthis\n```\n', SybilFailure, "the example prints:\nthat\n"),
    ],
    ids=["it fails", "it prints something else"],
)
def test_a_broken_example_is_noticed(text: str, error: type[Exception], problem: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    [block] = blocks_of(page)
    with pytest.raises(error, match=problem):
        evaluate(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_no_python_hides_in_another_kind_of_block(document: Path) -> None:
    kinds = set(FENCE.findall(document.read_text("utf-8")))
    assert kinds & {"", "py", "py3", "python3", "pycon", "python-console", "Python"} == set()

"""Every Python example in the documents runs, and prints what the document shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil import Example

from documents.examples import ROOT, examples

EXAMPLES = [pytest.param(block, id=f"{path.relative_to(ROOT)}:{block[0].line}") for path, block in examples()]


@pytest.mark.parametrize("block", EXAMPLES)
def test_an_example_runs(block: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in block:
        example.evaluate()

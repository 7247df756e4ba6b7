"""The pictures in README.md show what the command line prints today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documents import pictures
from documents.examples import ROOT


def texts(svg: Path) -> list[str]:
    """The texts of a picture; the figures can differ, since some are times."""
    return re.findall(r">([^<>]*)<", re.sub(r"\d", "0", svg.read_text("utf-8")))


@pytest.mark.usefixtures("_interruptible")
def test_the_pictures_are_up_to_date(tmp_path: Path) -> None:
    """If not, make them again: PYTHONPATH=tests python -m documents.pictures."""
    pictures.make(tmp_path)
    for name in pictures.COMMANDS:
        assert texts(tmp_path / f"{name}.svg") == texts(ROOT / "docs" / f"{name}.svg")
        assert f"(docs/{name}.svg)" in (ROOT / "README.md").read_text("utf-8")

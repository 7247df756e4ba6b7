"""Links, paths, headings and names in the documents lead to something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documents.examples import DOCUMENTS, ROOT

LINK = re.compile(r"\]\(([^()\s]+)\)")
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
# `lua/`, `src/voucher_sessions/engine.py`, `pyproject.toml`: what is written as code and looks like a path
PATH = re.compile(r"`((?:\.?\w+/)+[\w.]*|\w+\.(?:py|lua|md|toml|ini))`")
# [lua/book.lua](lua/book.lua) (`block: session`, `call id`): what a reader looks for in that file
WHAT_TO_LOOK_FOR = re.compile(r"\]\((\S+)\)\s\(((?:`[^`]+`(?:,\s)?)+)\)")


def anchors(document: Path) -> set[str]:
    """The headings of a document, as links name them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(document.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_paths_exist(name: str) -> None:
    missing = [path for path in PATH.findall((ROOT / name).read_text("utf-8")) if not (ROOT / path).exists()]
    assert missing == []


def test_what_contributors_look_for_is_in_the_file_named() -> None:
    found = WHAT_TO_LOOK_FOR.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(found) == 9  # three questions, three files each
    for path, names in found:
        text = (ROOT / path).read_text("utf-8")
        assert [name for name in re.findall(r"`([^`]+)`", names) if name not in text] == [], path


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_tests_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"`(test_\w+)`", document.read_text("utf-8")):
        assert list((ROOT / "tests").glob(f"*/{name}.py")), name

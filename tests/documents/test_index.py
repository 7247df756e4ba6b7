"""docs/index.md has every page, and the reference every public name."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

import voucher_sessions
from documents.examples import ROOT
from voucher_sessions import bulk
from voucher_sessions.contrib import django, fastapi, logging, opentelemetry, testing

INDEX = (ROOT / "docs" / "index.md").read_text("utf-8")
REFERENCE = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.rst"))
DESCRIBED = set(re.findall(r"^\.\. (?:auto\w+|py:type):: (?:[\w.]+\.)?(\w+)$", REFERENCE, re.MULTILINE))
# Names of annotations: the docstrings of the functions say what can be passed.
ALIASES = {"RedemptionLike", "VoucherRow"}


def test_each_page_is_in_a_table() -> None:
    """The tables are the navigation of the site."""
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    listed = re.findall(r"^\| \[[^]]+\]\(([\w-]+\.md)\) \| .+ \|$", INDEX, re.MULTILINE)
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize(
    "module",
    [voucher_sessions, bulk, logging, opentelemetry, fastapi, django, testing],
    ids=lambda module: module.__name__,
)
def test_each_public_name_is_in_the_reference(module: ModuleType) -> None:
    assert set(module.__all__) - DESCRIBED <= ALIASES

"""The README is short, and has what a new reader needs first."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 140


def test_its_commands_are_the_ones_for_a_bare_machine() -> None:
    commands = README.partition("```console\n")[2].partition("```")[0].splitlines()
    assert commands == [
        "python -m pip install '.[embedded]' && python -m voucher_sessions demo",
        "python -m pip install tox && tox",
    ]


def test_it_has_one_example_and_shows_what_it_prints() -> None:
    assert README.count("```python\n") == README.count("```output\n") == 1


def test_it_leads_to_the_sections_of_the_documentation() -> None:
    sections = re.findall(r"\(docs/index\.md#([\w-]+)\)", README)
    assert sections == ["how-to-guides", "reference", "explanation"]

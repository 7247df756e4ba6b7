"""The check of the built site finds what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from documents.check_site import main, problems

GOOD = """<h1 id="top">Page</h1> <a href="#top">here</a> <a href="other.html#a%20b">there</a> <a href="mailto:a@b">mail</a>
<a href="https://example.org/">elsewhere</a> <img src="picture.svg">"""


def write(site: Path, page: str) -> None:
    (site / "page.html").write_text(page, "utf-8")
    (site / "other.html").write_text('<p id="a b"></p>', "utf-8")
    (site / "picture.svg").touch()


def test_a_good_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, GOOD)
    assert main(str(tmp_path)) == 0
    assert capsys.readouterr().out == "all links of the site lead somewhere\n"


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ('<a href="missing.html">', "missing.html leads to no file"),
        ('<a href="other.html#c">', "other.html#c leads to no place in the page"),
        ('<a href="#c">', "#c leads to no place in the page"),
        ('<img src="missing.svg">', "missing.svg leads to no file"),
        ('<script src="https://example.org/a.js">', "loads https://example.org/a.js"),
        ('<link href="//example.org/a.css">', "loads //example.org/a.css"),
    ],
)
def test_a_site_with_a_problem(part: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, GOOD + part)
    assert [found.rpartition(".html: ")[2] for found in problems(tmp_path)] == [problem]
    assert main(str(tmp_path)) == 1
    assert problem in capsys.readouterr().out


def test_a_site_without_pages(tmp_path: Path) -> None:
    assert list(problems(tmp_path)) == [f"{tmp_path} has no pages"]

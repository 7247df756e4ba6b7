"""Checks the built site without a network: every link leads somewhere, and nothing is loaded from elsewhere.

PYTHONPATH=tests python -m documents.check_site build/site
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, what it loads, and the places to which links can lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.places |= {found[name] for name in ("id", "name") if name in found}
        links = [found[name] for name in ("href", "src") if name in found]
        (self.links if tag == "a" else self.loaded).extend(links)


def problems(site: Path) -> Iterator[str]:
    """What is wrong with the site."""
    pages = {path: Page(path) for path in site.resolve().rglob("*.html")}
    if not pages:
        yield f"{site} has no pages"
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            url = urlsplit(link)
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if url.scheme or url.netloc:
                if link in page.loaded:
                    yield f"{path}: loads {link}"
            elif not target.is_file():
                yield f"{path}: {link} leads to no file"
            elif url.fragment and unquote(url.fragment) not in pages[target].places:
                yield f"{path}: {link} leads to no place in the page"


def main(site: str) -> int:
    """0 if nothing is wrong."""
    found = list(problems(Path(site)))
    print("\n".join(found) or "all links of the site lead somewhere")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

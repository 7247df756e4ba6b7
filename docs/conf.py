"""The configuration of Sphinx: ``tox -e docs`` builds a site of docs/ and of the other documents of this repository.

The source directory is the root of the repository. So relative links lead to the same place in the site and where the
Markdown is read as it is. A link to a file that is no page, such as a module, is a download of that file.
"""

from __future__ import annotations

import re

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import voucher_sessions

project = "voucher_sessions"
release = voucher_sessions.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "benchmarks/*.md", "examples/*/README.md"]
exclude_patterns = ["README.md", ".*", "build", "dist", "lua", "src", "tests"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Voucher sessions"
html_copy_source = False
html_show_copyright = False
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_docs.html"}  # the root of the site leads to docs/index.html

napoleon_use_ivar = True  # the fields of a model are one list
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True
nitpick_ignore_regex = [
    # Names of other projects, which only the network could resolve.
    (r"py:(class|exc)", r"(?!voucher_sessions\.)\w+\..+|timedelta|ImproperlyConfigured"),
    # Names of annotations that are not public: the docstrings beside them say what can be passed.
    (r"py:class", r"(.+\.)?(AsyncLoader|Loader|OnCall|RedeemableFields|StandardLogger|_DictOfAnything)"),
]


def add_toctrees(_app: Sphinx, docname: str, content: list[str]) -> None:
    """Make the tables of the start page the navigation: each section gets a hidden toctree of the pages it links to."""
    if docname == root_doc:
        sections = re.split(r"^(?=## )", content[0], flags=re.MULTILINE)
        content[0] = "\n".join(map(with_toctree, sections))


def with_toctree(section: str) -> str:
    """A section, followed by the toctree of the pages to which its table links."""
    pages = re.findall(r"^\| \[.+?\]\((.+?)\.(?:md|rst)\)", section, re.MULTILINE)
    caption = section.partition("\n")[0].removeprefix("## ")
    toctree = ["```{toctree}", ":hidden:", f":caption: {caption}", *pages, "```"]
    return "\n".join([section, *toctree]) if pages else section


def hide_constructor(*arguments: object) -> tuple[str, None] | None:
    """Results have no constructor that users call; their fields follow."""
    return ("", None) if "(**data)" in arguments else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("output", TextLexer)  # the blocks that show what an example prints
    app.connect("source-read", add_toctrees)
    app.connect("autodoc-process-signature", hide_constructor)

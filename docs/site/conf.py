"""The pages of docs/, the README and its neighbours as a site: `make docs` writes it to build/site.

The sources are the Markdown files as a code host shows them, and the lists in the README are the navigation. A page
that is in no list, and a link or anchor that leads nowhere, is an error.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

LIST = re.compile(r"^- \*\*(.+):\*\*((?:.+\n)(?:  .+\n)*)", re.MULTILINE)

project = "Llama Smart Proxy"
copyright = "the Llama Smart Proxy authors"
html_title = project
root_doc = "README"
include_patterns = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md", "tests/faults/README.md"]
exclude_patterns = [".*", "build"]
html_extra_path = ["index.html"]
html_static_path = ["wide.css"]
html_css_files = ["wide.css"]
html_theme = "furo"
html_copy_source = html_show_sphinx = False
templates_path = []

extensions = ["myst_parser"]
myst_heading_anchors = 6  # as a code host makes them
highlight_language = "text"
# Examples leave parts out with "...", which is no JSON.
suppress_warnings = ["misc.highlighting_failure"]


def append_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Adds the README's lists of pages to it as the site's navigation, which a code host would show as code."""
    if page == root_doc:
        lists = {caption: re.findall(r"\]\((\S+)\.md\)", links) for caption, links in LIST.findall(source[0])}
        source[0] += "".join(
            "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])
            for caption, pages in lists.items()
        )


def setup(app: Sphinx) -> None:
    app.connect("source-read", append_navigation)

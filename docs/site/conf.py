"""The pages of docs/, the README and its neighbours as a site: `make docs` writes it to build/site.

The sources are the Markdown files as a code host shows them; only this file says in which order they come. A page that
is in no list, and a link or anchor that leads nowhere, is an error.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

SECTIONS = {
    "Getting started": ["docs/quick-start", "docs/systemd", "docs/container", "docs/configuration", "docs/keys"],
    "Using it": ["docs/models", "docs/clients", "docs/ollama", "docs/agents", "docs/api", "docs/errors"],
    "How it decides": ["docs/estimates", "docs/scheduling", "docs/gpus", "docs/kept-cache"],
    "Running it": ["docs/doctor", "docs/troubleshooting", "docs/reload", "docs/upgrading"],
    "The project": ["ARCHITECTURE", "CONTRIBUTING", "tests/faults/README"],
}

project = "Llama Smart Proxy"
copyright = "the Llama Smart Proxy authors"
html_title = project
root_doc = "README"
include_patterns = ["README.md", "docs/*.md", *(f"{page}.md" for page in SECTIONS["The project"])]
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
    """Adds the lists of pages to the README, in which a code host would show them as code."""
    if page == root_doc:
        source[0] += "".join(
            "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])
            for caption, pages in SECTIONS.items()
        )


def setup(app: Sphinx) -> None:
    assert Path(app.srcdir, "README.md").is_file(), "the source is the root of the repository"
    app.connect("source-read", append_navigation)

"""The documents tell the truth: what can be checked against the code is."""

from __future__ import annotations

import re
from pathlib import Path

from app import errors
from app.settings.page import configuration_page

ROOT = Path(__file__).resolve().parent.parent


def leaves(kind: type = errors.ProxyError) -> list[type[errors.ProxyError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in leaves(sub))]


def test_every_error_has_its_row():
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = {(int(status), code) for status, code in re.findall(r"^\| (\d+) \| `(\w+)`", page, re.MULTILINE)}
    unread = {errors.ClientLeft}  # nobody is there to read it
    assert rows == {(leaf.status, leaf.code) for leaf in leaves() if leaf not in unread}


def test_every_setting_is_described_as_it_is():
    """Made by `python -m app.settings.page > docs/configuration.md`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_page()


def test_the_readme_names_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w[\w-]*)", (ROOT / "README.md").read_text())):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()

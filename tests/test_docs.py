"""The documents tell the truth: what can be checked against the code is."""

from __future__ import annotations

import re

from app import errors
from app.settings.page import configuration_page
from app.settings.sections.model_defaults import ModelDefaults
from app.settings.sections.scheduling import SchedulingSettings
from app.use_cases.scheduling.fairness import EVICTION_COST_FACTOR, MIN_SERVICE_FRACTION, STARVATION_FRACTION
from tests.helpers.documents import ROOT, code_without_a_language, commands, pages


def leaves(kind: type = errors.ProxyError) -> list[type[errors.ProxyError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in leaves(sub))]


def test_every_error_has_its_row():
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = {(int(status), code) for status, code in re.findall(r"^\| (\d+) \| `(\w+)`", page, re.MULTILINE)}
    unread = {errors.ClientDisconnected}  # nobody is there to read it
    assert rows == {(leaf.status, leaf.code) for leaf in leaves() if leaf not in unread}


def test_every_setting_is_described_as_it_is():
    """Made by `python -m app.settings.page > docs/configuration.md`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_page()


def test_the_readme_names_every_page_and_links_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = {page: re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()) for page in pages}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(links[ROOT / "README.md"])
    assert [(page.name, link) for page in pages for link in links[page] if not (page.parent / link).exists()] == []


def test_the_numbers_of_the_scheduling_page_are_the_defaults():
    page, of = (ROOT / "docs" / "scheduling.md").read_text(), SchedulingSettings()
    for key in ("max_wait_seconds", "min_residency_seconds", "ttl_seconds"):
        assert f"`{key}` ({getattr(of, key):g})" in page
    assert f"`parallel` slots ({ModelDefaults().parallel})" in page
    assert f"{of.max_waiting_per_model} wait for one model, {of.max_waiting} in all" in page
    assert f"`stall_timeout_seconds` ({of.stall_timeout_seconds:g})" in page
    assert f"`hang_timeout_seconds`\n({of.hang_timeout_seconds:g}) is killed" in page
    for share in (STARVATION_FRACTION, MIN_SERVICE_FRACTION):
        assert f"{100 * share:g} % of `max_wait_seconds` ({share * of.max_wait_seconds:g} s)" in page
    assert EVICTION_COST_FACTOR == 20 and "twenty times as long" in page


def test_the_readme_names_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w[\w-]*)", (ROOT / "README.md").read_text())):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_recipe_of_a_client_names_its_test_and_every_test_of_a_client_is_named():
    page = (ROOT / "docs" / "clients.md").read_text()
    recipes = page.split("\n## ", 2)[2]  # coding agents have one list of tests
    for recipe in re.split(r"\n### ", recipes)[1:]:
        assert re.search(r"^Tested", recipe, re.MULTILINE), recipe.splitlines()[0]
    programs = (ROOT / "tests" / "extra" / "clients").glob("*/*.[pm][yj]*")
    startups = (ROOT / "tests" / "service" / "startups").glob("*.json")
    assert [path.name for path in (*programs, *startups) if f"/{path.name})" not in page] == []


def test_every_block_of_code_is_fenced_and_names_its_language():
    """`make test-docs` runs `sh`, `console` and `python`; tests/helpers/documents.py says how to mark others."""
    assert [place for page in pages() for place in code_without_a_language(page)] == []


def test_a_mark_of_a_command_has_its_reason():
    marks = re.compile(r"<!--.*?-->", re.DOTALL)
    found = [mark for page in pages() for mark in marks.findall(page.read_text())]
    assert [mark for mark in found if not re.fullmatch(r"<!-- (not run|fails): \S.* -->", mark)] == []
    assert all(block.script.strip() for block in commands()), "a console block's commands begin with '$ '"

"""The table of faults names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| (\d+) \|([^|]+)\|([^|]+)\|([^|]+)\|([^|]*)\|$", re.MULTILINE)


def rows() -> dict[int, list[str]]:
    """The tests of each fault, as the table names them."""
    page = (TESTS / "faults" / "README.md").read_text()
    return {int(number): re.findall(r"`([\w/]+\.py::\w+)`", tests) for number, _, _, tests, _ in ROW.findall(page)}


@cache
def names_in(module: str) -> set[str]:
    path = TESTS / module
    body = ast.parse(path.read_text()).body if path.exists() else []
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_fault_has_its_tests():
    assert list(rows()) == list(range(1, 62))
    assert [number for number, tests in rows().items() if not tests] == []


def test_every_test_in_the_table_exists():
    named = {name for tests in rows().values() for name in tests}
    missing = sorted(name for name in named if name.partition("::")[2] not in names_in(name.partition("::")[0]))
    assert not missing, f"renamed or removed: correct tests/faults/README.md: {missing}"

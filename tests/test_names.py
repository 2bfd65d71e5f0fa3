"""Names: the words that were retired stay away, and a public name means one thing."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("app", "workers") for path in (ROOT / folder).rglob("*.py"))

# As identifiers, or as a part of one between underscores. What to say in their place: CONTRIBUTING.md, Style.
RETIRED = re.compile(
    r"(^|_)(asked|asking|wish|wishes|told|doors|brake|brakes|siblings|stranger|strangers|again|turns|beside)(_|$)"
    r"|^(Asked|Asking|Wish|Wishes|Said|Doors|Places|Beside|Brake|Incoming)$"
    r"|death_guard|no_place|by_hand|make_room|visible_doors"
)
# Each is the command of its own program.
SHARED_NAMES = {"main"}


def identifiers(path: Path) -> set[str]:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def public_names(path: Path) -> set[str]:
    kinds = (ast.ClassDef, ast.FunctionDef)
    body = ast.parse(path.read_text()).body
    return {node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")}


def test_retired_words_are_not_identifiers():
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in {path.stem, *identifiers(path)}
        if RETIRED.search(name)
    }
    assert not found


def test_a_public_name_means_one_thing():
    homes: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for name in public_names(path) - SHARED_NAMES:
            homes[name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}

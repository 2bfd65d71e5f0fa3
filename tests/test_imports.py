"""The arrows of the house, read from the source: imports point down, and the pure rings pull in nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("app", "workers")
PURE_STDLIB = {
    "__future__",
    "base64",
    "binascii",
    "bisect",
    "array",
    "collections",
    "dataclasses",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
    "itertools",
    "math",
    "re",
    "struct",
    "typing",
}

# A file under the first may import what is named; of the standard library anything, unless it says otherwise.
ALLOWED = {
    "app/entities": {"app.entities"},
    "app/use_cases": {"app.entities", "app.use_cases", "app.errors"},
    "app/errors.py": {"app.entities"},
    "app/services.py": {"app.entities", "flask"},
    "app/routes": {"app.entities", "app.use_cases", "app.errors", "app.services", "app.routes", "flask", "werkzeug"},
    "app/web.py": {"app.routes", "app.errors", "app.services", "flask", "werkzeug"},
    "app/settings": {
        "app.entities",
        "app.settings",
        "app.use_cases.access",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "yaml",
    },
}
PURE = ("app/entities", "app/use_cases")
WORKERS_NEVER = ("flask", "app.routes", "app.cli")
ROOTS = {"workers/serve.py", "workers/runtime.py", "app/cli.py"}  # these put the parts together


def sources() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for name in OURS for p in (ROOT / name).rglob("*.py"))


def imports(source: str) -> Iterator[str]:
    """Modules a file imports when it runs, `if TYPE_CHECKING:` blocks aside."""
    tree = ast.parse((ROOT / source).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, allowed: set[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


@pytest.mark.parametrize("source", sources())
def test_arrows_point_down(source: str):
    for place, allowed in ALLOWED.items():
        if source != place and not source.startswith(f"{place}/"):
            continue
        stdlib = PURE_STDLIB if place in PURE else set(sys.stdlib_module_names)
        wrong = [name for name in imports(source) if not within(name, allowed | stdlib)]
        assert not wrong, f"{source} may not import {wrong}"
    if source.startswith("workers/") and source not in ROOTS:
        wrong = [name for name in imports(source) if within(name, set(WORKERS_NEVER))]
        assert not wrong, f"{source} may not import {wrong}"


def test_only_files_that_say_so_lean_on_gunicorn():
    users = {s for s in sources() if any(within(name, {"gunicorn"}) for name in imports(s))} - {"workers/serve.py"}
    assert users and all(s.startswith("workers/gunicorn_") for s in users)


def test_the_pure_rings_pull_in_nothing_heavy():
    code = "import app.use_cases.schedule, app.use_cases.launch, app.use_cases.report, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"flask", "pydantic", "numpy", "gunicorn", "requests", "threading", "socket", "subprocess", "workers"}
    assert not heavy & set(run.stdout.split())

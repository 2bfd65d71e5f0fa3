"""The layers and packages, read from the source: imports point one way, and the pure layers import nothing heavy."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("app", "workers")
PURE_STDLIB = {
    "__future__",
    "base64",
    "binascii",
    "shlex",
    "datetime",
    "bisect",
    "array",
    "collections",
    "dataclasses",
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "re",
    "struct",
    "typing",
    "unicodedata",
}
PURE = ("app/entities", "app/use_cases")

# Each package, and the packages of ours that it imports: exactly these. A file that stands in no package of its own
# is named. `PURE` is what any layer may use of the decisions.
USE_CASES = {
    "app/use_cases/credentials.py": {"app/entities"},
    "app/use_cases/requirements.py": {"app/entities"},
    "app/use_cases/token_counts.py": {"app/entities"},
    "app/use_cases/body_checks": {"app/entities"},
    "app/use_cases/ollama": {"app/entities"},
    "app/use_cases/peers": {"app/entities"},
    "app/use_cases/downloads": {"app/entities", "app/use_cases/reporting"},
    "app/use_cases/model_shape": {"app/entities"},
    "app/use_cases/estimate": {"app/entities", "app/use_cases/model_shape"},
    "app/use_cases/launch": {"app/entities", "app/use_cases/estimate"},
    "app/use_cases/placement": {"app/entities", "app/use_cases/estimate", "app/use_cases/model_shape"},
    "app/use_cases/scheduling": {"app/entities", "app/use_cases/placement"},
    "app/use_cases/diagnosis": {"app/entities", "app/use_cases/placement", "app/use_cases/reporting"},
    "app/use_cases/engines": {"app/entities", "app/use_cases/reporting"},
    "app/use_cases/installation": set(),
    "app/use_cases/migration": {"app/entities", "app/use_cases/estimate"},
    "app/use_cases/reporting": {
        "app/entities",
        "app/use_cases/launch",
        "app/use_cases/placement",
        "app/use_cases/scheduling",
    },
}
APP = {
    "app/entities": set(),
    "app/errors": {"app/entities"},
    "app/settings": {
        "app/entities",
        "app/use_cases/body_checks",
        "app/use_cases/credentials.py",
        "app/use_cases/launch",
    },
    "app/terminal": {"app/use_cases/reporting"},
    "app/page": {"app/use_cases/reporting"},
    "app/request_body": {
        "app/entities",
        "app/errors",
        "app/use_cases/body_checks",
        "app/use_cases/launch",
        "app/use_cases/ollama",
    },
    "app/ports": {
        "app/entities",
        "app/errors",
        "app/request_body",
        "app/use_cases/downloads",
        "app/use_cases/peers",
        "app/use_cases/reporting",
        "app/use_cases/scheduling",
    },
    "app/services.py": {"app/entities", "app/ports"},
    "app/routes": {
        "app/entities",
        "app/errors",
        "app/page",
        "app/ports",
        "app/request_body",
        "app/services.py",
        "app/use_cases/credentials.py",
        "app/use_cases/requirements.py",
        "app/use_cases/downloads",
        "app/use_cases/ollama",
        "app/use_cases/peers",
        "app/use_cases/reporting",
        "app/use_cases/scheduling",
        "app/use_cases/token_counts.py",
    },
    "app/web.py": {"app/routes", "app/services.py", "app/use_cases/ollama"},
}
# Of `app`, these may also import entities, use_cases, errors and ports; what else they import is named.
WORKERS = {
    "workers/telemetry": set(),
    "workers/logs": {"workers/telemetry"},
    "workers/gguf": set(),
    "workers/clients": set(),
    "workers/gpu": set(),
    "workers/catalog": {"workers/gguf"},
    "workers/downloads": {"workers/gguf"},
    "workers/measurement": {"workers/gpu"},
    "workers/model_files": set(),
    "workers/server": {"workers/catalog", "workers/logs", "workers/measurement"},
    "workers/engine": {"workers/measurement", "workers/server"},
    "workers/engine_builds": {"workers/engine", "workers/gpu", "workers/server"},
    "workers/engine_metrics": set(),
    "workers/installation": set(),
    "workers/diagnosis": {"workers/catalog", "workers/engine", "workers/gpu"},
    "workers/pool": {"workers/catalog", "workers/measurement", "workers/telemetry"},
    "workers/relay": set(),
    "workers/peers": {"workers/relay"},
    "workers/request_bodies": {"app/request_body"},
    "workers/gunicorn_worker": {
        "app/services.py",
        "workers/telemetry",
    },
}
COMPOSITION_ROOT = {
    *(
        "workers/agents.py",
        "workers/folders.py",
        "workers/builders.py",
        "workers/build_catalog.py",
        "workers/build_downloads.py",
        "workers/build_gauges.py",
        "workers/build_limits.py",
        "workers/build_peers.py",
        "workers/check_pinned.py",
        "workers/past_loads.py",
        "workers/startup_check.py",
    ),
    *(
        "workers/runtime.py",
        "workers/reload.py",
        "workers/state_files.py",
        "workers/serve.py",
        "workers/state_lock.py",
        "workers/gpu_watch.py",
        "workers/diagnose.py",
        "workers/diagnose_gpus.py",
        "workers/diagnose_model_engines.py",
        "workers/upgrade_notices.py",
        "app/commands",
    ),
}
PACKAGES = USE_CASES | APP | WORKERS

THIRD_PARTY = {
    "app/entities": set(),
    "app/use_cases": set(),
    "app/errors": set(),
    "app/ports": set(),
    "app/request_body": {"werkzeug", "backports", "compression"},
    "app/services.py": {"flask"},
    "app/routes": {"flask", "werkzeug"},
    "app/web.py": {"flask", "werkzeug"},
    "app/terminal": {"rich"},
    "app/settings": {"pydantic", "pydantic_core", "pydantic_settings", "yaml"},
}


@functools.cache
def sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for name in OURS for path in (ROOT / name).rglob("*.py"))


def code_sources() -> list[str]:
    return [source for source in sources() if not source.endswith("__init__.py")]


@functools.cache
def imports(source: str) -> tuple[str, ...]:
    """Modules a file imports when it runs; not those under `if TYPE_CHECKING:`."""
    return tuple(runtime_imports(ast.parse((ROOT / source).read_text()), source))


def runtime_imports(node: ast.AST, source: str) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for each in node.orelse:
            yield from runtime_imports(each, source)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, f"{source}: relative import"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):  # most nodes, and none of them imports
            yield from runtime_imports(child, source)


@functools.cache
def package_of(source: str) -> str:
    """The package, or file outside one, that a source belongs to; its folder if no table names it."""
    named = PACKAGES.keys() | COMPOSITION_ROOT
    return next((place for place in named if source == place or source.startswith(f"{place}/")), source)


@functools.cache
def package_of_module(name: str) -> str:
    """Of a dotted name, which may end in a function or class."""
    return package_of(next(file for file in candidate_files(name) if (ROOT / file).exists()))


def candidate_files(name: str) -> Iterator[str]:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length]) + ".py"
        yield "/".join(parts[:length]) + "/__init__.py"


def imported_packages(sources: list[str]) -> set[str]:
    ours = {name for source in sources for name in imports(source) if name.split(".")[0] in OURS}
    return {package_of_module(name) for name in ours}


def members(place: str) -> list[str]:
    return [source for source in sources() if package_of(source) == place]


def shared_by_all(place: str) -> set[str]:
    """What a package may import without being named for it."""
    return PACKAGES.keys() & {"app/entities", "app/errors", "app/ports", *USE_CASES} if place in WORKERS else set()


def test_every_file_stands_in_a_package_of_the_table():
    assert {package_of(source) for source in code_sources()} == PACKAGES.keys() | COMPOSITION_ROOT


def test_a_package_imports_exactly_what_the_table_says():
    found = {place: imported_packages(members(place)) - {place} - shared_by_all(place) for place in PACKAGES}
    assert found == PACKAGES


def test_the_packages_form_no_circle():
    order = TopologicalSorter({place: imported_packages(members(place)) - {place} for place in PACKAGES})
    assert [*order.static_order()]


def above(place: str) -> set[str]:
    return ({"app/commands"} if place in COMPOSITION_ROOT else COMPOSITION_ROOT) - {place}


def test_only_the_composition_root_imports_the_top():
    found = {source: imported_packages([source]) & above(package_of(source)) for source in sources()}
    assert not {source: wrong for source, wrong in found.items() if wrong}


@pytest.mark.parametrize("place", sorted(THIRD_PARTY))
def test_a_layer_imports_only_its_libraries(place: str):
    stdlib = PURE_STDLIB if place in PURE else set(sys.stdlib_module_names)
    for source in sources():
        if source != place and not source.startswith(f"{place}/"):
            continue
        roots = {name.split(".")[0] for name in imports(source)}
        wrong = roots - stdlib - {"app"} - THIRD_PARTY[place]
        assert not wrong, f"{source} may not import {wrong}"


@pytest.mark.parametrize(
    ("library", "place"),
    [("gunicorn", "workers/gunicorn_worker/"), ("pynvml", "workers/gpu/nvml.py"), ("flask", "app/")],
)
def test_a_library_is_imported_in_one_place(library: str, place: str):
    users = {source for source in sources() if any(name.split(".")[0] == library for name in imports(source))}
    users -= {"workers/serve.py"}
    assert users and all(source.startswith(place) for source in users)


def test_type_checking_blocks_are_skipped_with_all_they_nest():
    text = "if TYPE_CHECKING:\n    if x:\n        import a\n    import b\nelse:\n    import c\nimport d"
    assert [*runtime_imports(ast.parse(text), "x.py")] == ["c", "d"]


@pytest.mark.integration
def test_the_pure_layers_import_nothing_heavy():
    pure = ("scheduling.schedule", "launch.command_line", "reporting.report")
    code = f"import {', '.join(f'app.use_cases.{each}' for each in pure)}, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"flask", "pydantic", "numpy", "gunicorn", "requests", "threading", "socket", "subprocess", "workers"}
    assert not heavy & set(run.stdout.split())


def test_a_package_says_what_lives_there():
    files = [source for source in sources() if source.endswith("__init__.py")]
    said = {source: ast.get_docstring(ast.parse((ROOT / source).read_text())) or "" for source in files}
    assert not {source: text for source, text in said.items() if not 80 < len(text) < 500}

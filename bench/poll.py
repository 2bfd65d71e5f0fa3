"""Measures the cost of GPU polling and scraping, each once a second, as a share of one core.

    python -m bench.poll [--gpus N] [--seconds S] [--json FILE]

The GPUs are those of the tests' fake NVML, each with one process; a real driver's response time is not measured.
`share` is the process's CPU time over wall time, with the poller running and /metrics rendered every second;
`share_of_scrapes` is the same without GPUs, so the difference is the cost of the GPUs. `reading_seconds` and
`scrape_seconds` have minimum, median and maximum.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.entities.gpu import GpuSnapshot, GpuState
from app.use_cases.scheduling.pool_state import PoolState
from bench.record import record, summary
from tests.helpers.stand_in_nvml import Card, StandIn, library
from workers.gpu.expected_gpus import GpuHistory
from workers.gpu.nvml import Nvml
from workers.gpu.poller import GpuPoller
from workers.telemetry.gauges import Gauges
from workers.telemetry.store import StateStore

RUNS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=8, help="number of fake GPUs (default: 8)")
    parser.add_argument("--seconds", type=float, default=60, help="duration of each share measurement (default: 60)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder), options.gpus, options.seconds)
    for name, figure in figures.items():
        print(f"{name:22} {figure}")
    if options.json:
        record(options.json, figures, gpus=options.gpus, seconds=options.seconds)


def _measure(folder: Path, gpus: int, seconds: float) -> dict[str, Any]:
    hardware = StandIn(folder)
    hardware.show(*(Card(f"GPU-{n}", processes={os.getpid(): 500}) for n in range(gpus)))
    os.environ["STAND_IN_NVML"] = str(hardware.path)
    ctypes.CDLL(str(library()))
    nvml = Nvml()
    store = StateStore(PoolState(gpus=nvml.read_gpus()))
    assert len(store.gpus.gpus) == gpus, store.gpus
    gauges = Gauges(store, "bench")
    return {
        "reading_seconds": summary([_timed(nvml.read_gpus) for _ in range(RUNS)]),
        "scrape_seconds": summary([_timed(lambda: gauges.render("")) for _ in range(RUNS)]),
        "share_of_scrapes": _share(folder, _no_gpus, seconds),
        "share": _share(folder, Nvml().read_gpus, seconds),
    }


def _share(folder: Path, read: Callable[[], GpuSnapshot], seconds: float) -> float:
    """Share of one core, measured after the first readings and imports."""
    store = StateStore(PoolState())

    def post(snapshot: GpuSnapshot) -> None:
        store.pool = replace(store.pool, gpus=snapshot)

    poller = GpuPoller(read, post, GpuHistory(folder / "gpus.json"), poll_seconds=1.0, expected=lambda history: "")
    gauges = Gauges(store, "bench")
    poller.start()
    time.sleep(3)
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        gauges.render("")
        time.sleep(1)
    share = (time.process_time() - used) / (time.monotonic() - began)
    poller.close()
    return float(f"{share:.3g}")


def _no_gpus() -> GpuSnapshot:
    return GpuSnapshot(GpuState.NO_LIBRARY, time.monotonic())


def _timed(case: Callable[[], object]) -> float:
    began = time.perf_counter()
    case()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

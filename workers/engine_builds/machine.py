"""What decides how an engine is built here: cards, CPU, memory."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from app.entities.engines import InstructionSet
from app.use_cases.engines.cuda import Version, parse_version
from app.use_cases.engines.instruction_sets import instruction_sets


@dataclass(frozen=True, slots=True)
class BuildMachine:
    """This machine, as far as builds depend on it."""

    cards: tuple[Version, ...]  # compute capabilities of the NVIDIA cards
    has_cards: bool  # also where their compute capabilities are not known
    driver: Version | None  # the newest CUDA that the driver supports
    instruction_sets: tuple[InstructionSet, ...]  # the widest first
    cores: int
    available_bytes: int  # of RAM


def this_build_machine() -> BuildMachine:
    """Asks NVML; a driver that hangs is waited for."""
    from workers.gpu.nvml import Nvml
    from workers.gpu.ram import read_memory

    nvml = Nvml(None)  # all cards, also those hidden from this process
    snapshot = nvml.read_gpus()
    nvml.close()
    cards = tuple(gpu.compute_capability for gpu in snapshot.gpus if gpu.compute_capability)
    return BuildMachine(
        cards,
        bool(snapshot.gpus or snapshot.missing),
        parse_version(snapshot.cuda_version) if snapshot.cuda_version else None,
        instruction_sets(platform.machine(), _cpu_flags()),
        len(os.sched_getaffinity(0)),
        read_memory({}).available_bytes,
    )


def _cpu_flags() -> frozenset[str]:
    found = re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return frozenset(found[1].split() if found else ())

"""Unified memory: GPUs that use the machine's RAM as their memory, as in a DGX Spark or a Jetson.

NVML reports their memory as not supported, or as large as the RAM with the page cache counted as used (both were seen
on GB10 with drivers 580.95 to 580.173). RAM's own figures count instead, as NVIDIA advises:
https://docs.nvidia.com/dgx/dgx-spark/known-issues.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import inf

import psutil

from app.entities.gpu import Gpu
from workers.gpu.ram import read_memory

# CUDA has an attribute for it (integrated), NVML has none. Compute capabilities that only integrated GPUs have: Xavier,
# Orin, Thor (10.1 before CUDA 13) and GB10. A GH200 has 9.0, like an H100: its HBM is memory of its own.
_CAPABILITIES = {(7, 2), (8, 7), (10, 1), (11, 0), (12, 1)}
_NAMES = re.compile(r"\b(GB10|Thor|Orin|Xavier|Tegra|Jetson|nvgpu)\b")
_TOLERANCE = 0.05  # of MemTotal; a GPU of that size in a machine with as much RAM is no sign by itself

RETRY_SECONDS = 60.0


class ListedSizes:
    """Whether the engine lists a GPU with as much memory as the machine has RAM, for GPUs without another sign of it.

    Asking takes seconds, so it is done once a minute until there is an answer, and never after that. Used by the thread
    `gpus` alone.
    """

    def __init__(self, listed_memory: Callable[[str], int]) -> None:
        """`listed_memory`: bytes that the engine lists for the GPU with this UUID, 0 if that is unknown."""
        self._listed_memory = listed_memory
        self._bytes: dict[str, int] = {}  # by UUID
        self._probed_at: dict[str, float] = {}

    def has_size_of_ram(self, uuid: str, now: float) -> bool:
        if not self._bytes.get(uuid) and now >= self._probed_at.get(uuid, -inf) + RETRY_SECONDS:
            self._bytes[uuid], self._probed_at[uuid] = self._listed_memory(uuid), now
        total = psutil.virtual_memory().total
        return abs(self._bytes.get(uuid, 0) - total) <= _TOLERANCE * total


def uses_ram(gpu: Gpu, is_unreported: bool) -> bool:
    """Whether the GPU is integrated, and its memory RAM. `is_unreported`: NVML reports no memory for it."""
    is_as_large = gpu.total_bytes >= (1 - _TOLERANCE) * psutil.virtual_memory().total
    return is_integrated(gpu) and (is_unreported or bool(gpu.problem) or is_as_large)


def is_integrated(gpu: Gpu) -> bool:
    return gpu.compute_capability in _CAPABILITIES or bool(_NAMES.search(gpu.name))


def with_ram(gpu: Gpu) -> Gpu:
    """With the machine's RAM as its memory, or a problem if that cannot be read."""
    try:
        memory = read_memory({})
    except OSError as error:
        return replace(gpu, problem=f"RAM cannot be read: {error}", is_unified=True)
    total, free = memory.total_bytes, memory.available_bytes
    return replace(gpu, total_bytes=total, free_bytes=free, used_bytes=total - free, problem="", is_unified=True)

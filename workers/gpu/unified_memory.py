"""Unified memory: GPUs that use the machine's RAM as their memory, as in a DGX Spark or a Jetson.

NVML reports their memory as not supported, or as large as the RAM with the page cache counted as used (both were seen
on GB10 with drivers 580.95 to 580.173). RAM's own figures count instead, as NVIDIA advises:
https://docs.nvidia.com/dgx/dgx-spark/known-issues.html
"""

from __future__ import annotations

import re
from dataclasses import replace

import psutil

from app.entities.gpu import Gpu
from workers.gpu.ram import read_memory

# CUDA has an attribute for it (integrated), NVML has none. Compute capabilities that only integrated GPUs have: Xavier,
# Orin, Thor (10.1 before CUDA 13) and GB10. A GH200 has 9.0, like an H100: its HBM is memory of its own.
_CAPABILITIES = {(7, 2), (8, 7), (10, 1), (11, 0), (12, 1)}
_NAMES = re.compile(r"\b(GB10|Thor|Orin|Xavier|Tegra|Jetson|nvgpu)\b")
_SHARE_OF_RAM = 0.95  # of MemTotal; a GPU of that size in a machine with as much RAM is no sign by itself


def uses_ram(gpu: Gpu, is_untold: bool, uses_ats: bool) -> bool:
    """Whether the GPU has no memory of its own.

    `is_untold`: NVML reports no memory for it; `uses_ats`: it shares the CPU's page tables, as Grace does.
    """
    if is_integrated(gpu):
        return is_untold or bool(gpu.problem) or gpu.total_bytes >= _SHARE_OF_RAM * psutil.virtual_memory().total
    return is_untold and uses_ats


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

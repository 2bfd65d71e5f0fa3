"""What a build takes: time, disk space and memory, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.engines import Backend
from app.use_cases.reporting.phrases import GIB, MIB, duration_text, gib_text

# Measured with llama.cpp b11549 on x86-64: seconds of one core, whatever their number. CUDA: and for each architecture.
_CPU_SECONDS = 750.0
_CUDA_SECONDS_PER_ARCHITECTURE = 3200.0
_VULKAN_SECONDS = 900.0
_SOURCE_BYTES = 256 * MIB  # the package, and what is in it
_BUILD_BYTES = {Backend.CPU: 256 * MIB, Backend.VULKAN: 768 * MIB, Backend.CUDA: 512 * MIB}
_CUDA_BYTES_PER_ARCHITECTURE = 512 * MIB
# Of one compiler at its largest: nvcc compiles kernels with many templates.
_JOB_BYTES = {Backend.CPU: 1 * GIB, Backend.VULKAN: 1 * GIB, Backend.CUDA: 2 * GIB}


@dataclass(frozen=True, slots=True)
class BuildNeeds:
    """What a build takes on this machine."""

    jobs: int  # compilers at a time
    seconds: float
    disk_bytes: int  # while it runs, the source and the installed engine included


def build_needs(backend: Backend, architectures: int, cores: int, available_bytes: int) -> BuildNeeds:
    """`architectures`: how many CUDA code is built for; `available_bytes`: of RAM."""
    jobs = max(1, min(cores, available_bytes // _JOB_BYTES[backend]))
    cuda = max(1, architectures) if backend is Backend.CUDA else 0
    core_seconds = _CPU_SECONDS + cuda * _CUDA_SECONDS_PER_ARCHITECTURE
    core_seconds += _VULKAN_SECONDS if backend is Backend.VULKAN else 0
    disk_bytes = _SOURCE_BYTES + _BUILD_BYTES[backend] + cuda * _CUDA_BYTES_PER_ARCHITECTURE
    return BuildNeeds(jobs, core_seconds / jobs, disk_bytes)


def needs_text(needs: BuildNeeds, disk_bytes: int) -> str:
    """`disk_bytes`: with what is installed for the build."""
    compilers = "1 compiler" if needs.jobs == 1 else f"{needs.jobs} compilers"
    return f"takes about {duration_text(needs.seconds)} with {compilers} at a time, and {gib_text(disk_bytes)} of disk"

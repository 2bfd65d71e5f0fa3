"""Whether models go to GPUs on this machine, as it is now, and if not, whether they may go to the CPU."""

from __future__ import annotations

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.placement import CpuFallback


def are_usable(gpus: GpuSnapshot) -> bool:
    """`gpus` as of now."""
    return gpus.state is GpuState.OK and bool(gpus.gpus) and not gpus.engine_problem


def why_no_place(gpus: GpuSnapshot, fallback: CpuFallback) -> str:
    """Why a model may go neither to a GPU nor to the CPU; "" where it may.

    A machine that never had GPUs, or whose engine cannot use them, is one of the CPU. Where GPUs are missing that
    should be there, nothing is done on the CPU that nobody asked for: it would be many times slower, and nobody would
    know why.
    """
    if are_usable(gpus) or fallback is CpuFallback.WHEN_FULL:
        return ""
    said = "; ".join(gpus.complaints) or gpus.problem or "there is no GPU"
    if fallback is CpuFallback.NEVER:
        return f"{said}; gpu.cpu_fallback is never"
    is_missing = bool(gpus.complaints) and not gpus.engine_problem
    return f"{said}; gpu.cpu_fallback: when_full would let it run on the CPU" if is_missing else ""

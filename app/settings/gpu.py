"""Settings of the GPUs: how they are watched, what is held back of them, and which are taken first."""

from __future__ import annotations

from pydantic import ByteSize, Field

from app.entities.placement import CpuFallback, GpuLimits, Strategy
from app.settings.values import GpuNames, Memory, Section


class GpuSettings(Section):
    """What is done with NVIDIA GPUs. Sizes are per GPU."""

    enabled: bool = Field(True, description="Look for GPUs. False: this machine is one without.")
    poll_seconds: float = Field(
        1.0, ge=0.1, le=3600, description="How often the GPUs are read. Without any, once a minute is enough."
    )
    reserve: Memory = Field(ByteSize(GpuLimits().reserve_bytes), description="Left free; 0 gives all of it away.")
    max_vram: Memory | None = Field(
        None, description="What the models of this service may take of it; null: all but `reserve`."
    )
    order: GpuNames = Field(
        [], description="GPUs to take first, in this order, by UUID, NVML index or name. The others come after them."
    )
    strategy: Strategy = Field(
        Strategy.PACK,
        description="Which of several GPUs with room a model gets. pack: the one with the least room left, so that "
        "another stays whole for a large model; spread: the one with the most.",
    )
    busy_utilization: float = Field(
        GpuLimits().busy_utilization,
        gt=0,
        le=1,
        description="From this share of utilization on a GPU counts as busy, and is taken last.",
    )
    cpu_fallback: CpuFallback = Field(
        CpuFallback.AUTO,
        description="When a model runs on the CPU. auto: where no GPU should be there, or the engine cannot use one; "
        "GPUs that are lost: 503 no_gpu. never: without a GPU it is always 503 no_gpu. when_full: also instead of "
        "waiting for room, and when GPUs are lost.",
    )

"""Settings of the GPUs: polling, memory limits, and the order in which they are used."""

from __future__ import annotations

from typing import Annotated

from pydantic import ByteSize, Field

from app.entities.placement import DEFAULT_RESERVE_BYTES, CpuFallback, GpuLimits, Strategy
from app.settings.values import NEEDS_RESTART, GpuNames, Memory, MemoryByGpu, Section


class GpuSettings(Section):
    """How NVIDIA GPUs are used. Sizes are per GPU."""

    enabled: Annotated[bool, NEEDS_RESTART] = Field(
        True, description="Use NVIDIA GPUs. false: behave like a machine without GPUs."
    )
    poll_seconds: Annotated[float, NEEDS_RESTART] = Field(
        1.0,
        ge=0.1,
        le=3600,
        description="Polling interval of the GPUs. A machine without GPUs is polled once a minute.",
    )
    idle_close_seconds: float | None = Field(
        None,
        gt=0,
        description=(
            "Close NVML when no model has used or needed the GPUs for so long: an open NVML alone keeps a GPU awake. "
            "The next load opens it, which takes a second or more. null: never."
        ),
    )
    reserve: MemoryByGpu = Field(
        ByteSize(DEFAULT_RESERVE_BYTES),
        description=(
            "Memory left free on each GPU; by default 10 % of the RAM, at least 2 GiB, where a GPU uses that as its "
            "memory. 0: use all of it. Or a size for each of some GPUs, by UUID, NVML index or "
            'name: {"0": "2GiB"}; the others have the default.'
        ),
    )
    max_vram: Memory | None = Field(
        None, description="Memory that models may use on each GPU. null: all but `reserve`."
    )
    order: GpuNames = Field(
        [],
        description=(
            "GPUs to use first, in this order, by UUID, NVML index or name. GPUs that are not listed come last."
        ),
    )
    strategy: Strategy = Field(
        Strategy.PACK,
        description=(
            "Which GPU to choose if a model fits on several. pack: the one with the least free memory, which "
            "leaves the others whole for large models; spread: the one with the most. A GPU that drives a display is "
            "used last, unless `order` names it."
        ),
    )
    busy_utilization: float = Field(
        GpuLimits().busy_utilization,
        gt=0,
        le=1,
        description="A GPU with at least this utilization (0 to 1) counts as busy and is used last.",
    )
    cpu_fallback: CpuFallback = Field(
        CpuFallback.AUTO,
        description=(
            "When a model runs on the CPU. auto: if no GPU is expected, or the engine does not support GPUs; "
            "lost GPUs: 503 no_gpu. never: without a GPU, always 503 no_gpu. when_full: also instead of "
            "waiting for memory, and when GPUs are lost."
        ),
    )

    @property
    def reserve_bytes(self) -> int | None:
        """Left free on each GPU; None if nothing was chosen. The default counts as not chosen where it was written
        down, as in a copy of config.example.yaml: some kinds of GPUs have a default of their own."""
        return None if isinstance(self.reserve, dict) or self.reserve == DEFAULT_RESERVE_BYTES else self.reserve

    @property
    def reserves(self) -> dict[str, int]:
        """Bytes left free on single GPUs, by the names in the settings."""
        return dict(self.reserve) if isinstance(self.reserve, dict) else {}

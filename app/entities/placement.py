"""Where a model may go: the GPUs as a decision sees them, and what was decided."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.entities.memory import Estimate

CPU = "cpu"  # stands where GPUs have their UUIDs


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU, claims, reserve and max_vram taken off what is usable."""

    uuid: str
    name: str
    index: int  # NVML's
    total_bytes: int
    usable_bytes: int
    leaving_bytes: int = 0  # of servers that are on their way out: usable soon
    is_busy: bool = False  # it computes


@dataclass(frozen=True, slots=True)
class Resident:
    """A llama-server that holds memory."""

    id: int
    model: str
    held_bytes: Mapping[str, int]  # by UUID
    is_busy: bool = False  # answers somebody, or is loading
    idle_seconds: float = 0.0
    is_pinned: bool = False  # never stopped to make room


class Strategy(enum.StrEnum):
    """Which of several cards with room a model gets."""

    PACK = "pack"  # the fullest, so that a large one stays whole
    SPREAD = "spread"  # the emptiest


@dataclass(frozen=True, slots=True)
class Wishes:
    """What settings say about a model's GPUs. Cards are named by UUID, index or model."""

    gpus: tuple[str, ...] = ()  # only these; empty: any
    exclude: tuple[str, ...] = ()
    min_gpus: int = 1
    max_gpus: int | None = None
    has_auto_context: bool = False  # take the longest of a few contexts that fits
    cpu_moe: bool = False  # experts may go to RAM
    partial_offload: bool = False  # layers may
    cpu_when_full: bool = False  # the whole model may


@dataclass(frozen=True, slots=True)
class Policy:
    """What settings say about all models."""

    strategy: Strategy = Strategy.PACK
    order: tuple[str, ...] = ()  # cards to take first
    residency_seconds: float = 60.0  # a server unused for less is not stopped where a split would do


@dataclass(frozen=True, slots=True)
class Rules:
    """What settings hold back, of each GPU."""

    reserve_bytes: int = 512 * 1024**2
    max_vram_bytes: int | None = None
    busy_utilization: float = 0.9


class CpuFallback(enum.StrEnum):
    """When a model may go to the CPU of a machine that has GPUs, or should have."""

    AUTO = "auto"  # where no GPU should be there, or the engine cannot use one
    NEVER = "never"
    WHEN_FULL = "when_full"  # also instead of waiting for room, and when GPUs are lost


@dataclass(frozen=True, slots=True)
class Placement:
    """A place: the cards in the order the server sees them, and the options that make it take just what was booked."""

    uuids: tuple[str, ...]  # (CPU,) for none
    layers: tuple[int, ...]  # on each, the output counted as one
    n_gpu_layers: int
    ctx_size: int
    n_cpu_moe: int
    estimate: Estimate

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """Shares that deal out exactly these layers; empty for one card."""
        return self.layers if len(self.uuids) > 1 else ()

    @property
    def booked_bytes(self) -> Mapping[str, int]:
        """By UUID."""
        if self.uuids == (CPU,):
            return {CPU: self.estimate.host.booked_bytes}
        return {uuid: each.booked_bytes for uuid, each in zip(self.uuids, self.estimate.devices, strict=True)}


class Outcome(enum.StrEnum):
    PLACE = "place"
    EVICT = "evict"  # the servers named have to go first
    WAIT = "wait"  # what is in the way is busy, or on its way out
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one model, and why."""

    outcome: Outcome
    reason: str  # one sentence
    needed_bytes: int  # of the placement, or of the least that would have done
    placement: Placement | None = None
    evict: tuple[int, ...] = ()  # ids of servers
    for_ever: bool = False  # refused: not even an empty machine would do
    free_bytes: Mapping[str, int] = field(default_factory=dict)  # usable on each card that was asked for
    nearest: str = ""  # the setting next to what was asked that would fit
    considered: tuple[str, ...] = ()  # each step with its numbers

"""Where a model may go: the GPUs as a decision sees them, and what was decided."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.entities.memory import Estimate

CPU = "cpu"  # stands where GPUs have their UUIDs; of room: the RAM that is available
BOOKS = "books"  # the RAM that is not promised to a server: pages of mapped files are available, and needed
PLACES = "places"  # servers that may be loaded beside those that are


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU, claims, reserve and max_vram taken off what is usable."""

    uuid: str
    name: str
    index: int  # NVML's
    total_bytes: int
    usable_bytes: int  # below zero: more is claimed or held back than is free
    leaving_bytes: int = 0  # of servers that end: usable soon
    draining_bytes: int = 0  # of servers that go once they have answered what they have
    is_busy: bool = False  # it computes
    is_mig: bool = False  # CUDA shows a process one of these at most


@dataclass(frozen=True, slots=True)
class Resident:
    """A llama-server that holds memory."""

    id: int
    model: str
    held_bytes: Mapping[str, int]  # what comes back when it goes: by UUID, and of CPU, BOOKS and PLACES
    is_busy: bool = False  # answers somebody
    idle_seconds: float = 0.0
    is_pinned: bool = False  # never stopped to make room
    priority: int = 0  # the lower, the sooner it is stopped
    is_young: bool = False  # its residency is not over: stopped last
    rate: float | None = None  # requests a second, of late; None: nobody counted
    load_seconds: float | None = None  # what loading it again would take
    is_loading: bool = False  # is not stopped before it is ready
    is_spare: bool = False  # another server of its model stays: stopped before all others


class Strategy(enum.StrEnum):
    """Which of several cards with room a model gets."""

    PACK = "pack"  # the fullest, so that a large one stays whole
    SPREAD = "spread"  # the emptiest


@dataclass(frozen=True, slots=True)
class PlacementConstraints:
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

    def room(self, total_bytes: int, free_bytes: int, booked_bytes: int) -> tuple[int, int]:
        """Of a GPU, what models may ever have, and what they may have beside all that is booked; that may be below
        zero: more is held back than is free."""
        most, usable = total_bytes - self.reserve_bytes, free_bytes - self.reserve_bytes
        if self.max_vram_bytes is not None:
            most, usable = min(most, self.max_vram_bytes), min(usable, self.max_vram_bytes - booked_bytes)
        return max(0, most), usable

    def is_busy(self, utilization_percent: float) -> bool:
        return utilization_percent >= 100 * self.busy_utilization


class CpuFallback(enum.StrEnum):
    """When a model may go to the CPU of a machine that has GPUs, or should have."""

    AUTO = "auto"  # where no GPU should be there, or the engine cannot use one
    NEVER = "never"
    WHEN_FULL = "when_full"  # also instead of waiting for room, and when GPUs are lost


def shared_needs(estimate: Estimate) -> dict[str, int]:
    """What a server takes that all places share."""
    return {CPU: estimate.host.booked_bytes, BOOKS: estimate.host.booked_bytes, PLACES: 1}


@dataclass(frozen=True, slots=True)
class Placement:
    """A place: the cards in the order the server sees them, and the options that make it take just what was booked."""

    uuids: tuple[str, ...]  # (CPU,) for none
    layers: tuple[int, ...]  # on each, the output counted as one
    n_gpu_layers: int
    ctx_size: int
    n_cpu_moe: int
    estimate: Estimate
    indices: tuple[int, ...] = ()  # NVML's, of the cards
    names: tuple[str, ...] = ()  # their models

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """Shares that deal out exactly these layers; empty for one card."""
        return self.layers if len(self.uuids) > 1 else ()

    @property
    def is_on_cpu(self) -> bool:
        return self.uuids == (CPU,)

    @property
    def device(self) -> str:
        """As answers say it: `cpu`, or NVML's indices as `cuda:0,1`."""
        return CPU if self.is_on_cpu else f"cuda:{','.join(map(str, self.indices))}"

    @property
    def booked_bytes(self) -> Mapping[str, int]:
        """By UUID, and of RAM."""
        return self.by_device(self.estimate)

    def by_device(self, estimate: Estimate) -> dict[str, int]:
        """What is booked for a server in this place by an estimate."""
        on_gpus = () if self.is_on_cpu else zip(self.uuids, estimate.devices, strict=True)
        return {uuid: each.booked_bytes for uuid, each in on_gpus} | {CPU: estimate.host.booked_bytes}

    @property
    def needs(self) -> Mapping[str, int]:
        """All that it takes some of."""
        return {**self.booked_bytes, **shared_needs(self.estimate)}

    @property
    def needed_bytes(self) -> int:
        """Of the GPUs it is on, else of RAM."""
        booked = self.booked_bytes
        return sum(booked[uuid] for uuid in self.uuids)


def nothing() -> str:
    """The advice there is where none is needed."""
    return ""


class Outcome(enum.StrEnum):
    PLACE = "place"
    EVICT = "evict"  # the servers named have to go first
    WAIT = "wait"  # what is in the way is busy, loading, or on its way out
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one model, and why."""

    outcome: Outcome
    reason: str  # one sentence
    needed_bytes: int  # of the placement, or of the least that would have done
    placement: Placement | None = None
    awaited: Placement | None = None  # of WAIT: the place that it gets then, if nothing else happens
    evict: tuple[int, ...] = ()  # ids of servers; of WAIT: those that go as soon as they are idle
    for_ever: bool = False  # refused: not even an empty machine would do
    free_bytes: Mapping[str, int] = field(default_factory=dict)  # usable on each card that it may use, or of RAM
    considered: tuple[str, ...] = ()  # each step with its numbers
    advise: Callable[[], str] = field(default=nothing, compare=False, repr=False)

    @property
    def nearest(self) -> str:
        """The setting next to what was asked that would fit. Worked out when somebody wants to know."""
        return self.advise()

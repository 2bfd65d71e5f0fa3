"""Effects: the orders that the scheduler gives; the pool carries them out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from app.entities.placement import Decision
from app.entities.refusal import Refusal
from app.entities.server import Server


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start this server; answered by Spawned, Projected, Progress, Ready, Measured and finally Exited."""

    server: Server


class StopReason(enum.StrEnum):
    """Why a server is stopped; a label of the metrics."""

    IDLE = "idle"  # unused for its ttl, or as a surplus replica for its residency
    EVICTED = "room"  # idle, and another model needs its memory
    PROMPT_CACHE = "prompt_cache"  # idle, and another model needs the RAM of its prompt cache; it is started again
    DRAINED = "drained"  # after its running requests, for another model or because its settings or file changed
    UNLOAD = "unload"  # by order, after its running requests
    UNLOAD_FORCED = "unload_forced"  # by order, which did not wait for its running requests, or no longer
    STALLED = "stalled"  # its load showed no progress
    TOO_LARGE = "too_large"  # it reported that it needs more memory than is available
    ABANDONED = "abandoned"  # it only generates for clients that have disconnected
    HUNG = "hung"  # it does not respond
    MEMORY_EXCEEDED = "memory_exceeded"  # it held far more RAM than was booked
    GPU_UNUSED = "gpu_unused"  # it was placed on GPUs, and computes on the CPU
    GPU_USABLE = "gpu_usable"  # it is on the CPU, and its model can be placed on a GPU again
    SHUTDOWN = "shutdown"

    @property
    def allows_cache_save(self) -> bool:
        """Whether the server may save its KV cache first. One that is stalled, too large or abandoned is stopped at
        once."""
        return self not in (StopReason.STALLED, StopReason.TOO_LARGE, StopReason.ABANDONED) and not self.kills

    @property
    def kills(self) -> bool:
        """Whether the server gets SIGKILL at once: one that is hung would not exit, one that grows would go on, one
        that answers would finish its answers."""
        return self in (StopReason.HUNG, StopReason.MEMORY_EXCEEDED, StopReason.UNLOAD_FORCED)


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this server; answered by Exited when it was reaped."""

    server: int
    why: StopReason
    detail: str = ""  # for the log


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may use a slot of this server until it releases it."""

    ticket: int
    server: int


@dataclass(frozen=True, slots=True)
class Done:
    """A Load or an Unload has been carried out."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The waiting request is rejected."""

    ticket: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """Read the machine's memory now; answered by MemoryRead or MemoryReadFailed."""


@dataclass(frozen=True, slots=True)
class ReadGpus:
    """Read the GPUs now; GpusPolled may take any time, or never arrive."""


@dataclass(frozen=True, slots=True)
class ProbeEngine:
    """Ask the engine which GPUs it can use; the result is part of a later GpusPolled."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision about a model's place, for the log and GET /decisions."""

    model: str
    decision: Decision
    evict: tuple[str, ...]  # model names of the victims
    evict_idle_seconds: tuple[float | None, ...] = ()  # of the victims; None: not idle


@dataclass(frozen=True, slots=True)
class CheckServer:
    """Check whether this server responds, and how many of its slots are busy; answered by ServerChecked.

    Without `counts_slots`, it is asked only if it has used no CPU time.
    """

    server: int
    counts_slots: bool


Effect = Spawn | Stop | Grant | Done | Refuse | ReadMemory | ReadGpus | ProbeEngine | Decided | CheckServer

"""Effects: the orders that the scheduler gives; the pool carries them out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from app.entities.placement import Decision
from app.entities.refusal import Refusal
from app.entities.server import Server


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start this server; answer with Spawned, Projected, Progress, Ready, Measured and at last Exited."""

    server: Server


class StopReason(enum.StrEnum):
    """Why a server is ended; a label of the metrics."""

    IDLE = "idle"  # nobody used it for its ttl; or, of several, for as long as one that is not needed stays
    ROOM = "room"  # another model needs what it holds
    DRAINED = "drained"  # for another model, or another file of its name, after it has answered what it had to
    UNLOAD = "unload"  # ordered, and it has answered what it had to
    STALLED = "stalled"  # its load showed no progress
    TOO_LARGE = "too_large"  # it said that it needs more than there is room for
    ABANDONED = "abandoned"  # it generates for clients that have left
    SHUTDOWN = "shutdown"

    @property
    def saves(self) -> bool:
        """Whether what it computed may be kept first. Not where it does not do what it is told: that ends now."""
        return self not in (StopReason.STALLED, StopReason.TOO_LARGE, StopReason.ABANDONED)


@dataclass(frozen=True, slots=True)
class Stop:
    """End this server; answer with Exited when it is reaped."""

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
    """What a Load or an Unload asked for is so."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request does not get what it waits for."""

    ticket: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """Read the machine's memory now; answer with MemoryRead or MemoryReadFailed."""


@dataclass(frozen=True, slots=True)
class ReadGpus:
    """Read the GPUs now; GpusPolled comes when it comes."""


@dataclass(frozen=True, slots=True)
class Decided:
    """Keep what was decided about a model's place, and why."""

    model: str
    decision: Decision
    evict: tuple[str, ...]  # names of the servers that leave for it


@dataclass(frozen=True, slots=True)
class CountSlots:
    """Ask this server how many of its slots are busy; answer with SlotsCounted."""

    server: int


Effect = Spawn | Stop | Grant | Done | Refuse | ReadMemory | ReadGpus | Decided | CountSlots

"""Memory: what a machine has at one moment, and what a llama-server needs of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """RAM as the kernel showed it at one moment."""

    total_bytes: int
    available_bytes: int  # what can be had without swapping (MemAvailable, or the cgroup's remainder if less)
    at: float  # monotonic seconds at which it was read
    held_bytes: Mapping[int, int] = field(default_factory=dict)  # by server: what `available_bytes` lacks because of it


class Confidence(enum.StrEnum):
    """How much of an estimate is known."""

    EXACT = "exact"  # every item is arithmetic
    MODELLED = "modelled"  # the compute buffer follows a rule fitted to measurements
    MEASURED = "measured"  # this file has been loaded like this before
    LOW = "low"  # an architecture or an option nobody has measured


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What one llama-server needs on one device, by item."""

    weights_bytes: int = 0
    context_bytes: int = 0  # KV cache and recurrent state
    compute_bytes: int = 0  # buffers of the graph
    overhead_bytes: int = 0  # of a GPU: the CUDA context and its libraries
    margin_bytes: int = 0  # booked on top, where the items are known to be rough

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.context_bytes + self.compute_bytes + self.overhead_bytes

    @property
    def booked_bytes(self) -> int:
        return self.total_bytes + self.margin_bytes


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one llama-server needs, per device in the order of its `--tensor-split`, and of RAM."""

    devices: tuple[DeviceMemory, ...]
    host: DeviceMemory
    confidence: Confidence
    notes: tuple[str, ...] = ()  # what a reader of the numbers should know

    @property
    def total_bytes(self) -> int:
        return self.host.total_bytes + sum(each.total_bytes for each in self.devices)

    @property
    def booked_bytes(self) -> int:
        return self.host.booked_bytes + sum(each.booked_bytes for each in self.devices)

"""Memory: what a machine has at one moment, and what a llama-server needs of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """RAM as the kernel reported it at one moment."""

    total_bytes: int
    available_bytes: int  # usable without swapping (MemAvailable, or the cgroup's remainder if that is less)
    at: float  # monotonic seconds of the reading
    held_bytes: Mapping[int, int] = field(default_factory=dict)  # by server id: its share of what is not available


class Confidence(enum.StrEnum):
    """How reliable an estimate is."""

    EXACT = "exact"  # every item is arithmetic
    MODELLED = "modelled"  # the compute buffer follows a rule fitted to measurements
    MEASURED = "measured"  # this file has been loaded like this before
    LOW = "low"  # an architecture or an option that has not been measured


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What one llama-server needs on one device, by item."""

    weights_bytes: int = 0
    context_bytes: int = 0  # KV cache and recurrent state
    compute_bytes: int = 0  # graph buffers
    overhead_bytes: int = 0  # on a GPU: the CUDA context and its libraries
    margin_bytes: int = 0  # booked on top where the items are known to be inaccurate
    prompt_cache_bytes: int = 0  # of RAM, booked on top: it fills only while the server answers

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.context_bytes + self.compute_bytes + self.overhead_bytes

    @property
    def booked_bytes(self) -> int:
        return self.total_bytes + self.margin_bytes + self.prompt_cache_bytes


@dataclass(frozen=True, slots=True)
class MeasuredError:
    """How far the estimates of comparable starts were from llama.cpp's own figures."""

    rows: int  # one per device
    share: float  # of the worst


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one llama-server needs, per device in the order of its `--tensor-split`, and of RAM."""

    devices: tuple[DeviceMemory, ...]
    host: DeviceMemory
    confidence: Confidence
    notes: tuple[str, ...] = ()  # reasons for a low confidence
    measured_error: MeasuredError | None = None  # None: no start like this was measured

    @property
    def total_bytes(self) -> int:
        return self.host.total_bytes + sum(device.total_bytes for device in self.devices)

    @property
    def booked_bytes(self) -> int:
        return self.host.booked_bytes + sum(device.booked_bytes for device in self.devices)

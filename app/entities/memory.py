"""Readings of the memory that models are placed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """RAM as the kernel showed it at one moment."""

    total_bytes: int
    available_bytes: int  # what can be had without swapping (MemAvailable, or the cgroup's remainder if less)
    at: float  # monotonic seconds at which it was read
    held_bytes: Mapping[int, int] = field(default_factory=dict)  # by server: what `available_bytes` lacks because of it

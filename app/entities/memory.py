"""Readings of the memory that models are placed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """RAM as the kernel showed it at one moment."""

    total_bytes: int
    available_bytes: int  # what can be had without swapping (MemAvailable, or the cgroup's remainder if less)
    at: float  # monotonic seconds at which it was read

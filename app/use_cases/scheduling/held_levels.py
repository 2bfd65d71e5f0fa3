"""Held levels: how much has been held of a device, and for how long, by readings that come and go.

Each level says since when at least so much has been held; they ascend in size and in time. Between two readings the
earlier one counts.
"""

from __future__ import annotations

from dataclasses import dataclass

GRANULARITY_BYTES = 16 * 1024**2  # less is no new level


@dataclass(frozen=True, slots=True)
class HeldLevel:
    """At least so many bytes have been held since then, in monotonic seconds."""

    since: float
    size_bytes: int


HeldLevels = tuple[HeldLevel, ...]


def with_reading(levels: HeldLevels, at: float, size_bytes: int, seconds: float) -> HeldLevels:
    """The levels after a reading that shows `size_bytes`. Older levels that one of the last `seconds` covers are
    forgotten."""
    size = -(-max(0, size_bytes) // GRANULARITY_BYTES) * GRANULARITY_BYTES
    lower = tuple(level for level in levels if level.size_bytes < size)
    higher = levels[len(lower) :]
    found = (*lower, HeldLevel(higher[0].since if higher else at, size))
    old = sum(level.since + seconds <= at for level in found)
    return found[max(0, old - 1) :]


def standing_bytes(levels: HeldLevels, now: float, seconds: float) -> int:
    """The most that has been held for so long."""
    return max((level.size_bytes for level in levels if level.since + seconds <= now), default=0)

"""Phrases: sizes, durations and places as people say them."""

from __future__ import annotations

from app.entities.placement import Placement

MIB, GIB = 1024**2, 1024**3
SAID_IN_GIB = 0.95 * GIB  # smaller sizes are said in MiB


def gib_text(size: int) -> str:
    """ "7.9 GiB", "391 GiB" or "213 MiB"."""
    if size < SAID_IN_GIB:
        return f"{max(0, size) / MIB:,.0f} MiB"
    return f"{size / GIB:,.{0 if size >= 99.5 * GIB else 1}f} GiB"


def duration_text(seconds: float) -> str:
    """ "40 s", "6 min" or "3 h"."""
    if seconds < 99.5:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.0f} h"


def place_text(placement: Placement) -> str:
    """ "GPU 1", "GPUs 0+1" or "the CPU"."""
    if placement.is_on_cpu:
        return "the CPU"
    return f"GPU{'s' if len(placement.indices) > 1 else ''} {'+'.join(map(str, placement.indices))}"

"""Phrases: sizes, durations and places as people say them."""

from __future__ import annotations

from app.entities.placement import Placement

MIB, GIB = 1024**2, 1024**3
_TOKENS = (("M", 1 << 20), ("k", 1 << 10))
_COUNTS = (("G", 10**9), ("M", 10**6), ("k", 10**3))
SAID_IN_GIB = 0.95 * GIB  # smaller sizes are said in MiB
SHOWN_LOAD_BYTES = GIB  # how fast a smaller model was loaded is not shown


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


def tokens_text(tokens: float) -> str:
    """Of a context: "512", "9.1k" or "32k". Contexts are powers of two, so k is 1024."""
    return _scaled(tokens, _TOKENS)


def count_text(number: float) -> str:
    """ "950" or "412k": requests, and tokens that were processed."""
    return _scaled(number, _COUNTS)


def rate_text(per_second: float) -> str:
    """ "4.2", "58" or "1.2k"."""
    return f"{per_second:.1f}" if per_second < 9.95 else count_text(per_second)


def _scaled(number: float, units: tuple[tuple[str, int], ...]) -> str:
    for unit, factor in units:
        if number >= factor:
            scaled = number / factor
            return (f"{scaled:.0f}" if scaled >= 99.95 else f"{scaled:.1f}".removesuffix(".0")) + unit
    return f"{number:.0f}"


def place_text(placement: Placement) -> str:
    """ "GPU 1", "GPUs 0+1" or "the CPU"."""
    if placement.is_on_cpu:
        return "the CPU"
    return f"GPU{'s' if len(placement.indices) > 1 else ''} {'+'.join(map(str, placement.indices))}"

"""Running totals over layers, so that what a range of layers takes is one subtraction."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

Totals = tuple[int, ...]  # [i] is the sum over the layers before i


def totals(values: Iterable[int]) -> Totals:
    return tuple(accumulate(values, initial=0))


def between(sums: Totals, start: int, stop: int) -> int:
    """The sum over the layers from `start` to before `stop`; 0 for none."""
    return sums[stop] - sums[start] if stop > start else 0

"""The plan of a soak: which fault begins when. The same seed gives the same plan."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP_SECONDS = 2.5  # between two faults, on average


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: when it begins, in seconds from the start, its kind, and the seed of its own choices."""

    at: float
    kind: str
    seed: int


def plan(kinds: Sequence[str], seconds: float, seed: int, gap_seconds: float = GAP_SECONDS) -> Iterator[Planned]:
    """Faults until `seconds`, one gap of 0.2 to 1.8 times the average after the other.

    Kinds come from a bag that holds each once and is filled again when it is empty, so that none is left out.
    """
    chance, bag, at = random.Random(seed), list[str](), 0.0
    while kinds and (at := at + gap_seconds * chance.uniform(0.2, 1.8)) < seconds:
        if not bag:
            bag = sorted(kinds)
            chance.shuffle(bag)
        yield Planned(at, bag.pop(), chance.randrange(2**32))

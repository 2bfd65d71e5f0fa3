"""What happened in the last hour. Waits are counted in ranges, so that memory is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, log

COUNTED = ("requests", "prompt_tokens", "completion_tokens", "loads", "evictions")
SHORTEST_WAIT_SECONDS = 0.01  # less counts as none
WAIT_GROWTH = 1.25  # each range of waits is so much longer than the one before: 46 of them reach five minutes


@dataclass(slots=True)
class ActivityCounts:
    """Of one model. Changed by its owner alone."""

    counts: Counter[str] = field(default_factory=Counter)  # by COUNTED
    waits: Counter[int] = field(default_factory=Counter)  # by the number of the range

    def without(self, others: ActivityCounts) -> ActivityCounts:
        return ActivityCounts(self.counts - others.counts, self.waits - others.waits)

    def copy(self) -> ActivityCounts:
        return ActivityCounts(self.counts.copy(), self.waits.copy())


def wait_range(seconds: float) -> int:
    """The number of the range of a wait; 0: no wait."""
    if seconds < SHORTEST_WAIT_SECONDS:
        return 0
    return 1 + int(log(seconds / SHORTEST_WAIT_SECONDS) / log(WAIT_GROWTH))


def last_hour(models: Iterable[ActivityCounts]) -> dict[str, object]:
    """Sums, and the waits of which half, and 95 %, were no longer: at most 12 % off. None if nobody had a slot."""
    counts: Counter[str] = Counter()
    waits: Counter[int] = Counter()
    for model in models:
        counts.update(model.counts)
        waits.update(model.waits)
    sums = {name: counts[name] for name in COUNTED}
    return sums | {"wait_median_seconds": _quantile(waits, 0.5), "wait_p95_seconds": _quantile(waits, 0.95)}


def _quantile(waits: Counter[int], share: float) -> float | None:
    rank = ceil(share * waits.total())
    for number in sorted(waits):
        rank -= waits[number]
        if rank <= 0:
            return round(SHORTEST_WAIT_SECONDS * WAIT_GROWTH ** (number - 0.5), 3) if number else 0.0
    return None

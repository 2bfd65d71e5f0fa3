"""Our scheduler with each model's next request known in advance: the gain possible from a better demand forecast.

The lower bound on loads may be unattainable; this is what the real scheduler would do with perfect knowledge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import replace

from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.demand import NO_DEMAND, Demand
from bench.scheduling.ours import Ours

SOONEST_SECONDS = 0.01


class Clairvoyant(Ours):
    """Demand rates are the reciprocal of the time until the model's next request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._times: dict[str, list[float]] = defaultdict(list)
        for request in self.requests:
            self._times[request.subject.name].append(request.at)

    def _happen(self, event: ev.Event) -> None:
        ahead = {name: self._ahead(name) for name in self._times}
        self.state = replace(self.state, demands=ahead)
        super()._happen(event)

    def _ahead(self, name: str) -> Demand:
        times, known = self._times[name], self.state.demands.get(name, NO_DEMAND)
        after = bisect_right(times, self.now)
        seconds = max(SOONEST_SECONDS, times[after] - self.now) if after < len(times) else float("inf")
        return Demand(1 / seconds, self.now, known.load_seconds)

"""The result of running a policy on a trace."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field

from bench.scheduling.arrivals import Request


@dataclass
class Result:
    waits: list[float] = field(default_factory=list)
    waits_of: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by client
    loads: int = 0
    load_gpu_seconds: float = 0.0  # load seconds x cards of the model

    def note(self, request: Request, now: float) -> None:
        """The request gets its slot."""
        self.waits.append(now - request.at)
        self.waits_of[request.client].append(now - request.at)

    def figures(self) -> dict[str, float]:
        waits = sorted(self.waits)
        return {
            "loads_per_1000": round(1000 * self.loads / len(waits), 1),
            "mean_wait_s": round(statistics.fmean(waits), 3),
            "p50_wait_s": round(_share(waits, 0.5), 2),
            "p95_wait_s": round(_share(waits, 0.95), 2),
            "p99_wait_s": round(_share(waits, 0.99), 2),
            "max_wait_s": round(waits[-1], 2),
            "load_gpu_seconds": round(self.load_gpu_seconds, 1),
        }


def _share(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]

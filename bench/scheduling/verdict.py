"""The bounds that the scheduler should keep, checked against the runs.

People feel waits, so waits are compared: each of a world's waits with that of the best fair peer. A wait of nothing is
as good as one of a few tenths of a second, so half a second is added to both. The figures of a world are geometric
means over its seeds; a tiny change of a rule moves a single run by 5 to 15 %.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

FAIR_PEERS = ("lru-count-16", "lru-memory", "fifo-swap")  # the limit of lru-count cripples it on five cards
ADDED_SECONDS = 0.5
MAX_WAIT_SECONDS = 300.0  # default of scheduling.max_wait_seconds
BUSY = 0.8  # offered load from which waits cannot be bounded
WORST_WORLD = 1.2
METRICS = ("mean", "p50", "p95", "p99", "max")
BOUNDS = {"mean": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.05}  # the median is only told
BELOW_BUSY = ("max",)

Runs = list[dict[str, Any]]
Key = tuple[Any, ...]


def verdict(runs: Runs) -> list[dict[str, Any]]:
    """Each bound and its measured value."""
    shared, own = [run for run in runs if not _has_own_disks(run)], [run for run in runs if _has_own_disks(run)]
    made = [row for metric in METRICS for row in _compared(shared, metric)]
    made += [row | {"bound": f"{row['bound']}, own disks"} for row in _compared(own, "mean")]
    ratios = _ratios(shared, "mean")
    if ratios:
        worst = max(ratios, key=lambda world: ratios[world])
        made.append(_row("largest mean wait of a world, of the best fair peer's", ratios[worst], WORST_WORLD))
        made[-1] |= {"where": " ".join(map(str, worst))}
    ours = [run for run in runs if run["policy"] == "ours" and run["load"] < BUSY]
    longest = max((run["max_wait_s"] for run in ours), default=0.0)
    made.append(_row(f"worst wait below load {BUSY}, s", longest, MAX_WAIT_SECONDS))
    return [*made, *_loads(shared)]


def _has_own_disks(run: dict[str, Any]) -> bool:
    return bool(run["machine"].endswith("own disks"))


def _compared(runs: Runs, metric: str) -> list[dict[str, Any]]:
    """The geometric mean of the ratio over all worlds, and what it is for the best and the worst seed."""
    what = f"{metric} wait"
    if metric in BELOW_BUSY:
        runs, what = [run for run in runs if run["load"] < BUSY], f"{what} below load {BUSY}"
    ratios = list(_ratios(runs, metric).values())
    if not ratios:
        return []
    seeds = [_mean(_ratios([run for run in runs if run["seed"] == seed], metric)) for seed in _seeds(runs)]
    row = _row(f"{what}, of the best fair peer's", statistics.geometric_mean(ratios), BOUNDS.get(metric))
    within = sum(ratio <= 1.03 for ratio in ratios) / len(ratios)
    spread = [round(min(seeds), 3), round(max(seeds), 3)]
    return [row | {"seeds": spread, "worlds_within_3_percent": round(within, 2)}]


def _seeds(runs: Runs) -> list[int]:
    return sorted({run["seed"] for run in runs})


def _mean(ratios: dict[Key, float]) -> float:
    return statistics.geometric_mean(ratios.values())


def _ratios(runs: Runs, metric: str) -> dict[Key, float]:
    """By world, without its seed."""
    found: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run[f"{metric}_wait_s"] is not None:
            world = run["trace"], run["machine"], run["load"]
            found[world][run["policy"]].append(run[f"{metric}_wait_s"] + ADDED_SECONDS)
    made = {}
    for world, by in found.items():
        means = {policy: statistics.geometric_mean(waits) for policy, waits in by.items()}
        peers = [means[policy] for policy in FAIR_PEERS if policy in means]
        if "ours" in means and peers:
            made[world] = means["ours"] / min(peers)
    return made


def _loads(runs: Runs) -> list[dict[str, Any]]:
    """A tie-breaker: loads by policy, of the lower bound of the same run."""
    by: dict[Key, dict[str, float]] = defaultdict(dict)
    for run in runs:
        by[run["trace"], run["machine"], run["load"], run["seed"]][run["policy"]] = run["loads_per_1000"]
    policies = dict.fromkeys(run["policy"] for run in runs if run["policy"] != "lower-bound")
    ratios = {
        policy: [each[policy] / each["lower-bound"] for each in by.values() if {policy, "lower-bound"} <= each.keys()]
        for policy in policies
    }
    return [
        _row(f"loads of {policy}, of the lower bound", statistics.geometric_mean(each), None)
        for policy, each in ratios.items()
        if each
    ]


def _row(bound: str, measured: float, limit: float | None) -> dict[str, Any]:
    return {
        "bound": bound,
        "measured": round(measured, 3),
        "at_most": limit,
        "holds": limit is None or measured <= limit,
    }

"""The promised bounds of the scheduler, checked against the runs.

A policy that ignores waits needs few loads, and one that ignores the cost of loads has short waits: different peers
have the fewest loads and the lowest p95. A second share, which was not promised, therefore compares only with peers
that respect our limit on waits, over the pairs that have such a peer.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

MAX_WAIT_SECONDS = 300.0  # default of scheduling.max_wait_seconds
BUSY = 0.8  # offered load below which no request may wait longer
BEST_SHARE = 0.75
GAP = 1.3
NO_PEERS = ("ours", "clairvoyant", "lower-bound")

Runs = list[dict[str, Any]]
Case = tuple[str, ...]


def verdict(runs: Runs) -> list[dict[str, Any]]:
    """Each bound and its measured value, over pairs of trace and machine (means of all loads) and over single runs."""
    made = []
    for what, keys in (("pairs", ("trace", "machine")), ("runs", ("trace", "machine", "load"))):
        cases = _cases(runs, keys)
        beaten = [case for case, by in cases.items() if _beaten_by(by)]
        best = [case for case, by in cases.items() if _is_best(by)]
        made.append(_row(f"{what} where a peer has fewer loads and a lower p95", len(beaten), 0, beaten))
        share = len(best) / len(cases) if cases else 0.0
        rest = [case for case in cases if case not in best]
        made.append(_row(f"share of {what} with the fewest loads and the lowest p95", share, BEST_SHARE, rest, True))
    made.append(_among_bounded(runs))
    ours = [run for run in runs if run["policy"] == "ours"]
    worst = max((run["max_wait_s"] for run in ours if run["load"] < BUSY), default=0.0)
    made.append(_row(f"worst wait below load {BUSY}, s", worst, MAX_WAIT_SECONDS, []))
    gaps = [by["ours"][0] / by["lower-bound"][0] for by in _cases(runs, ("trace", "machine", "load")).values() if by]
    made.append(_row("loads, of the lower bound (median)", statistics.median(gaps) if gaps else 0.0, GAP, []))
    return made


def _among_bounded(runs: Runs) -> dict[str, Any]:
    """The share of pairs, without peers whose longest wait exceeds our limit."""
    unbounded = {_peer_of(run) for run in runs if run["load"] < BUSY and (run["max_wait_s"] or 0.0) > MAX_WAIT_SECONDS}
    kept = [run for run in runs if run["policy"] == "ours" or _peer_of(run) not in unbounded]
    cases = {case: by for case, by in _cases(kept, ("trace", "machine")).items() if _peers(by)}
    rest = [case for case, by in cases.items() if not _is_best(by)]
    share = 1 - len(rest) / len(cases) if cases else 0.0
    bound = f"the share of pairs again, of {len(cases)} pairs, against peers that keep the worst wait below load {BUSY}"
    return _row(bound, share, BEST_SHARE, rest, True)


def _peer_of(run: dict[str, Any]) -> Case:
    return run["trace"], run["machine"], run["policy"]


def _cases(runs: Runs, keys: tuple[str, ...]) -> dict[Case, dict[str, tuple[float, float]]]:
    """Loads per 1,000 requests and p95 wait by policy, as means over the runs of a case."""
    found: dict[Case, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[tuple(str(run[key]) for key in keys)][run["policy"]].append(run)
    return {
        case: {policy: (_mean(rows, "loads_per_1000"), _mean(rows, "p95_wait_s")) for policy, rows in by.items()}
        for case, by in found.items()
        if "ours" in by
    }


def _mean(rows: Runs, key: str) -> float:
    return statistics.fmean(row[key] or 0.0 for row in rows)


def _peers(by: dict[str, tuple[float, float]]) -> list[tuple[float, float]]:
    return [figures for policy, figures in by.items() if policy not in NO_PEERS]


def _beaten_by(by: dict[str, tuple[float, float]]) -> bool:
    loads, p95 = by["ours"]
    return any(each[0] < loads and each[1] < p95 for each in _peers(by))


def _is_best(by: dict[str, tuple[float, float]]) -> bool:
    loads, p95 = by["ours"]
    return all(loads <= each[0] and p95 <= each[1] for each in _peers(by))


def _row(bound: str, measured: float, limit: float, where: list[Case], at_least: bool = False) -> dict[str, Any]:
    holds = measured >= limit if at_least else measured <= limit
    row = {
        "bound": bound,
        "measured": round(measured, 3),
        "at_least" if at_least else "at_most": limit,
        "holds": holds,
    }
    return row | ({"not": [" ".join(case) for case in where]} if where else {})


def table(made: dict[str, Any]) -> str:
    """The results as text: one line per run, then one per bound."""
    lines = ["trace       machine     load  policy       loads/1000    p50     p95     p99     max   load GPU-s"]
    for run in made["runs"]:
        figures = [run["p50_wait_s"], run["p95_wait_s"], run["p99_wait_s"], run["max_wait_s"]]
        waits = " ".join("      -" if each is None else f"{each:7.1f}" for each in figures)
        head = f"{run['trace']:11} {run['machine']:11} {run['load']:4}  {run['policy']:11}"
        seconds = run["load_gpu_seconds"]
        lines.append(f"{head} {run['loads_per_1000']:10.1f}  {waits}  {'-' if seconds is None else round(seconds):>9}")
    lines += [
        f"{'holds' if each['holds'] else 'FAILS'}  {each['bound']}: {each['measured']}" for each in made["verdict"]
    ]
    return "\n".join(lines)

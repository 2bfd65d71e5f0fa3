"""Access to the measured rounds, and comparison of our service with a peer within each round."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

Seen = dict[Any, dict[str, Any]]  # one system in one round, by Case, "small", "burst"
Round = dict[str, Seen]  # by system


def own(rounds: list[Round], case: object, figure: str) -> list[float]:
    seen = [each["ours"][case][figure] for each in rounds if case in each.get("ours", {})]
    return [value for value in seen if value is not None]


def within(
    rounds: list[Round],
    peer: str,
    case: object,
    figure: str,
    compare: Callable[[float, float], float | None],
    ours: str = "ours",
) -> list[float]:
    """Our figure compared with the peer's, for each round that has both."""
    pairs = [
        (each[ours][case][figure], each[peer][case][figure])
        for each in rounds
        if case in each.get(ours, {}) and case in each.get(peer, {})
    ]
    made = [compare(own, others) for own, others in pairs if own is not None and others is not None]
    return [value for value in made if value is not None]


def ratio(own: float, others: float) -> float | None:
    return own / others if others else None


def health(rounds: list[Round], system: str = "ours") -> dict[object, list[float]]:
    """Milliseconds of /health by case, over all rounds: a percentile needs many values."""
    made: dict[object, list[float]] = {}
    for each in rounds:
        for case, seen in each.get(system, {}).items():
            if seen.get("health_ms"):
                made.setdefault(case, []).extend(seen["health_ms"])
    return made


def median(values: list[float]) -> float | None:
    return digits(statistics.median(values)) if values else None


def digits(value: float | None) -> float | None:
    """Rounded to four significant digits, as elsewhere in the results."""
    return None if value is None else float(f"{value:.4g}")


def p99(values: list[float]) -> float:
    return statistics.quantiles(values * 2, n=100, method="inclusive")[98]  # twice: `quantiles` needs two

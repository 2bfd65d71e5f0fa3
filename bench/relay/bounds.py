"""The promised bounds of the data path, checked against the measured rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from bench.relay.cases import FAST, FEW, MANY, SLOW
from bench.relay.rounds import Round, digits, health, own, p99, ratio, within

FULL = 0.99  # share of the rate that counts as full: the window starts and ends between two tokens


def bounds(rounds: list[Round]) -> list[dict[str, Any]]:
    """Each bound with its measured value and whether it holds."""
    made = []
    for case in (SLOW, FAST):
        late = within(rounds, "nginx", case, "p99_ms", lambda own, others: own - others)
        made.append(_at_most(f"{case}: p99 above nginx, ms", late, 10))
    for case, limit in ((SLOW, 1.6), (FAST, 1.1)):
        cost = within(rounds, "nginx", case, "cpu_us_per_token", ratio)
        made.append(_at_most(f"{case}: CPU per token, of nginx", cost, limit))
    for case in (SLOW, FAST, MANY):
        rates = [value / (case.streams * case.rate) for value in own(rounds, case, "tokens_per_s")]
        made.append(_at_least(f"{case}: of the full rate", rates, FULL))
        made.append(_at_most(f"{case}: streams that failed", own(rounds, case, "failed"), 0))
    made.append(_at_most("MB per 100 streams", own(rounds, SLOW, "mb_per_100_streams"), 8))
    for peer, limit in (("nginx", 0.13), ("naive", 3.5)):
        many = within(rounds, peer, "small", "requests_per_s", ratio)
        made.append(_at_least(f"small answers, of {peer}", many, limit))
    real = within(rounds, "router", "small", "requests_per_s", ratio, ours="ours-real")
    made.append(_at_least("small answers of a real llama-server, of its router mode", real, 0.95))
    for case, figure, limit in ((FEW, "ttft_p50_ms", 1.5), (SLOW, "ttft_p99_ms", 12), (FAST, "ttft_p99_ms", 12)):
        added = within(rounds, "direct", case, figure, lambda own, others: own - others)
        made.append(_at_most(f"{case}: {figure} added", added, limit))
    for case, values in health(rounds).items():
        made.append(_at_most(f"/health p99 beside {case}, ms", [p99(values)], 50))
    unanswered = [each["ours"]["burst"]["unanswered"] for each in rounds if "burst" in each.get("ours", {})]
    made.append(_at_most("burst of 2,000: connections without an answer", unanswered, 0, max))
    return made


def _at_most(
    name: str, values: list[Any], limit: float, of: Callable[[list[float]], float] = statistics.median
) -> dict[str, Any]:
    measured = of(values) if values else None
    holds = measured is not None and measured <= limit
    return {"bound": name, "measured": digits(measured), "at_most": limit, "holds": holds}


def _at_least(name: str, values: list[float], limit: float) -> dict[str, Any]:
    measured = statistics.median(values) if values else None
    holds = measured is not None and measured >= limit
    return {"bound": name, "measured": digits(measured), "at_least": limit, "holds": holds}

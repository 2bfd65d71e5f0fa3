"""Computes the figures from the measured rounds: medians with their range, ratios within rounds, and the bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.relay.bounds import bounds
from bench.relay.cases import FAST, FEW, MANY, SLOW, Case
from bench.relay.rounds import Round, digits, health, median, p99, ratio, within

STREAM_FIGURES = (
    *("tokens_per_s", "p50_ms", "p99_ms", "cpu_us_per_token", "ttft_p50_ms", "ttft_p99_ms", "mb_per_100_streams"),
    "failed",
)
SMALL_FIGURES = ("requests_per_s", "p50_ms", "p99_ms", "cpu_us", "failed")


def figures(rounds: list[Round]) -> dict[str, Any]:
    """The tables of streams and small answers, each median with the minimum and maximum of the rounds."""
    systems = list(dict.fromkeys(name for each in rounds for name in each))
    cases = sorted({case for each in rounds for seen in each.values() for case in seen if isinstance(case, Case)})
    made: dict[str, Any] = {"streams": [], "small": []}
    for name in systems:
        for case in cases:
            if row := _row(rounds, name, case, STREAM_FIGURES):
                made["streams"].append({"system": name, "streams": case.streams, "rate": case.rate, **row})
        if row := _row(rounds, name, "small", SMALL_FIGURES):
            made["small"].append({"system": name, **row})
    made["ratios"] = ratios(rounds)
    made["health_p99_ms"] = {str(case): p99(values) for case, values in health(rounds).items()}
    if earlier := health(rounds, "earlier"):
        made["earlier_health_p99_ms"] = {str(case): p99(values) for case, values in earlier.items()}
    made["bursts"] = [_without_health(each["ours"]["burst"]) for each in rounds if "burst" in each.get("ours", {})]
    made["bounds"] = [bound for bound in bounds(rounds) if bound["measured"] is not None]
    return made


def _row(rounds: list[Round], name: str, case: object, columns: Iterable[str]) -> dict[str, Any]:
    seen = [each[name][case] for each in rounds if case in each.get(name, {})]
    if not seen:
        return {}
    values = {column: [each[column] for each in seen if each[column] is not None] for column in columns}
    spread = {column: [digits(min(each)), digits(max(each))] for column, each in values.items() if each}
    return {column: median(each) for column, each in values.items()} | {"spread": spread}


def ratios(rounds: list[Round]) -> list[dict[str, Any]]:
    """Our figures divided by those of nginx, of the naive proxy and of an earlier checkout, within each round."""
    pairs = [
        *((case, "cpu_us_per_token") for case in (SLOW, FAST, MANY)),
        *((case, "mb_per_100_streams") for case in (SLOW,)),
        *(("small", figure) for figure in ("requests_per_s", "cpu_us")),
    ]
    latencies = [(case, figure) for case in (FEW, SLOW, FAST) for figure in ("p99_ms", "ttft_p50_ms", "ttft_p99_ms")]
    made = []
    for case, figure in pairs + latencies:
        for peer in ("earlier",) if (case, figure) in latencies else ("nginx", "naive", "earlier"):
            values = within(rounds, peer, case, figure, ratio)
            if values:
                spread = [digits(min(values)), digits(max(values))]
                name = {"case": str(case), "figure": figure, "to": peer}
                made.append({**name, "median": median(values), "spread": spread})
    return made


def _without_health(burst: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in burst.items() if key != "health_ms"}

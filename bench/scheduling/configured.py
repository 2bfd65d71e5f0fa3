"""What priorities and replicas give: ours with them and without, on the same requests."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app.entities.model import Model, Replicas
from bench.scheduling.arrivals import Request, trace
from bench.scheduling.machines import MACHINES, Machine
from bench.scheduling.ours import Ours

COUNT, QUICK_COUNT = 1000, 150
EVERY = 3  # model is preferred
LOAD = 0.7
PREFERRED, OTHERS = "preferred", "others"

Rows = list[dict[str, Any]]


def configured(count: int, seed: int) -> Rows:
    """Mean waits, with the setting and without it."""
    ONE, TWO, _ = MACHINES
    preferred = {each.name for each in ONE.models[::EVERY]}
    first = f"priority 1 for every {EVERY}rd model"
    of_priority = _compared(ONE, "zipf", count, seed, preferred, lambda model: _first(model, preferred))
    several = _compared(TWO, "bursts", count, seed, set(), lambda model: replace(model, replicas=Replicas(1, 2)))
    return [{"setting": first, "seed": seed, **row} for row in of_priority] + [
        {"setting": "up to two replicas of each model", "seed": seed, **row} for row in several
    ]


def _first(model: Model, preferred: set[str]) -> Model:
    return replace(model, priority=int(model.name in preferred))


def _compared(
    machine: Machine, kind: str, count: int, seed: int, preferred: set[str], change: Callable[[Model], Model]
) -> Rows:
    """A row for the requests for preferred models, if there are any, and one for the others."""
    requests = tuple(_named(each, preferred) for each in trace(kind, machine, LOAD, count, seed))
    plain, changed = Ours(machine, requests).run(), Ours(machine, requests, configured=change).run()
    return [
        {
            "requests": name,
            "mean_wait_s": round(statistics.fmean(changed.waits_of[name]), 2),
            "mean_wait_without_s": round(statistics.fmean(plain.waits_of[name]), 2),
        }
        for name in (PREFERRED, OTHERS)
        if plain.waits_of[name]
    ]


def _named(request: Request, preferred: set[str]) -> Request:
    return replace(request, client=PREFERRED if request.subject.name in preferred else OTHERS)

"""Demand: how often each model is asked for, and how long its load takes. What it is worth to keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp

from app.entities.model import Model
from app.use_cases.placement.victims import LOAD_BYTES_PER_SECOND

RATE_SECONDS = 300.0  # a request counts less and less for so long
START_SECONDS = 1.0  # no load takes less


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one model. `rate` is as of `at`, and falls from then on."""

    rate: float = 0.0  # requests a second
    at: float = 0.0
    load_seconds: float | None = None  # of its last load

    def rate_at(self, now: float) -> float:
        return self.rate * exp(min(0.0, self.at - now) / RATE_SECONDS)


NONE = Demand()
Demands = Mapping[str, Demand]  # by model name


def asked_for(demands: Demands, name: str, now: float) -> Demands:
    """With one more request."""
    before = demands.get(name, NONE)
    return {**demands, name: Demand(before.rate_at(now) + 1 / RATE_SECONDS, now, before.load_seconds)}


def loaded(demands: Demands, name: str, seconds: float) -> Demands:
    """With the time that a load took."""
    return {**demands, name: replace(demands.get(name, NONE), load_seconds=seconds)}


def load_seconds(demands: Demands, model: Model) -> float:
    """As its last load, or as its size suggests."""
    known = demands.get(model.name)
    measured = known.load_seconds if known is not None else None
    return max(START_SECONDS, model.size_bytes / LOAD_BYTES_PER_SECOND if measured is None else measured)


def rate(demands: Demands, model: Model, now: float) -> float:
    return demands[model.name].rate_at(now) if model.name in demands else 0.0

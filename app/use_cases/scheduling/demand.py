"""Demand: how often each model is requested and how long it takes to load; together, what evicting it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp

from app.entities.model import Model
from app.use_cases.placement.victims import LOAD_BYTES_PER_SECOND

RATE_DECAY_SECONDS = 300.0  # time constant: after this long a request counts 1/e of a new one
MIN_LOAD_SECONDS = 1.0  # no load takes less


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand for one model. `rate` is as of `at` and decays from then on."""

    rate: float = 0.0  # requests per second
    at: float = 0.0
    load_seconds: float | None = None  # of its last load

    def rate_at(self, now: float) -> float:
        return self.rate * exp(min(0.0, self.at - now) / RATE_DECAY_SECONDS)


NO_DEMAND = Demand()
Demands = Mapping[str, Demand]  # by model name


def with_request(demands: Demands, name: str, now: float) -> Demands:
    """The demands after one more request for the model called `name`."""
    before = demands.get(name, NO_DEMAND)
    return {**demands, name: Demand(before.rate_at(now) + 1 / RATE_DECAY_SECONDS, now, before.load_seconds)}


def with_load_seconds(demands: Demands, name: str, seconds: float) -> Demands:
    """The demands after a load of the model called `name` that took so long."""
    return {**demands, name: replace(demands.get(name, NO_DEMAND), load_seconds=seconds)}


def expected_load_seconds(demands: Demands, model: Model) -> float:
    """How long the model's last load took; if it was never loaded, an estimate from its size."""
    measured = measured_load_seconds(demands, model)
    return max(MIN_LOAD_SECONDS, model.size_bytes / LOAD_BYTES_PER_SECOND) if measured is None else measured


def measured_load_seconds(demands: Demands, model: Model) -> float | None:
    """How long the model's last load took; None if it was never loaded."""
    known = demands.get(model.name)
    return None if known is None or known.load_seconds is None else max(MIN_LOAD_SECONDS, known.load_seconds)


def request_rate(demands: Demands, model: Model, now: float) -> float:
    """Requests per second for the model, averaged over the last RATE_DECAY_SECONDS or so."""
    return demands[model.name].rate_at(now) if model.name in demands else 0.0

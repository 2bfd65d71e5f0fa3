"""Ports of the plans, which tell where models would be placed without loading them, and of the pins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.entities.model import Model
from app.entities.placement import Decision
from app.use_cases.reporting.plans import Plan


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """The decision about one model."""

    decision: Decision
    evict: tuple[str, ...]  # model names of the victims
    machine: Mapping[str, object]  # the GPUs and the RAM that it saw
    elapsed_ms: float


class ModelPlans(Protocol):
    """What would be decided about models now (workers.pool.plans.Plans). Loads nothing and wakes no GPU."""

    def of(self, models: Sequence[Model]) -> Mapping[str, Plan]:
        """Plans by name, as far as they are known after a bounded time. Some may be a few seconds old."""

    def plan(self, model: Model, typed: Mapping[str, Any]) -> PlanAnswer:
        """The decision with options in place of the model's settings. Raises InvalidRequest for options that exclude
        each other, and the ProxyError of a model that cannot be served."""


class Pins(Protocol):
    """Pins models by order (workers.pool.pinning.Pinning)."""

    def pin(self, model: Model) -> None:
        """Pin it until the service restarts, or a reload finds it changed. Raises ModelDoesNotFit if it does not fit
        the machine together with the other pinned models, and the ProxyError of a model that cannot be served."""

    def unpin(self, model: Model) -> None:
        """It may be evicted and unloaded again, even if its settings pin it."""

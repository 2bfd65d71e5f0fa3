"""Play for counters: a history of events whose steps are counted, and the registry that has the counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry

from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import PoolState
from tests.helpers.builders import Play


class StepCounts(Protocol):
    def count_step(self, before: PoolState, event: ev.Event, effects: Sequence[Effect]) -> None: ...


class CountedPlay(Play):
    """`counts` makes what counts the steps, in a registry of its own."""

    def __init__(self, counts: Callable[[CollectorRegistry], StepCounts], **limits: float) -> None:
        super().__init__(SchedulingLimits(**limits), total_gib=16)
        self.registry = CollectorRegistry()
        self.counts = counts(self.registry)

    def stepped(self, before: PoolState, event: ev.Event) -> list[Effect]:
        effects = super().stepped(before, event)
        self.counts.count_step(before, event, effects)
        return effects

"""DecisionRecord: what is remembered of a placement decision."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.launch import OwnEngine
from app.entities.placement import Decision, Outcome

MAX_RECORDS = 200  # past decisions that are kept


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One past decision."""

    at: float  # Unix seconds
    model: str
    decision: Decision
    evict: tuple[str, ...]  # models whose servers were evicted for it
    elapsed_ms: float  # duration of the scheduler's whole step
    gpus_age_seconds: float  # age of the GPU reading it was based on
    evict_idle_seconds: tuple[float | None, ...] = ()  # of those servers; None: not idle
    engine: OwnEngine | None = None  # of the model, if it has one of its own

    def repeats(self, before: DecisionRecord) -> bool:
        """Whether this is the same WAIT as `before`: the load is still waiting for the same reason."""
        return self.decision.outcome is Outcome.WAIT and self._key == before._key

    @property
    def _key(self) -> tuple[object, ...]:
        return self.model, self.decision.outcome, self.decision.reason, self.decision.evict

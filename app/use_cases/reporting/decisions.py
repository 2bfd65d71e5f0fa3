"""Decisions as people and programs read them: what was asked, what was found, what was chosen, who left for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.entities.placement import CPU, Decision, Outcome, Placement

MAX_RECORDS = 200
ITEMS = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes", "total_bytes")


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision of the past."""

    at: float  # Unix seconds
    model: str
    decision: Decision
    evict: tuple[str, ...]  # names of the servers that left for it
    elapsed_ms: float  # of the scheduler's whole step
    gpus_age_seconds: float  # of the reading it was made on

    def repeats(self, before: DecisionRecord) -> bool:
        """Whether a load merely goes on waiting."""
        return self.decision.outcome is Outcome.WAIT and self._said == before._said

    @property
    def _said(self) -> tuple[object, ...]:
        return self.model, self.decision.outcome, self.decision.reason, self.decision.evict


def decision_list(decisions: Iterable[DecisionRecord]) -> dict[str, object]:
    """The body of /decisions, the newest first."""
    return {"decisions": [_explained(each) for each in reversed(tuple(decisions))]}


def last_decision(decisions: Iterable[DecisionRecord], model: str) -> dict[str, object] | None:
    return next((_explained(each) for each in reversed(tuple(decisions)) if each.model == model), None)


def decision_json(decision: Decision, evict: Iterable[str]) -> dict[str, object]:
    """As `plan` prints it."""
    told: dict[str, object] = {
        "outcome": str(decision.outcome),
        "placement": placement_json(decision.placement) if decision.placement else None,
        "evict": list(evict),
        "reason": decision.reason,
        "needed_bytes": decision.needed_bytes,
    }
    return told | {"nearest": nearest} if (nearest := decision.suggestion) else told


def placement_json(placement: Placement) -> dict[str, object]:
    """The devices in the order the server sees them, with what each takes; CPU for RAM alone."""
    on_gpus = zip(placement.uuids, placement.layers, placement.estimate.devices, strict=False)
    devices = [(CPU, 0, placement.estimate.host)] if placement.is_on_cpu else on_gpus
    return {
        "devices": [
            {"uuid": uuid, "layers": layers} | {item: getattr(memory, item) for item in ITEMS}
            for uuid, layers, memory in devices
        ],
        "tensor_split": list(placement.tensor_split),
        "n_gpu_layers": placement.n_gpu_layers,
        "ctx_size": placement.ctx_size,
    }


def estimate_json(placement: Placement) -> dict[str, object]:
    """The estimate that a server was placed by, in the items of `estimate`."""
    estimate = placement.estimate
    return {
        "devices": [{item: getattr(each, item) for item in ITEMS} for each in estimate.devices],
        "host": {item: getattr(estimate.host, item) for item in ITEMS[:3]},
        "confidence": str(estimate.confidence),
        "notes": list(estimate.notes),
    }


def _explained(each: DecisionRecord) -> dict[str, object]:
    decision = each.decision
    return {
        "at": round(each.at, 3),
        "model": each.model,
        **decision_json(decision, each.evict),
        "considered": list(decision.considered),
        "free_bytes": dict(decision.free_bytes),
        "elapsed_ms": round(each.elapsed_ms, 3),
        "gpus_age_seconds": round(each.gpus_age_seconds, 3),
    }

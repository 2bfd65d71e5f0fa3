"""Placement decisions as JSON."""

from __future__ import annotations

from collections.abc import Iterable

from app.entities.placement import CPU, Decision, Placement
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.decision_text import decision_text

ITEMS = ("weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes", "total_bytes")


def decision_list(decisions: Iterable[DecisionRecord]) -> dict[str, object]:
    """The body of /decisions, newest first."""
    return {"decisions": [_record_json(record) for record in reversed(tuple(decisions))]}


def last_decision(decisions: Iterable[DecisionRecord], model: str) -> dict[str, object] | None:
    """The most recent record about this model; None if there is none."""
    return next((_record_json(record) for record in reversed(tuple(decisions)) if record.model == model), None)


def decision_json(decision: Decision, evict: Iterable[str]) -> dict[str, object]:
    """As `plan` prints it; `evict` names the models to evict."""
    result: dict[str, object] = {
        "outcome": str(decision.outcome),
        "placement": placement_json(decision.placement) if decision.placement else None,
        "evict": list(evict),
        "reason": decision.reason,
        "needed_bytes": decision.needed_bytes,
    }
    if decision.shorter_ctx_size:
        result["shorter_ctx_size"] = decision.shorter_ctx_size
    return result | {"nearest": suggestion} if (suggestion := decision.suggestion) else result


def placement_json(placement: Placement) -> dict[str, object]:
    """Devices in the server's order with the bytes each needs; a single device `cpu` without GPUs."""
    on_gpus = zip(placement.uuids, placement.layers, placement.estimate.devices, strict=False)
    devices = [(CPU, 0, placement.estimate.host)] if placement.is_on_cpu else on_gpus
    return {
        "device": placement.device,
        "devices": [
            {"uuid": uuid, "layers": layers} | {item: getattr(memory, item) for item in ITEMS}
            for uuid, layers, memory in devices
        ],
        "tensor_split": list(placement.tensor_split),
        "n_gpu_layers": placement.n_gpu_layers,
        "prompt_cache_bytes": placement.prompt_cache_bytes,
        **context_json(placement),
    }


def context_json(placement: Placement) -> dict[str, int]:
    """The context, and the one it would have if nobody else held memory, where it is shorter than that."""
    full = {"full_ctx_size": placement.full_ctx_size} if placement.full_ctx_size else {}
    return {"ctx_size": placement.ctx_size} | full


def estimate_json(placement: Placement) -> dict[str, object]:
    """The estimate a server was placed by, with the items of the `estimate` command."""
    estimate = placement.estimate
    return {
        "devices": [{item: getattr(device, item) for item in ITEMS} for device in estimate.devices],
        "host": {item: getattr(estimate.host, item) for item in (*ITEMS[:3], "prompt_cache_bytes")},
        "confidence": str(estimate.confidence),
        "notes": list(estimate.notes),
    }


def _record_json(record: DecisionRecord) -> dict[str, object]:
    decision = record.decision
    return {
        "at": round(record.at, 3),
        "model": record.model,
        **({"engine": str(record.engine)} if record.engine else {}),
        "text": decision_text(record),
        **decision_json(decision, record.evict),
        "considered": list(decision.considered),
        "free_bytes": dict(decision.free_bytes),
        "elapsed_ms": round(record.elapsed_ms, 3),
        "gpus_age_seconds": round(record.gpus_age_seconds, 3),
    }

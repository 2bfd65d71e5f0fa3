"""Past decisions in plain words."""

from __future__ import annotations

from itertools import zip_longest

from app.entities.launch import ALL_LAYERS
from app.entities.placement import CPU, Decision, Outcome, Placement
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.phrases import duration_text, gib_text, place_text


def decision_text(record: DecisionRecord) -> str:
    """For example "qwen3-8b on GPU 1: needs 7.9 GiB, 11.2 GiB free; evicted phi-4, idle 6 min".

    What the record does not have is left out.
    """
    decision, model = record.decision, record.model
    match decision.outcome:
        case Outcome.PLACE | Outcome.EVICT if decision.placement:
            return f"{model} on {_placed(decision, decision.placement)}{_evicted(record)}"
        case Outcome.WAIT:
            return f"{model} waits{_awaited(decision.reason)}{_drained(record)}"
        case Outcome.REFUSE:
            return f"{model} {'can never be loaded' if decision.is_permanent else 'refused'}: {decision.reason}"
        case Outcome.STOP:
            return f"{model} stopped: {decision.reason}"
    return f"{model}: {decision.reason}"


def _placed(decision: Decision, placement: Placement) -> str:
    free = [size for device, size in decision.free_bytes.items() if device in placement.uuids]
    memory = " of RAM" if placement.is_on_cpu else ""
    needed = f"needs {gib_text(placement.needed_bytes)}{memory}"
    shorter = f"; context {placement.ctx_size:,} instead of {placement.full_ctx_size:,}"
    return (
        f"{place_text(placement)}: {needed}"
        + (f", {gib_text(sum(free))} free" if free else "")
        + (f" and {gib_text(in_ram)} of RAM" if (in_ram := _part_in_ram(placement)) else "")
        + (shorter if placement.full_ctx_size else "")
    )


def _part_in_ram(placement: Placement) -> int:
    """Bytes in RAM of a model that has a part of its weights there on purpose; 0 for any other."""
    is_partial = placement.n_cpu_moe or 0 < placement.n_gpu_layers < ALL_LAYERS
    return placement.booked_bytes[CPU] if is_partial else 0


def _evicted(record: DecisionRecord) -> str:
    victims = [
        f"{name}, idle {duration_text(seconds)}" if seconds is not None else name
        for name, seconds in zip_longest(record.evict, record.evict_idle_seconds[: len(record.evict)])
    ]
    return f"; evicted {'; '.join(victims)}" if victims else ""


def _drained(record: DecisionRecord) -> str:
    return f"; asked to finish: {', '.join(record.evict)}" if record.evict else ""


def _awaited(reason: str) -> str:
    """The reason of a wait after the word "waits"."""
    awaited = reason.removeprefix("waiting ")
    return f": {reason}" if awaited == reason else f" {awaited}"

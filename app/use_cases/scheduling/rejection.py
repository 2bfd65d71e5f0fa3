"""Why a load gets no place, as its requests are told."""

from __future__ import annotations

from app.entities.placement import CPU, Card, Decision
from app.entities.refusal import Reason, Refusal
from app.use_cases.placement.cards import allowed
from app.use_cases.placement.ledger import Books
from app.use_cases.placement.usable_gpus import why_no_place
from app.use_cases.scheduling.pool_state import PoolState, Waiter


def no_place(state: PoolState, waiting: Waiter, now: float) -> str:
    """A model that is to have no layers on GPUs misses none."""
    if waiting.placement_request is not None and not waiting.placement_request.options.n_gpu_layers:
        return ""
    return why_no_place(state.gpus.as_of(now), state.limits.cpu_fallback)


def refusal(state: PoolState, waiting: Waiter, decision: Decision) -> Refusal:
    model = waiting.model.name
    if decision.for_ever and _misses_gpus(state, waiting):  # with them it might fit
        why = "; ".join((decision.reason, *state.gpus.complaints))
        return Refusal(Reason.NO_GPU, model, why, decision.needed_bytes, decision.free_bytes)
    if decision.for_ever:
        had = _had(state, decision)
        return Refusal(Reason.DOES_NOT_FIT, model, decision.reason, decision.needed_bytes, had, decision.advise)
    free = decision.free_bytes
    return Refusal(Reason.INSUFFICIENT_MEMORY, model, decision.reason, decision.needed_bytes, free, decision.advise)


def _misses_gpus(state: PoolState, waiting: Waiter) -> bool:
    """Whether GPUs are missing that it might use."""
    if waiting.placement_request is None or not waiting.placement_request.options.n_gpu_layers:
        return False
    missing = (Card(gpu.uuid, gpu.name, gpu.index, 0, 0) for gpu in state.gpus.missing)
    return bool(allowed(missing, waiting.placement_request.constraints))


def _had(state: PoolState, decision: Decision) -> dict[str, int]:
    """What may be had of an empty machine, where the decision says what is free."""
    assert state.memory is not None
    books = Books(state.gpus, state.memory, (), state.limits.rules)
    totals = {card.uuid: card.total_bytes for card in books.cards()} | {CPU: state.memory.total_bytes}
    return {device: totals[device] for device in decision.free_bytes}

"""Why a load gets no place, as its requests are told."""

from __future__ import annotations

from app.entities.placement import CPU, Card, Decision
from app.entities.refusal import Reason, Refusal
from app.use_cases.placement.cards import allowed_cards
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.usable_gpus import unplaceable_reason
from app.use_cases.scheduling.pool_state import PoolState, Waiter


def gpu_problem(state: PoolState, waiter: Waiter, now: float) -> str:
    """A model that is to have no layers on GPUs misses none."""
    if waiter.placement_request is not None and not waiter.placement_request.options.n_gpu_layers:
        return ""
    return unplaceable_reason(state.gpus.as_of(now), state.limits.cpu_fallback)


def refusal_for(state: PoolState, waiter: Waiter, decision: Decision) -> Refusal:
    model = waiter.model.name
    if decision.is_permanent and _misses_gpus(state, waiter):  # with them it might fit
        why = "; ".join((decision.reason, *state.gpus.problems))
        return Refusal(Reason.NO_GPU, model, why, decision.needed_bytes, decision.free_bytes)
    if decision.is_permanent:
        had = _had(state, decision)
        return Refusal(Reason.DOES_NOT_FIT, model, decision.reason, decision.needed_bytes, had, decision.suggest)
    free = decision.free_bytes
    return Refusal(Reason.INSUFFICIENT_MEMORY, model, decision.reason, decision.needed_bytes, free, decision.suggest)


def _misses_gpus(state: PoolState, waiter: Waiter) -> bool:
    """Whether GPUs are missing that it might use."""
    if waiter.placement_request is None or not waiter.placement_request.options.n_gpu_layers:
        return False
    missing = (Card(gpu.uuid, gpu.name, gpu.index, 0, 0) for gpu in state.gpus.missing)
    return bool(allowed_cards(missing, waiter.placement_request.constraints))


def _had(state: PoolState, decision: Decision) -> dict[str, int]:
    """What may be had of an empty machine, where the decision says what is free."""
    assert state.memory is not None
    ledger = Ledger(state.gpus, state.memory, (), state.limits.gpu_limits)
    totals = {card.uuid: card.total_bytes for card in ledger.cards()} | {CPU: state.memory.total_bytes}
    return {device: totals[device] for device in decision.free_bytes}

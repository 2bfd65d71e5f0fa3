"""Rejection: why a model cannot be placed, as the refusal of its requests says it."""

from __future__ import annotations

from app.entities.gpu import GpuSnapshot, GpuState, NamedGpu
from app.entities.placement import CPU, Decision, PlacementConstraints
from app.entities.refusal import Reason, Refusal
from app.use_cases.placement.cards import allowed_cards, matches_any
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.usable_gpus import unplaceable_reason
from app.use_cases.scheduling.card_failures import next_try_seconds
from app.use_cases.scheduling.pool_state import PoolState, Waiter


def gpu_problem(state: PoolState, waiter: Waiter, now: float) -> str:
    """Why no model can be placed before the GPUs are back; empty if they are, or if this model uses none."""
    if waiter.placement_request is not None and not waiter.placement_request.options.n_gpu_layers:
        return ""
    gpus = state.gpus.seen_by(waiter.model.launch.engine).as_of(now)
    return unplaceable_reason(gpus, state.limits.cpu_fallback)


def no_gpu(state: PoolState, model: str, problem: str, now: float) -> Refusal:
    """The refusal for this problem of the GPUs. A card that is set aside is tried again at a known time."""
    seconds = next_try_seconds(state.card_failures, now)
    return Refusal(Reason.NO_GPU, model, problem, retry_after_seconds=seconds)


def refusal_for(state: PoolState, waiter: Waiter, decision: Decision, now: float) -> Refusal:
    """The refusal that a decision with the outcome REFUSE means for its requests."""
    model, gpus = waiter.model.name, state.gpus.seen_by(waiter.model.launch.engine).as_of(now)
    if decision.is_permanent and _lacks_missing_gpus(gpus, waiter):  # with them it might fit
        reason = "; ".join((decision.reason, *gpus.problems))
        return Refusal(Reason.NO_GPU, model, reason, decision.needed_bytes, decision.free_bytes)
    if decision.is_permanent:
        capacity = _capacity_bytes(state, decision)
        return Refusal(Reason.DOES_NOT_FIT, model, decision.reason, decision.needed_bytes, capacity, decision.suggest)
    free = decision.free_bytes
    return Refusal(Reason.INSUFFICIENT_MEMORY, model, decision.reason, decision.needed_bytes, free, decision.suggest)


def _lacks_missing_gpus(gpus: GpuSnapshot, waiter: Waiter) -> bool:
    """Whether GPUs are missing that this model may use. All are while NVML is hung or lost (`cpu_fallback`)."""
    if waiter.placement_request is None or not waiter.placement_request.options.n_gpu_layers:
        return False
    constraints = waiter.placement_request.constraints
    if not gpus.gpus or gpus.state is GpuState.HUNG:
        return bool(gpus.problems) and not gpus.engine_problem
    return bool(allowed_cards(gpus.missing, constraints)) or _may_name_unread_gpu(gpus, constraints)


def _may_name_unread_gpu(gpus: GpuSnapshot, constraints: PlacementConstraints) -> bool:
    """Whether `gpus` may name a GPU that failed before the service started: its UUID and product name are unknown."""
    unread = [gpu for gpu in gpus.missing if not gpu.uuid and not matches_any(gpu, constraints.exclude)]
    others: list[NamedGpu] = [*gpus.gpus, *(gpu for gpu in gpus.missing if gpu.uuid)]
    of_others = {name for gpu in others for name in (gpu.uuid, str(gpu.index))}
    return bool(unread) and not of_others.issuperset(constraints.gpus)


def _capacity_bytes(state: PoolState, decision: Decision) -> dict[str, int]:
    """What an empty machine would have on the devices of the decision."""
    assert state.memory is not None
    ledger = Ledger(state.gpus, state.memory, (), state.limits.gpu_limits)
    totals = {card.uuid: card.total_bytes for card in ledger.cards()} | {CPU: ledger.shared_totals()[CPU]}
    return {device: totals[device] for device in decision.free_bytes}

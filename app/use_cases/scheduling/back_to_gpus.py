"""Back to GPUs: models that are on the CPU only because no GPU could be used when they were loaded.

Such a server is stopped once it is idle and its model would be placed on a GPU at once, without evicting another; the
next request loads it there. One that was placed on the CPU because the GPUs were full stays: that was chosen
(`cpu_fallback: when_full`), and GPUs are full again and again. Neither does it return to a card on which loads failed
just before: that would be a loop of loads.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from app.entities.placement import Outcome
from app.entities.server import Server
from app.use_cases.placement.placement import decide
from app.use_cases.placement.world import World
from app.use_cases.scheduling.card_failures import cards_in_doubt
from app.use_cases.scheduling.decision_inputs import current_world, request_with_margin
from app.use_cases.scheduling.effects import StopReason
from app.use_cases.scheduling.pool_state import STOPPING, Awaited, PoolState, Step, Waiter, stop_server


def leave_cpu(state: PoolState, now: float) -> Step:
    """Stop one server that is on the CPU without need."""
    stranded = [server for server in state.servers if server.gpu_problem and server.is_idle and server.is_empty]
    if not stranded or not _is_quiet(state) or not state.gpus.as_of(now).has_usable_gpu:
        return state, []
    for server in stranded:
        if _has_place_on_gpu(state, server, now):
            detail = f"when it was loaded, {server.gpu_problem}"
            return stop_server(state, server, StopReason.GPU_USABLE, detail)
    return state, []


def _is_quiet(state: PoolState) -> bool:
    """Whether no load waits and no memory is being released: what is free belongs to nobody else."""
    is_stopping = any(server.state is STOPPING for server in state.servers)
    return state.memory is not None and not (is_stopping or state.releasing or state.has_waiting_load)


def _has_place_on_gpu(state: PoolState, server: Server, now: float) -> bool:
    load = Waiter(0, server.model, now, inf, Awaited.LOADED, state.placement_requests[server.id])
    decision = decide(request_with_margin(state, load), _world_without(state, server, now))
    return decision.outcome is Outcome.PLACE and decision.placement is not None and not decision.placement.is_on_cpu


def _world_without(state: PoolState, server: Server, now: float) -> World:
    world, doubtful = current_world(state, now), cards_in_doubt(state.card_failures, now)
    world = world.after_eviction([each for each in world.residents if each.id == server.id])
    return replace(world, cards=tuple(card for card in world.cards if card.uuid not in doubtful))

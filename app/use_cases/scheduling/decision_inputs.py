"""Decision inputs: the machine and the request, as placement decisions see them."""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.placement import CPU, UNBOOKED_RAM, Decision, Outcome, Resident
from app.entities.server import Server
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import NO_MARGIN, PlacementRequest
from app.use_cases.placement.world import World, world_of
from app.use_cases.scheduling.card_failures import cards_tried
from app.use_cases.scheduling.demand import expected_load_seconds, request_rate
from app.use_cases.scheduling.evaluation import Facts, server_states
from app.use_cases.scheduling.fairness import is_abandoned_load
from app.use_cases.scheduling.load_balancing import is_surplus
from app.use_cases.scheduling.other_processes import absent_cards, taken_bytes
from app.use_cases.scheduling.pin_orders import is_pinned
from app.use_cases.scheduling.pool_state import PoolState, Waiter


def request_with_margin(state: PoolState, waiter: Waiter) -> PlacementRequest:
    """The waiter's request, plus what earlier starts of its model were seen to need beyond their estimate."""
    assert waiter.placement_request is not None, "a request that needs a server says what the model needs"
    name, request = waiter.model.name, waiter.placement_request
    for margins in (state.learned_margins, state.runtime_margins):
        request = request.with_margin(margins.get(name, NO_MARGIN))
    return request.without_spare_cache() if state.restarts else request  # that RAM is for the servers to start again


def decide_load(state: PoolState, waiter: Waiter, world: World) -> Decision:
    """On other GPUs than those on which the model's last load failed, if there are any for it."""
    request = request_with_margin(state, waiter)
    elsewhere = request_elsewhere(state, request, waiter.model.name)
    decision = decide(elsewhere, world)
    return decide(request, world) if elsewhere is not request and decision.outcome is Outcome.REFUSE else decision


def request_elsewhere(state: PoolState, request: PlacementRequest, model: str) -> PlacementRequest:
    """The request, without the GPUs on which the model's last load failed."""
    tried = cards_tried(state.card_failures, model)
    if not tried:
        return request
    constraints = replace(request.constraints, exclude=(*request.constraints.exclude, *sorted(tried)))
    return replace(request, constraints=constraints)


def current_ledger(state: PoolState) -> Ledger:
    assert state.memory is not None, "decisions are made on readings"
    limits = state.limits
    return Ledger(state.gpus, state.memory, state.servers, limits.gpu_limits, state.releasing, limits.max_loaded)


def spare_ram_bytes(state: PoolState) -> int:
    """RAM that is available and that no server has booked; 0 if it was not read."""
    if state.memory is None:
        return 0
    free = current_ledger(state).shared_free()
    return max(0, min(free[CPU], free[UNBOOKED_RAM]))


def current_facts(state: PoolState, now: float) -> Facts:
    loaded = {server.model.name for server in state.servers}
    return Facts(
        servers=server_states(state.servers),
        awaited_models=frozenset(waiter.model.name for waiter in state.waiting_for_server) & loaded,
        has_gpus=state.gpus.as_of(now).has_usable_gpu,
        memory=current_ledger(state).fingerprint() if state.memory else (),
    )


def busy_servers(state: PoolState) -> frozenset[int]:
    return frozenset(server.id for server in state.servers if server.leases or server.abandoned_slots)


def current_world(state: PoolState, now: float) -> World:
    """The machine by the last readings and the ledger, without what evicting its servers would cost."""
    world = world_of(current_ledger(state), state.limits.policy, now, uses_gpus=state.gpus.as_of(now).has_usable_gpu)
    return replace(world, absent=absent_cards(state, world.cards), taken=taken_bytes(state, now))


def world_with_eviction_costs(state: PoolState, now: float) -> World:
    world = current_world(state, now)
    servers = {server.id: server for server in state.servers}
    residents = (_with_eviction_cost(state, resident, servers[resident.id], now) for resident in world.residents)
    return replace(world, residents=tuple(residents))


def _with_eviction_cost(state: PoolState, resident: Resident, server: Server, now: float) -> Resident:
    """A surplus replica is evicted first, even if its model is pinned and while it loads."""
    ready_at = now if server.ready_at is None else server.ready_at
    surplus, abandoned = is_surplus(state, server), is_abandoned_load(state, server, now)
    return replace(
        resident,
        is_pinned=is_pinned(state.pin_orders, server.model) and not surplus,
        is_surplus=surplus or abandoned,
        is_loading=resident.is_loading and not (surplus or abandoned),
        priority=server.model.priority,
        is_in_min_residency=now < ready_at + state.limits.min_residency_seconds,
        requests_per_second=request_rate(state.demands, server.model, now),
        load_seconds=expected_load_seconds(state.demands, server.model),
    )

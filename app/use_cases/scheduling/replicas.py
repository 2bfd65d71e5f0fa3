"""Replicas: further servers of a loaded model.

A model gets replicas until it has `min`, and more while requests wait for a slot, up to `max`. A replica only ever
uses free memory: nothing is evicted, drained or rejected for it, and none is started while a load waits or memory is
being released. It goes to other GPUs than the model's servers if they have enough memory, with the context and the
layers of the first server. Replicas start one at a time, and only while all servers of the model are ready: so it is
known that the model can be loaded and what it needs, and a server that is stopping is never doubled. Without a place,
one is looked for again when servers start or end, or every RETRY_SECONDS if the readings have changed. A replica that
fails rejects no request; it counts for the backoff.
"""

from __future__ import annotations

from math import inf

from app.entities.frozen import replace
from app.entities.model import Model
from app.entities.placement import Decision, Outcome, Placement
from app.entities.server import Server
from app.use_cases.placement.placement import decide
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.scheduling import readings
from app.use_cases.scheduling.backoff import backoff_until
from app.use_cases.scheduling.decision_inputs import (
    current_facts,
    current_world,
    request_elsewhere,
    request_with_margin,
)
from app.use_cases.scheduling.demand import expected_load_seconds
from app.use_cases.scheduling.effects import Decided, Effect
from app.use_cases.scheduling.evaluation import Evaluation, server_states
from app.use_cases.scheduling.pool_state import READY, STOPPING, Awaited, PoolState, Step, Waiter, start_server
from app.use_cases.scheduling.rebook import reported_excess

# A queue that has lasted as long as a load takes is likely to last until the replica is ready, and has by then cost as
# much as starting it at once would have. Below two seconds it is a burst; for loads of minutes the wait is bounded.
MIN_QUEUE_SECONDS, MAX_QUEUE_SECONDS = 2.0, 30.0
RETRY_SECONDS = 10.0  # between two searches for a place among the same servers: other processes come and go
NO_TICKET = 0  # of the waiter that stands for a replica


def add_replicas(state: PoolState, now: float) -> Step:
    """Start another server for each model that wants one and has a place for it."""
    last = _last_evaluation(state)
    if not state.saturated_since and last is None and not any(s.model.replicas.max > 1 for s in state.servers):
        return state, []
    state = _note_saturation(readings.note_elapsed_time(state, now), now)
    models = _oldest_servers_of_wanted(state, now)
    if not models:
        return state if last is None else replace(state, evaluation=None), []
    if not _is_quiet(state):
        return state, []
    names = tuple(server.model.name for server in models)
    if last is None or (last.replicas, last.facts.servers) != (names, server_states(state.servers)):
        return _search(replace(state, evaluation=_new_search(state, names, (), now)), models, now, is_new=True)
    if now >= last.repeat_at:
        search = _new_search(state, names, last.facts.memory, now)
        return _search(replace(state, evaluation=search), models, now, is_new=True)
    return _search(state, models, now, is_new=False) if last.awaits_readings else (state, [])


def replica_due_times(state: PoolState) -> list[float]:
    """When time alone is a reason to look for a place for a replica."""
    if not _is_quiet(state):
        return []
    last = _last_evaluation(state)
    known = last.replicas if last else ()
    wanted = (_wanted_at(state, server) for server in _oldest_servers(state) if server.model.name not in known)
    return [*(at for at in wanted if -inf < at < inf), *([last.repeat_at] if last else [])]


def is_below_min(state: PoolState, server: Server) -> bool:
    """Whether the server's model has fewer servers than `replicas.min`."""
    replicas = server.model.replicas
    return replicas.min > 1 and len(state.servers_of(server.model.name)) < replicas.min


def _last_evaluation(state: PoolState) -> Evaluation | None:
    """That of replicas; None if there is none, or only one of loads."""
    return state.evaluation if state.evaluation and state.evaluation.replicas else None


# --- which models want one ---------------------------------------------------------------------------------


def _note_saturation(state: PoolState, now: float) -> PoolState:
    """Note since when the servers of a model have been ready and full while requests wait."""
    names = {w.model.name for w in state.waiting if w.awaited is Awaited.SLOT and w.model.replicas.max > 1}
    saturated = {name: state.saturated_since.get(name, now) for name in names if _are_ready(state.servers_of(name))}
    return state if saturated == state.saturated_since else replace(state, saturated_since=saturated)


def _are_ready(servers: tuple[Server, ...]) -> bool:
    return bool(servers) and all(server.state is READY for server in servers)


def _oldest_servers_of_wanted(state: PoolState, now: float) -> list[Server]:
    """The oldest server of each model that wants another: saturated models first, then by priority."""
    wanted = [server for server in _oldest_servers(state) if now >= _wanted_at(state, server)]
    return sorted(wanted, key=lambda s: (s.model.name not in state.saturated_since, -s.model.priority, s.id))


def _oldest_servers(state: PoolState) -> list[Server]:
    oldest: dict[str, Server] = {}
    for server in state.servers:
        if server.model.replicas.max > 1:
            oldest.setdefault(server.model.name, server)
    return list(oldest.values())


def _wanted_at(state: PoolState, oldest: Server) -> float:
    """From when on the server's model wants another one; infinity: not as long as nothing changes."""
    model, servers = oldest.model, state.servers_of(oldest.model.name)
    if state.draining or len(servers) >= model.replicas.max or not _are_ready(servers):
        return inf
    at = -inf if is_below_min(state, oldest) else _queue_lasting_at(state, model)
    return max(at, backoff_until(state.backoffs, model))


def _queue_lasting_at(state: PoolState, model: Model) -> float:
    load_seconds = expected_load_seconds(state.demands, model)
    return state.saturated_since.get(model.name, inf) + min(max(MIN_QUEUE_SECONDS, load_seconds), MAX_QUEUE_SECONDS)


# --- where it is placed ------------------------------------------------------------------------------------


def _is_quiet(state: PoolState) -> bool:
    """Whether no load waits and no memory is being released: what is free belongs to nobody else."""
    return not (state.releasing or state.has_waiting_load or any(server.state is STOPPING for server in state.servers))


def _new_search(state: PoolState, names: tuple[str, ...], memory: tuple[object, ...], now: float) -> Evaluation:
    """A search that awaits readings; `memory` is what the last one was decided on, () if there was none."""
    facts = replace(current_facts(state, now), memory=memory)
    return Evaluation(facts, now, now + RETRY_SECONDS, replicas=names, awaits_readings=True)


def _search(state: PoolState, models: list[Server], now: float, is_new: bool) -> Step:
    """Look for places on fresh readings, which are requested once."""
    assert state.evaluation is not None
    load = Waiter(NO_TICKET, models[0].model, -inf, inf, Awaited.LOADED)
    if not readings.are_fresh(state, load, now):
        return readings.request_readings(state, load, now) if is_new else (state, [])
    facts, effects = current_facts(state, now), list[Effect]()
    if facts.memory == state.evaluation.facts.memory:
        return replace(state, evaluation=replace(state.evaluation, awaits_readings=False)), []
    for oldest in models:
        state, orders = _add_replica(state, oldest, now)
        effects += orders
    remaining = tuple(s.model.name for s in models if _are_ready(state.servers_of(s.model.name)))
    search = replace(_new_search(state, remaining, facts.memory, now), awaits_readings=False)
    return replace(state, evaluation=search if remaining else None), effects


def _add_replica(state: PoolState, oldest: Server, now: float) -> Step:
    """Start a server if there is a free place for it; either way the decision is recorded."""
    model, request = oldest.model, state.placement_requests[oldest.id]
    load = Waiter(NO_TICKET, model, now, inf, Awaited.LOADED, request)
    request = request_elsewhere(state, request_with_margin(state, load), model.name)
    request = _matching(request.with_margin(reported_excess(oldest)), oldest.placement)
    decision = _decide(state, request, oldest, now)
    number = f"server {len(state.servers_of(model.name)) + 1} of {model.replicas.max}"
    place = _place(decision, oldest)
    if place is None:
        reason = f"{number}: not enough free memory, and nothing is evicted for a replica"
        needed, free = decision.needed_bytes, decision.free_bytes
        waits = Decision(Outcome.WAIT, reason, needed, free_bytes=free, considered=decision.considered)
        return state, [Decided(model.name, waits, ())]
    place = replace(place, full_ctx_size=oldest.placement.full_ctx_size)
    state, effects = start_server(state, load, place, now)
    return state, [Decided(model.name, replace(decision, reason=f"{number}: {decision.reason}"), ()), *effects]


def _decide(state: PoolState, request: PlacementRequest, oldest: Server, now: float) -> Decision:
    """As for any load, except that nothing can be evicted; on GPUs of the model's own servers only if no others have
    enough memory: two servers on one GPU are no faster than one."""
    world = replace(current_world(state, now), residents=())
    used = {uuid for server in state.servers_of(oldest.model.name) for uuid in server.placement.uuids}
    if unused := tuple(card for card in world.cards if card.uuid not in used):
        decision = decide(request, replace(world, cards=unused))
        if _place(decision, oldest):
            return decision
    return decide(request, world)


def _place(decision: Decision, oldest: Server) -> Placement | None:
    """The decision's place; None if it is on the CPU and the first server is on GPUs, or the other way round."""
    place = decision.placement
    return place if place is not None and place.is_on_cpu == oldest.placement.is_on_cpu else None


def _matching(request: PlacementRequest, place: Placement) -> PlacementRequest:
    """The request with the first server's context and layers on GPUs: it must not matter which server answers."""
    options = replace(
        request.options, ctx_size=place.ctx_size, n_gpu_layers=place.n_gpu_layers, n_cpu_moe=place.n_cpu_moe
    )
    constraints = replace(
        request.constraints, has_auto_context=False, cpu_moe=False, partial_offload=False, cpu_when_full=False
    )
    return replace(request, options=options, constraints=constraints)

"""Replicas: further servers of a model that is there.

They are wanted until there are `min`, and beyond that while requests wait for a slot, up to `max`. They get memory that
is free, and nothing else: for a replica nobody is stopped, drained or refused, and while the load of another model
waits for a place, or memory is on its way back, none is started. One at a time, and only while all servers of its model
are ready: so it is known that the model can be loaded and what it needs, and it is never doubled on its way out.
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
from app.use_cases.scheduling.backoff import held_until
from app.use_cases.scheduling.demand import load_seconds
from app.use_cases.scheduling.events import Decided, Effect
from app.use_cases.scheduling.eviction import bare_world, books, request_with_lessons, spawn
from app.use_cases.scheduling.pool_state import READY, STOPPING, Awaited, PoolState, Sought, Step, Waiter
from app.use_cases.scheduling.rebook import lacked

# A queue that has lasted as long as a load would take is likely to last until the replica is there, and has cost as
# much by then as starting it at once would have. Shorter than two seconds is a burst; for loads that take minutes the
# wait has an end.
SHORTEST_QUEUE_SECONDS, LONGEST_QUEUE_SECONDS = 2.0, 30.0
AGAIN_SECONDS = 10.0  # between two looks for a place among the same servers: strangers come and go
NOBODY = 0  # the ticket of who wants a replica


def add_replicas(state: PoolState, now: float) -> Step:
    """Another server for each model that wants one and has a place for it."""
    if not state.crowded and state.sought is None and not any(s.model.replicas.max > 1 for s in state.servers):
        return state, []
    state = _with_the_crowded(readings.take_stock(state, now), now)
    lacking = _lacking(state, now)
    if not lacking:
        return state if state.sought is None else replace(state, sought=None), []
    if not _is_quiet(state):
        return state, []
    last, sought = state.sought, _sought(state, lacking, now)
    if last is None or (last.models, last.servers) != (sought.models, sought.servers):
        last = sought
    elif now >= last.again_at:
        last = replace(sought, room=last.room)
    elif last.is_decided:
        return state, []
    return _look(replace(state, sought=last), lacking, now, is_new=last is not state.sought)


def due_at(state: PoolState) -> list[float]:
    """When time alone gives a reason to look for a replica's place."""
    if not _is_quiet(state):
        return []
    known = state.sought.models if state.sought else ()
    wanted = (_wanted_at(state, server) for server in _firsts(state) if server.model.name not in known)
    return [*(at for at in wanted if -inf < at < inf), *([state.sought.again_at] if state.sought else [])]


def lacks_one(state: PoolState, server: Server) -> bool:
    """Whether its model has fewer than it is to have as long as it is loaded."""
    replicas = server.model.replicas
    return replicas.min > 1 and len(state.servers_of(server.model.name)) < replicas.min


# --- who wants one -----------------------------------------------------------------------------------------


def _with_the_crowded(state: PoolState, now: float) -> PoolState:
    """Models whose servers are all ready and full, as requests wait, and since when."""
    names = {w.model.name for w in state.waiting if w.awaited is Awaited.SLOT and w.model.replicas.max > 1}
    crowded = {name: state.crowded.get(name, now) for name in names if _are_ready(state.servers_of(name))}
    return state if crowded == state.crowded else replace(state, crowded=crowded)


def _are_ready(servers: tuple[Server, ...]) -> bool:
    return bool(servers) and all(each.state is READY for each in servers)


def _lacking(state: PoolState, now: float) -> list[Server]:
    """Of each model that wants another the oldest server: those who are waited for first, then by priority."""
    wanting = (each for each in _firsts(state) if now >= _wanted_at(state, each))
    return sorted(wanting, key=lambda each: (each.model.name not in state.crowded, -each.model.priority, each.id))


def _firsts(state: PoolState) -> list[Server]:
    first: dict[str, Server] = {}
    for server in state.servers:
        if server.model.replicas.max > 1:
            first.setdefault(server.model.name, server)
    return list(first.values())


def _wanted_at(state: PoolState, first: Server) -> float:
    """From then on its model wants another; infinity: not as things are."""
    model, ours = first.model, state.servers_of(first.model.name)
    if state.draining or len(ours) >= model.replicas.max or not _are_ready(ours):
        return inf
    at = -inf if lacks_one(state, first) else _crowded_for_long_at(state, model)
    return max(at, held_until(state.backoffs, model))


def _crowded_for_long_at(state: PoolState, model: Model) -> float:
    seconds = min(max(SHORTEST_QUEUE_SECONDS, load_seconds(state.demands, model)), LONGEST_QUEUE_SECONDS)
    return state.crowded.get(model.name, inf) + seconds


# --- where it goes -----------------------------------------------------------------------------------------


def _is_quiet(state: PoolState) -> bool:
    """Whether no load waits for a place, and nothing is on its way back: what is free is nobody's."""
    return not (state.returning or state.is_load_wanted or any(each.state is STOPPING for each in state.servers))


def _sought(state: PoolState, lacking: list[Server], now: float) -> Sought:
    servers = tuple((each.id, each.state) for each in state.servers)
    return Sought(tuple(each.model.name for each in lacking), servers, again_at=now + AGAIN_SECONDS)


def _look(state: PoolState, lacking: list[Server], now: float, is_new: bool) -> Step:
    """On fresh readings, which are asked for once."""
    assert state.sought is not None
    wish = Waiter(NOBODY, lacking[0].model, -inf, inf, Awaited.LOADED)
    if not readings.are_fresh(state, wish, now):
        return readings.ask(state, wish, now) if is_new else (state, [])
    room, effects = books(state).at_a_glance(), list[Effect]()
    if room == state.sought.room:
        return replace(state, sought=replace(state.sought, is_decided=True)), []
    for first in lacking:
        state, more = _placed(state, first, now)
        effects += more
    left = [each for each in lacking if _are_ready(state.servers_of(each.model.name))]
    sought = replace(_sought(state, left, now), room=room, is_decided=True)
    return replace(state, sought=sought if left else None), effects


def _placed(state: PoolState, first: Server, now: float) -> Step:
    """A server is started if there is a place that is free; what was found is told either way."""
    model, plan = first.model, state.plans[first.id]
    wish = Waiter(NOBODY, model, now, inf, Awaited.LOADED, plan)
    request = _alike(request_with_lessons(state, wish).but(lacked(first)), first.placement)
    found = _found(state, request, first, now)
    which = f"server {len(state.servers_of(model.name)) + 1} of {model.replicas.max}"
    place = _place(found, first)
    if place is None:
        reason = f"{which}: no room for it is free, and nothing is stopped for a replica"
        told = Decision(
            Outcome.WAIT, reason, found.needed_bytes, free_bytes=found.free_bytes, considered=found.considered
        )
        return state, [Decided(model.name, told, ())]
    state, effects = spawn(state, wish, place, now)
    return state, [Decided(model.name, replace(found, reason=f"{which}: {found.reason}"), ()), *effects]


def _found(state: PoolState, request: PlacementRequest, first: Server, now: float) -> Decision:
    """By the rules for all, as if nobody could be stopped; beside its siblings only where no other GPUs have room:
    together they would be no faster there than one."""
    world = replace(bare_world(state, now), residents=())
    taken = {uuid for each in state.servers_of(first.model.name) for uuid in each.placement.uuids}
    if others := tuple(card for card in world.cards if card.uuid not in taken):
        found = decide(request, replace(world, cards=others))
        if _place(found, first):
            return found
    return decide(request, world)


def _place(found: Decision, first: Server) -> Placement | None:
    """The one that was found; none on the CPU for a replica of one on GPUs."""
    place = found.placement
    return place if place is not None and place.is_on_cpu == first.placement.is_on_cpu else None


def _alike(request: PlacementRequest, place: Placement) -> PlacementRequest:
    """With the context and the layers on GPUs that the first one got: whichever of them answers makes no difference."""
    options = replace(
        request.options, ctx_size=place.ctx_size, n_gpu_layers=place.n_gpu_layers, n_cpu_moe=place.n_cpu_moe
    )
    constraints = replace(
        request.constraints, has_auto_context=False, cpu_moe=False, partial_offload=False, cpu_when_full=False
    )
    return replace(request, options=options, constraints=constraints)

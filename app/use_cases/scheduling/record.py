"""Record: an event's fact written into the state. What follows from it is decided by looking at the whole."""

from __future__ import annotations

from collections.abc import Mapping

from app.entities.frozen import replace
from app.entities.gpu import GpuSnapshot
from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import given_back
from app.use_cases.placement.request import Extra
from app.use_cases.scheduling import backoff, demand
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.events import Effect, Event
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    READY,
    STARTING,
    STOPPING,
    Awaited,
    Failure,
    Limits,
    PoolState,
    Step,
    Waiter,
    changed,
    stop,
    turn_away,
    turn_away_model,
)
from app.use_cases.scheduling.rebook import lacked

LESSON_BYTES = 256 * 1024**2
LESSON_SHARE = 0.05


def record(state: PoolState, event: Event) -> Step:
    """The state with the event in it, and the answers that it is in itself."""
    match event:
        case ev.Acquire(ticket, model, at, give_up_at, request, conversation):
            state = replace(state, demands=demand.asked_for(state.demands, model.name, at))
            return _wanted(state, Waiter(ticket, model, at, give_up_at, Awaited.SLOT, request, conversation)), []
        case ev.Load(ticket, model, at, give_up_at, request):
            state = replace(state, backoffs=backoff.lifted(state.backoffs, model.name))  # somebody wants to know
            return _wanted(state, Waiter(ticket, model, at, give_up_at, Awaited.LOADED, request)), []
        case ev.Unload(ticket, model, at, give_up_at):
            return _unwanted(state, Waiter(ticket, model, at, give_up_at, Awaited.UNLOADED))
        case ev.Cancel(ticket):
            left = [w for w in state.waiting if w.ticket == ticket]
            return turn_away(state, {w.ticket: Refusal(Reason.CLIENT_DISCONNECTED, w.model.name) for w in left})
        case ev.Release():
            return _released(state, event), []
        case ev.Spawned(server_id, pid):
            return changed(state, server_id, lambda s: replace(s, pid=pid)), []
        case ev.Projected(server_id, needs, at):
            return _projected(state, server_id, needs, at), []
        case ev.Measured(server_id, needs):
            return _measured(state, server_id, needs), []
        case ev.Progress(server_id, at, share):
            return changed(state, server_id, lambda s: _moved_on(s, share, at)), []
        case ev.Ready(server_id, port, at):
            return _became_ready(state, server_id, port, at), []
        case ev.SlotsCounted():
            return _slots_counted(state, event)
        case ev.Exited():
            return _exited(state, event)
        case ev.MemoryRead(memory):
            return replace(state, memory=memory, memory_asked_at=None), []
        case ev.ReadingFailed(detail):
            return _without_a_reading(state, detail)
        case ev.GpusPolled(gpus):
            return _gpus_polled(state, gpus), []
        case ev.Drain():
            return replace(state, draining=True), []
        case ev.Close():
            return replace(state, draining=True, closing=True), []
        case ev.Tick():
            return state, []


def _wanted(state: PoolState, waiting: Waiter) -> PoolState:
    """In the queue. Servers that were started for what the name meant before make way for what it means now, and who
    waits already gets a server of that."""
    for server in state.servers:
        if server.model.name != waiting.model.name:
            continue
        if server.is_up and not server.model.is_served_as(waiting.model):
            state = _condemned(state, server)
        if waiting.placement_request is not None and waiting.placement_request is state.plans.get(server.id):
            request = waiting.placement_request.but(lacked(server))  # said since it was worked out
            waiting = waiting if request is waiting.placement_request else replace(waiting, placement_request=request)
    return replace(state, waiting=(*[_meant_as(each, waiting) for each in state.waiting], waiting))


def _meant_as(earlier: Waiter, latest: Waiter) -> Waiter:
    model, meant = earlier.model, latest.model
    if model is meant or model.name != meant.name or earlier.awaited is Awaited.UNLOADED or model.is_served_as(meant):
        return earlier
    return replace(earlier, model=meant, placement_request=latest.placement_request)


def _projected(state: PoolState, server_id: int, needs: Mapping[str, int], at: float) -> PoolState:
    """Noted only; whether there is room for it is decided by looking at the whole."""
    server = state.server(server_id)
    if server is None or server.state is not STARTING:
        return state
    return changed(state, server_id, lambda s: replace(s, reported=needs, progress_at=at))


def _moved_on(server: Server, loaded_share: float | None, at: float) -> Server:
    return replace(server, progress_at=at, loaded_share=server.loaded_share if loaded_share is None else loaded_share)


def _measured(state: PoolState, server_id: int, needs: Mapping[str, int]) -> PoolState:
    """It has it all by now: booked as it is, even where that is more than fits. What was learned is known better."""
    server = state.server(server_id)
    if server is None or not server.is_up:
        return state
    lessons = {name: lesson for name, lesson in state.lessons.items() if name != server.model.name}
    return changed(replace(state, lessons=lessons), server_id, lambda s: replace(s, booked=needs, reported=needs))


def _gpus_polled(state: PoolState, gpus: GpuSnapshot) -> PoolState:
    is_what_was_asked = state.gpus_asked_at is None or gpus.at >= state.gpus_asked_at
    asked_at, are_late = (None, False) if is_what_was_asked else (state.gpus_asked_at, state.gpus_are_late)
    servers = tuple(_renumbered(server, gpus) for server in state.servers)
    return replace(state, servers=servers, gpus=gpus, gpus_asked_at=asked_at, gpus_are_late=are_late)


def _renumbered(server: Server, gpus: GpuSnapshot) -> Server:
    """On the same cards, by the numbers that NVML has for them now."""
    placement, numbers = server.placement, {gpu.uuid: gpu.index for gpu in gpus.gpus}
    indices = tuple(numbers.get(uuid, index) for uuid, index in zip(placement.uuids, placement.indices, strict=False))
    return server if indices == placement.indices else replace(server, placement=replace(placement, indices=indices))


def _unwanted(state: PoolState, waiting: Waiter) -> Step:
    """In the queue, and the servers take nothing new from here on. One that still loads is stopped, and those who wait
    for it are told if it is the only one; who comes later waits for their end and has one loaded again."""
    effects: list[Effect] = []
    state = replace(state, waiting=(*state.waiting, waiting))
    for server in state.servers_of(waiting.model.name):
        if server.is_up:
            state = changed(_condemned(state, server), server.id, lambda s: replace(s, is_unloaded=True))
        elif server.state is STARTING:
            if not state.has_another(server):
                state, effects = turn_away_model(state, Refusal(Reason.UNLOADED, waiting.model.name))
            state, orders = stop(state, server, ev.StopReason.UNLOAD)
            effects += orders
    return state, effects


def _condemned(state: PoolState, server: Server) -> PoolState:
    leaving = server if server.state is DRAINING else server.moved(DRAINING)
    return changed(state, server.id, lambda _: replace(leaving, is_condemned=True))


def _released(state: PoolState, event: ev.Release) -> PoolState:
    holder = next((s for s in state.servers if event.ticket in s.leases), None)
    if holder is None:  # its server died first
        return state
    is_whole = event.ending in (ev.Ending.COMPLETE, ev.Ending.UNSENT)
    leases, answered = holder.leases - {event.ticket}, holder.has_answered or event.ending is ev.Ending.COMPLETE
    freed = replace(holder, leases=leases, last_used=event.at, has_answered=answered, keep_seconds=event.keep_seconds)
    if not is_whole:
        notice_seconds = _notice_seconds(state.limits, event.ending)
        streams = event.ending is ev.Ending.CUT_IN_STREAM
        look_seconds = state.limits.first_look_seconds if streams else state.limits.look_seconds
        check_at = event.at + min(notice_seconds, look_seconds)
        freed = replace(
            freed,
            left_behind=holder.left_behind + 1,
            check_at=min(check_at, holder.check_at or check_at),
            must_notice_by=event.at + notice_seconds,
        )
    return changed(state, holder.id, lambda _: freed)


def _notice_seconds(limits: Limits, ending: ev.Ending) -> float:
    return limits.notice_in_silence_seconds if ending is ev.Ending.CUT_IN_SILENCE else limits.notice_seconds


def _slots_counted(state: PoolState, event: ev.SlotsCounted) -> Step:
    """Slots are free when the engine says so. One that nobody uses and that still generates after all its time to
    notice is ended: the only way to stop some engines. The count must not be older than the last request's end."""
    server = state.server(event.server)
    if server is None or not server.left_behind:
        return state, []
    left_behind = server.left_behind
    if event.busy is not None:
        left_behind = min(left_behind, max(0, event.busy - len(server.leases)))
        is_due = event.asked_at > server.last_used and event.asked_at >= server.must_notice_by
        if left_behind and server.is_idle and is_due:
            return stop(state, server, ev.StopReason.ABANDONED)
    again_at = event.at + state.limits.look_seconds if left_behind else None
    return changed(state, server.id, lambda s: replace(s, left_behind=left_behind, check_at=again_at)), []


def _became_ready(state: PoolState, server_id: int, port: int, at: float) -> PoolState:
    server = state.server(server_id)
    if server is None or server.state is not STARTING:  # told to stop while the news was on its way
        return state
    failures = {name: failure for name, failure in state.failures.items() if name != server.model.name}
    state = changed(state, server_id, lambda s: replace(s.moved(READY), port=port, ready_at=at, last_used=at))
    demands = demand.loaded(state.demands, server.model.name, at - server.started_at)
    return replace(state, failures=failures, demands=demands)


def _exited(state: PoolState, event: ev.Exited) -> Step:
    server = state.server(event.server)
    assert server is not None, f"server {event.server} exited twice"
    others = state.others(server)
    held = state.going.get(server.id) or given_back(server, others, state.gpus, event.at, state.returning)
    ended = server.moved(ServerState.STOPPED if server.state is STOPPING else ServerState.FAILED)
    state = replace(
        state,
        servers=others,
        going={number: each for number, each in state.going.items() if number != server.id},
        plans={number: request for number, request in state.plans.items() if number != server.id},
        returning=(*state.returning, *(replace(each, at=event.at) for each in held)),
        last_exit_at=event.at,
    )
    if ended.state is ServerState.STOPPED:
        was_up = server.ready_at is not None
        return replace(state, backoffs=backoff.lifted(state.backoffs, server.model.name)) if was_up else state, []
    if server.state is STARTING and event.ran_out_of_memory:
        state = replace(state, lessons={**state.lessons, server.model.name: _more_next_time(server)})
        is_awaited = any(w.model.name == server.model.name for w in state.wanting) and not state.has_another(server)
        if not server.is_planned_anew and is_awaited:
            return replace(state, waiting=tuple(_planned_anew(w, server) for w in state.waiting)), []
    if state.has_another(server):  # its model is there all the same; nobody is turned away who would stop the next try
        return replace(state, backoffs=backoff.ended(state.backoffs, server, event.at)), []
    backoffs = state.backoffs if event.could_not_spawn else backoff.ended(state.backoffs, server, event.at)
    state = replace(
        state, backoffs=backoffs, failures={**state.failures, server.model.name: Failure(event.detail, event.at)}
    )
    if server.state is not STARTING:
        return state, []
    # Whoever waits for this load learns what became of it; a later request may try again.
    reason = Reason.SPAWN_FAILED if event.could_not_spawn else Reason.LOAD_FAILED
    return turn_away_model(state, Refusal(reason, server.model.name, event.detail))


def _planned_anew(waiting: Waiter, server: Server) -> Waiter:
    """Once: with fresh readings, and what was learned."""
    is_for_it = waiting.awaited is not Awaited.UNLOADED and waiting.model.name == server.model.name
    return replace(waiting, is_planned_anew=True) if is_for_it else waiting


def _more_next_time(server: Server) -> Extra:
    """A GPU ran out although all was booked: a stranger grew, or it takes more than was thought. Nobody knows which."""
    most = max((size for what, size in server.booked.items() if what != CPU), default=0)
    return Extra(device_bytes=max(LESSON_BYTES, round(LESSON_SHARE * most)))


def _without_a_reading(state: PoolState, detail: str) -> Step:
    """Nothing can be placed: those who would need a new server are told, the others wait on."""
    effects: list[Effect] = []
    state = replace(state, memory_asked_at=None)
    for name in dict.fromkeys(w.model.name for w in state.wanting):
        if state.server_of(name) is None:
            state, refusals = turn_away_model(state, Refusal(Reason.SPAWN_FAILED, name, detail))
            effects += refusals
    return state, effects

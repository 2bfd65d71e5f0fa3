"""Record: an event's fact written into the state. What follows from it is decided by looking at the whole."""

from __future__ import annotations

from collections.abc import Mapping

from app.entities.frozen import replace
from app.entities.gpu import GpuSnapshot
from app.entities.placement import CPU
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases.placement.ledger import memory_to_release
from app.use_cases.placement.request import LearnedMargin
from app.use_cases.scheduling import backoff, demand
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.effects import Effect, StopReason
from app.use_cases.scheduling.events import Event
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    READY,
    STARTING,
    STOPPING,
    Awaited,
    Failure,
    PoolState,
    SchedulingLimits,
    Step,
    Waiter,
    reject,
    reject_model,
    stop_server,
    update_server,
)
from app.use_cases.scheduling.rebook import reported_excess

MIN_MARGIN_BYTES = 256 * 1024**2
MARGIN_FRACTION = 0.05


def record(state: PoolState, event: Event) -> Step:
    """The state with the event in it, and the answers that it is in itself."""
    match event:
        case ev.Acquire(ticket, model, at, deadline, request, conversation):
            state = replace(state, demands=demand.with_request(state.demands, model.name, at))
            return _wanted(state, Waiter(ticket, model, at, deadline, Awaited.SLOT, request, conversation)), []
        case ev.Load(ticket, model, at, deadline, request):
            state = replace(
                state, backoffs=backoff.without_backoff(state.backoffs, model.name)
            )  # somebody wants to know
            return _wanted(state, Waiter(ticket, model, at, deadline, Awaited.LOADED, request)), []
        case ev.Unload(ticket, model, at, deadline):
            return _unwanted(state, Waiter(ticket, model, at, deadline, Awaited.UNLOADED))
        case ev.Cancel(ticket):
            left = [w for w in state.waiting if w.ticket == ticket]
            return reject(state, {w.ticket: Refusal(Reason.CLIENT_DISCONNECTED, w.model.name) for w in left})
        case ev.Release():
            return _released(state, event), []
        case ev.Spawned(server_id, pid):
            return update_server(state, server_id, lambda s: replace(s, pid=pid)), []
        case ev.Projected(server_id, needs, at):
            return _projected(state, server_id, needs, at), []
        case ev.Measured(server_id, needs):
            return _measured(state, server_id, needs), []
        case ev.Progress(server_id, at, share):
            return update_server(state, server_id, lambda s: _moved_on(s, share, at)), []
        case ev.Ready(server_id, port, at):
            return _became_ready(state, server_id, port, at), []
        case ev.SlotsCounted():
            return _slots_counted(state, event)
        case ev.Exited():
            return _exited(state, event)
        case ev.MemoryRead(memory):
            return replace(state, memory=memory, memory_requested_at=None), []
        case ev.MemoryReadFailed(detail):
            return _without_a_reading(state, detail)
        case ev.GpusPolled(gpus):
            return _gpus_polled(state, gpus), []
        case ev.Drain():
            return replace(state, draining=True), []
        case ev.Close():
            return replace(state, draining=True, closing=True), []
        case ev.Tick():
            return state, []


def _wanted(state: PoolState, waiter: Waiter) -> PoolState:
    """In the queue. Servers that were started for what the name meant before make way for what it means now, and who
    waits already gets a server of that."""
    for server in state.servers:
        if server.model.name != waiter.model.name:
            continue
        if server.is_up and not server.model.is_served_as(waiter.model):
            state = _condemned(state, server)
        if waiter.placement_request is not None and waiter.placement_request is state.placement_requests.get(server.id):
            request = waiter.placement_request.with_margin(reported_excess(server))  # said since it was worked out
            waiter = waiter if request is waiter.placement_request else replace(waiter, placement_request=request)
    return replace(state, waiting=(*[_meant_as(each, waiter) for each in state.waiting], waiter))


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
    return update_server(state, server_id, lambda s: replace(s, reported=needs, progress_at=at))


def _moved_on(server: Server, load_progress: float | None, at: float) -> Server:
    return replace(
        server, progress_at=at, load_progress=server.load_progress if load_progress is None else load_progress
    )


def _measured(state: PoolState, server_id: int, needs: Mapping[str, int]) -> PoolState:
    """It has it all by now: booked as it is, even where that is more than fits. What was learned is known better."""
    server = state.server(server_id)
    if server is None or not server.is_up:
        return state
    learned_margins = {name: lesson for name, lesson in state.learned_margins.items() if name != server.model.name}
    return update_server(
        replace(state, learned_margins=learned_margins), server_id, lambda s: replace(s, booked=needs, reported=needs)
    )


def _gpus_polled(state: PoolState, gpus: GpuSnapshot) -> PoolState:
    is_what_was_asked = state.gpus_requested_at is None or gpus.at >= state.gpus_requested_at
    asked_at, are_late = (None, False) if is_what_was_asked else (state.gpus_requested_at, state.gpu_reading_is_late)
    servers = tuple(_renumbered(server, gpus) for server in state.servers)
    return replace(state, servers=servers, gpus=gpus, gpus_requested_at=asked_at, gpu_reading_is_late=are_late)


def _renumbered(server: Server, gpus: GpuSnapshot) -> Server:
    """On the same cards, by the numbers that NVML has for them now."""
    placement, numbers = server.placement, {gpu.uuid: gpu.index for gpu in gpus.gpus}
    indices = tuple(numbers.get(uuid, index) for uuid, index in zip(placement.uuids, placement.indices, strict=False))
    return server if indices == placement.indices else replace(server, placement=replace(placement, indices=indices))


def _unwanted(state: PoolState, waiter: Waiter) -> Step:
    """In the queue, and the servers take nothing new from here on. One that still loads is stopped, and those who wait
    for it are told if it is the only one; who comes later waits for their end and has one loaded again."""
    effects: list[Effect] = []
    state = replace(state, waiting=(*state.waiting, waiter))
    for server in state.servers_of(waiter.model.name):
        if server.is_up:
            state = update_server(_condemned(state, server), server.id, lambda s: replace(s, is_unload_requested=True))
        elif server.state is STARTING:
            if not state.has_another(server):
                state, effects = reject_model(state, Refusal(Reason.UNLOADED, waiter.model.name))
            state, orders = stop_server(state, server, StopReason.UNLOAD)
            effects += orders
    return state, effects


def _condemned(state: PoolState, server: Server) -> PoolState:
    leaving = server if server.state is DRAINING else server.with_state(DRAINING)
    return update_server(state, server.id, lambda _: replace(leaving, is_terminating=True))


def _released(state: PoolState, event: ev.Release) -> PoolState:
    holder = next((s for s in state.servers if event.ticket in s.leases), None)
    if holder is None:  # its server died first
        return state
    is_whole = event.ending in (ev.Ending.COMPLETE, ev.Ending.NOT_SENT)
    leases, answered = (
        holder.leases - {event.ticket},
        holder.has_completed_request or event.ending is ev.Ending.COMPLETE,
    )
    freed = replace(
        holder,
        leases=leases,
        last_used=event.at,
        has_completed_request=answered,
        keep_alive_seconds=event.keep_alive_seconds,
    )
    if not is_whole:
        disconnect_notice_seconds = _disconnect_notice_seconds(state.limits, event.ending)
        streams = event.ending is ev.Ending.ABORTED_WHILE_STREAMING
        slot_check_seconds = state.limits.first_slot_check_seconds if streams else state.limits.slot_check_seconds
        next_slot_check_at = event.at + min(disconnect_notice_seconds, slot_check_seconds)
        freed = replace(
            freed,
            abandoned_slots=holder.abandoned_slots + 1,
            next_slot_check_at=min(next_slot_check_at, holder.next_slot_check_at or next_slot_check_at),
            disconnect_deadline=event.at + disconnect_notice_seconds,
        )
    return update_server(state, holder.id, lambda _: freed)


def _disconnect_notice_seconds(limits: SchedulingLimits, ending: ev.Ending) -> float:
    return (
        limits.silent_disconnect_notice_seconds
        if ending is ev.Ending.ABORTED_WHILE_SILENT
        else limits.disconnect_notice_seconds
    )


def _slots_counted(state: PoolState, event: ev.SlotsCounted) -> Step:
    """Slots are free when the engine says so. One that nobody uses and that still generates after all its time to
    notice is ended: the only way to stop some engines. The count must not be older than the last request's end."""
    server = state.server(event.server)
    if server is None or not server.abandoned_slots:
        return state, []
    abandoned_slots = server.abandoned_slots
    if event.busy is not None:
        abandoned_slots = min(abandoned_slots, max(0, event.busy - len(server.leases)))
        is_due = event.asked_at > server.last_used and event.asked_at >= server.disconnect_deadline
        if abandoned_slots and server.is_idle and is_due:
            return stop_server(state, server, StopReason.ABANDONED)
    again_at = event.at + state.limits.slot_check_seconds if abandoned_slots else None
    return update_server(
        state, server.id, lambda s: replace(s, abandoned_slots=abandoned_slots, next_slot_check_at=again_at)
    ), []


def _became_ready(state: PoolState, server_id: int, port: int, at: float) -> PoolState:
    server = state.server(server_id)
    if server is None or server.state is not STARTING:  # told to stop while the news was on its way
        return state
    failures = {name: failure for name, failure in state.failures.items() if name != server.model.name}
    state = update_server(
        state, server_id, lambda s: replace(s.with_state(READY), port=port, ready_at=at, last_used=at)
    )
    demands = demand.with_load_seconds(state.demands, server.model.name, at - server.started_at)
    return replace(state, failures=failures, demands=demands)


def _exited(state: PoolState, event: ev.Exited) -> Step:
    server = state.server(event.server)
    assert server is not None, f"server {event.server} exited twice"
    others = state.servers_except(server)
    held = state.held_when_stopped.get(server.id) or memory_to_release(
        server, others, state.gpus, event.at, state.releasing
    )
    ended = server.with_state(ServerState.STOPPED if server.state is STOPPING else ServerState.FAILED)
    state = replace(
        state,
        servers=others,
        held_when_stopped={number: each for number, each in state.held_when_stopped.items() if number != server.id},
        placement_requests={
            number: request for number, request in state.placement_requests.items() if number != server.id
        },
        releasing=(*state.releasing, *(replace(each, at=event.at) for each in held)),
        last_exit_at=event.at,
    )
    if ended.state is ServerState.STOPPED:
        was_up = server.ready_at is not None
        return replace(
            state, backoffs=backoff.without_backoff(state.backoffs, server.model.name)
        ) if was_up else state, []
    if server.state is STARTING and event.ran_out_of_memory:
        state = replace(state, learned_margins={**state.learned_margins, server.model.name: _more_next_time(server)})
        is_awaited = any(w.model.name == server.model.name for w in state.waiting_for_server) and not state.has_another(
            server
        )
        if not server.is_replanned and is_awaited:
            return replace(state, waiting=tuple(_planned_anew(w, server) for w in state.waiting)), []
    if state.has_another(server):  # its model is there all the same; nobody is turned away who would stop the next try
        return replace(state, backoffs=backoff.with_failure(state.backoffs, server, event.at)), []
    backoffs = state.backoffs if event.could_not_spawn else backoff.with_failure(state.backoffs, server, event.at)
    state = replace(
        state, backoffs=backoffs, failures={**state.failures, server.model.name: Failure(event.detail, event.at)}
    )
    if server.state is not STARTING:
        return state, []
    # Whoever waits for this load learns what became of it; a later request may try again.
    reason = Reason.SPAWN_FAILED if event.could_not_spawn else Reason.LOAD_FAILED
    return reject_model(state, Refusal(reason, server.model.name, event.detail))


def _planned_anew(waiter: Waiter, server: Server) -> Waiter:
    """Once: with fresh readings, and what was learned."""
    is_for_it = waiter.awaited is not Awaited.UNLOADED and waiter.model.name == server.model.name
    return replace(waiter, is_replanned=True) if is_for_it else waiter


def _more_next_time(server: Server) -> LearnedMargin:
    """A GPU ran out although all was booked: a stranger grew, or it takes more than was thought. Nobody knows which."""
    most = max((size for what, size in server.booked.items() if what != CPU), default=0)
    return LearnedMargin(device_bytes=max(MIN_MARGIN_BYTES, round(MARGIN_FRACTION * most)))


def _without_a_reading(state: PoolState, detail: str) -> Step:
    """Nothing can be placed: those who would need a new server are told, the others wait on."""
    effects: list[Effect] = []
    state = replace(state, memory_requested_at=None)
    for name in dict.fromkeys(w.model.name for w in state.waiting_for_server):
        if state.server_of(name) is None:
            state, refusals = reject_model(state, Refusal(Reason.SPAWN_FAILED, name, detail))
            effects += refusals
    return state, effects

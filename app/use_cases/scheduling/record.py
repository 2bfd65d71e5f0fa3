"""Record: writes an event's fact into the state. What follows from it, the passes decide by looking at the whole."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from app.entities.frozen import replace
from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.load import LoadReport
from app.entities.memory import MemoryReading
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.placement.releasing import is_all_shown
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.backoff import without_backoff
from app.use_cases.scheduling.card_failures import with_successful_load, without_set_aside
from app.use_cases.scheduling.demand import with_load_seconds, with_request
from app.use_cases.scheduling.effects import Effect
from app.use_cases.scheduling.events import Event
from app.use_cases.scheduling.exits import record_exit
from app.use_cases.scheduling.liveness import record_check, with_abandoned_slot
from app.use_cases.scheduling.other_processes import with_gpu_reading, with_memory_reading
from app.use_cases.scheduling.pin_orders import Pinned
from app.use_cases.scheduling.pool_state import (
    READY,
    STARTING,
    Awaited,
    PoolState,
    Step,
    Waiter,
    begin_termination,
    reject,
    reject_model,
    update_server,
)
from app.use_cases.scheduling.rebook import reported_excess
from app.use_cases.scheduling.reconfigure import reconfigure
from app.use_cases.scheduling.runtime_margin import bytes_to_book
from app.use_cases.scheduling.suspects import without_suspect, without_suspects_of, without_unread
from app.use_cases.scheduling.unloads import record_unload
from app.use_cases.scheduling.unused_gpus import note_shown_pids


def record(state: PoolState, event: Event) -> Step:
    """The state with the event in it, and the effects that the event itself implies."""
    match event:
        case ev.Acquire(ticket, model, at, deadline, request, conversation, key, request_hash, may_load):
            state = replace(state, demands=with_request(state.demands, model.name, at))
            about = conversation, False, key, request_hash, may_load
            waiter = Waiter(ticket, model, at, deadline, Awaited.SLOT, request, *about)
            return _enqueued(state, waiter), []
        case ev.Load(ticket, model, at, deadline, request):  # by order: the client wants to see it fail, or not
            state = without_suspects_of(state, model.name)
            state = replace(state, backoffs=without_backoff(state.backoffs, model.name))
            return _enqueued(state, Waiter(ticket, model, at, deadline, Awaited.LOADED, request)), []
        case ev.Unload():
            return record_unload(state, event)
        case ev.Cancel(ticket):
            canceled = [waiter for waiter in state.waiting if waiter.ticket == ticket]
            return reject(state, {w.ticket: Refusal(Reason.CLIENT_DISCONNECTED, w.model.name) for w in canceled})
        case ev.Release():
            return _released(state, event), []
        case ev.Spawned(server_id, pid):
            return update_server(state, server_id, lambda s: replace(s, pid=pid)), []
        case ev.Projected(server_id, needs, at):
            return _projected(state, server_id, needs, at), []
        case ev.Measured(server_id, needs):
            return _measured(state, server_id, needs), []
        case ev.Progress(server_id, at, progress):
            return update_server(state, server_id, lambda s: _with_progress(s, progress, at)), []
        case ev.Ready(server_id, port, at, load):
            return _became_ready(state, server_id, port, at, load), []
        case ev.ServerChecked():
            return record_check(state, event)
        case ev.Exited():
            return record_exit(state, event)
        case ev.MemoryRead(memory):
            state = replace(state, memory=memory, memory_requested_at=None)
            return with_memory_reading(_with_least_held(state, memory), memory), []
        case ev.MemoryReadFailed(detail, at):
            return _memory_read_failed(state, detail, at)
        case ev.GpusPolled(gpus, at):
            state = note_shown_pids(state, gpus)
            return _gpus_polled(state, without_set_aside(gpus, state.card_failures, at)), []
        case ev.EngineReplaced(at):
            return _engine_replaced(state, at), []
        case Pinned():  # what was decided with the former pins no longer counts
            orders = {**state.pin_orders, event.model.name: event}
            return replace(state, pin_orders=orders, evaluation=None), []
        case ev.Reconfigured():
            return reconfigure(state, event)
        case ev.Drain():
            return replace(state, draining=True), []
        case ev.Close():
            return replace(state, draining=True, closing=True), []
        case ev.Tick():
            return state, []


def _enqueued(state: PoolState, waiter: Waiter) -> PoolState:
    """The state with the waiter in the queue.

    If the model's name means another file by now, servers of the old one are drained for good, and earlier waiters get
    a server of the new one.
    """
    for server in state.servers:
        if server.model.name != waiter.model.name:
            continue
        if server.is_up and not server.model.is_served_as(waiter.model):
            state = begin_termination(state, server)
        request = waiter.placement_request
        if request is not None and request is state.placement_requests.get(server.id):
            # That of a running server was reused: what the server has reported since is added to it.
            waiter = replace(waiter, placement_request=request.with_margin(reported_excess(server)))
    return replace(state, waiting=(*[_redefined(earlier, waiter) for earlier in state.waiting], waiter))


def _redefined(earlier: Waiter, latest: Waiter) -> Waiter:
    """The earlier waiter, for the model that its name means in the latest request."""
    old, new = earlier.model, latest.model
    if old is new or old.name != new.name or earlier.awaited is Awaited.UNLOADED or old.is_served_as(new):
        return earlier
    return replace(earlier, model=new, placement_request=latest.placement_request)


def _projected(state: PoolState, server_id: int, needs: Mapping[str, int], at: float) -> PoolState:
    """Noted only; rebook.py decides whether there is enough memory."""
    server = state.server(server_id)
    if server is None or server.state is not STARTING:
        return state
    return update_server(state, server_id, lambda s: replace(s, reported=needs, progress_at=at))


def _with_progress(server: Server, load_progress: float | None, at: float) -> Server:
    known = server.load_progress if load_progress is None else load_progress
    return replace(server, progress_at=at, load_progress=known)


def _measured(state: PoolState, server_id: int, needs: Mapping[str, int]) -> PoolState:
    """Booked as measured, even if that is more than fits: the server holds it by now. It replaces learned margins."""
    server = state.server(server_id)
    if server is None or not server.is_up:
        return state
    margins = {name: margin for name, margin in state.learned_margins.items() if name != server.model.name}
    state = replace(state, learned_margins=margins)
    booked = bytes_to_book(state, server, needs)
    return update_server(state, server_id, lambda s: replace(s, booked=booked, reported=needs))


def _with_least_held(state: PoolState, memory: MemoryReading) -> PoolState:
    """What servers with a prompt cache hold without it, as far as readings since they were ready show it."""
    for server in state.servers:
        held = memory.held_bytes.get(server.id)
        if not server.placement.prompt_cache_bytes or not held or not is_all_shown(server, memory.at):
            continue
        least = held if server.least_held_bytes is None else min(held, server.least_held_bytes)
        if least != server.least_held_bytes:
            state = update_server(state, server.id, lambda s, least=least: replace(s, least_held_bytes=least))  # type: ignore[misc]
    return state


def _engine_replaced(state: PoolState, at: float) -> PoolState:
    """What was learned from failures of the old build is forgotten: the new one may have been installed because of
    them. Loads wait until it is known which GPUs the new one can use."""
    state = replace(state, engine_replaced_at=at, gpus=_before_reading(state.gpus))
    state = replace(state, are_pids_shown=False)  # the new one may be a script, which runs another process
    state = replace(state, backoffs={}, failures={}, suspects={}, crashes={})
    return replace(state, learned_margins={}, runtime_margins={}, card_failures={})


def _before_reading(gpus: GpuSnapshot) -> GpuSnapshot:
    """This snapshot as one whose reading is awaited: that of another engine."""
    return replace(gpus, state=GpuState.UNREAD) if gpus.state is GpuState.OK else gpus


def _gpus_polled(state: PoolState, gpus: GpuSnapshot) -> PoolState:
    if gpus.at < state.engine_replaced_at:
        gpus = _before_reading(gpus)
    servers = tuple(_renumbered(server, gpus) for server in state.servers)
    needed_at = state.gpus_needed_at if state.gpus_needed_at > -inf else gpus.at
    state = with_gpu_reading(replace(state, servers=servers, gpus=gpus, gpus_needed_at=needed_at), gpus)
    if state.gpus_requested_at is not None and gpus.at < state.gpus_requested_at:
        return state  # read before the request for a new reading: that is still on its way
    return replace(state, gpus_requested_at=None, gpu_reading_is_late=False)


def _renumbered(server: Server, gpus: GpuSnapshot) -> Server:
    """On the same cards, by NVML's present indices."""
    placement, numbers = server.placement, {gpu.uuid: gpu.index for gpu in gpus.gpus}
    indices = tuple(numbers.get(uuid, index) for uuid, index in zip(placement.uuids, placement.indices, strict=False))
    return server if indices == placement.indices else replace(server, placement=replace(placement, indices=indices))


def _released(state: PoolState, event: ev.Release) -> PoolState:
    server = next((s for s in state.servers if event.ticket in s.leases), None)
    if server is None:  # it ended before the request did
        return without_unread(state, event.ticket) if event.ending is ev.Ending.NOT_SENT else state
    is_complete = event.ending is ev.Ending.COMPLETE
    freed = server.released(event.ticket, event.at, is_complete, event.keep_alive_seconds)
    if is_complete:
        state = without_suspect(state, server.in_flight[event.ticket].request_hash)
    if event.ending not in (ev.Ending.COMPLETE, ev.Ending.NOT_SENT):
        freed = with_abandoned_slot(freed, event, state.limits)
    else:
        freed = freed.without_in_flight(event.ticket)
    return update_server(state, server.id, lambda _: freed)


def _became_ready(state: PoolState, server_id: int, port: int, at: float, load: LoadReport | None) -> PoolState:
    server = state.server(server_id)
    if server is None or server.state is not STARTING:  # its stop was ordered meanwhile
        return state
    failures = {name: failure for name, failure in state.failures.items() if name != server.model.name}
    demands = with_load_seconds(state.demands, server.model.name, at - server.started_at)
    cards = with_successful_load(state.card_failures, server.placement.uuids, server.model.name, at)
    gpus = without_set_aside(state.gpus, cards, at)
    state = replace(state, failures=failures, demands=demands, card_failures=cards, gpus=gpus)
    return update_server(
        state, server_id, lambda s: replace(s.with_state(READY), port=port, ready_at=at, last_used=at, load=load)
    )


def _memory_read_failed(state: PoolState, detail: str, at: float) -> Step:
    """Nothing can be placed: requests that need a new server are rejected, the others keep waiting."""
    effects: list[Effect] = []
    state = replace(state, memory_requested_at=None, memory_failed_at=at)
    for name in dict.fromkeys(waiter.model.name for waiter in state.waiting_for_server):
        if state.server_of(name) is None:
            state, orders = reject_model(state, Refusal(Reason.SPAWN_FAILED, name, detail))
            effects += orders
    return state, effects

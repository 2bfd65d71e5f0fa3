"""The heart: record, then settle.

`step` writes an event into a new state, then settles: a fixed row of passes looks at the whole state, whatever
the event was, and orders what is due. Each pass decides one thing, so no two branches can disagree, and a pass
that finds nothing to do changes nothing: settling twice is settling once. Nothing here reads a clock, waits or
does I/O: time comes with the events, readings come as events, orders leave as effects.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from app.entities.refusal import Reason, Refusal
from app.entities.server import Server, ServerState
from app.use_cases import events as ev
from app.use_cases.events import CountSlots, Done, Effect, Event, Grant
from app.use_cases.pool_state import (
    Failure,
    Limits,
    PoolState,
    Step,
    Waiting,
    Want,
    changed,
    stop,
    turn_away,
    turn_away_model,
)
from app.use_cases.room import make_room

STARTING, READY, DRAINING, STOPPING = (
    ServerState.STARTING,
    ServerState.READY,
    ServerState.DRAINING,
    ServerState.STOPPING,
)


def step(state: PoolState, event: Event) -> Step:
    """The state after `event`, and what to do about it, in order."""
    state, effects = _record(state, event)
    for settle in _PASSES:
        state, more = settle(state, event.at)
        effects += more
    return state, effects


def due_at(state: PoolState) -> float | None:
    """The time at which something is due by the clock alone, so that a Tick is wanted then.

    The passes compare with these very sums: a difference may round to the other side, and the Tick would come again.
    """
    times = [w.give_up_at for w in state.waiting]
    times += [s.progress_at + state.limits.stall_timeout_seconds for s in state.servers if s.state is STARTING]
    times += [_idle_until(state, s) for s in state.servers if s.is_idle]
    times += [s.check_at for s in state.servers if s.check_at is not None]
    return min(times, default=None)


# --- record: write the fact down, decide nothing --------------------------------------------------


def _record(state: PoolState, event: Event) -> Step:
    match event:
        case ev.Acquire(ticket, model, at, give_up_at):
            return _wanted(state, Waiting(ticket, model, at, give_up_at, Want.SLOT)), []
        case ev.Load(ticket, model, at, give_up_at):
            return _wanted(state, Waiting(ticket, model, at, give_up_at, Want.LOADED)), []
        case ev.Unload(ticket, model, at, give_up_at):
            return _unwanted(state, Waiting(ticket, model, at, give_up_at, Want.UNLOADED))
        case ev.Cancel(ticket):
            return turn_away(state, {ticket: Reason.CLIENT_LEFT})
        case ev.Release():
            return _released(state, event), []
        case ev.Spawned(server_id, pid):
            return changed(state, server_id, lambda s: replace(s, pid=pid)), []
        case ev.Progress(server_id, at):
            return changed(state, server_id, lambda s: replace(s, progress_at=at)), []
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
        case ev.Drain():
            return replace(state, draining=True), []
        case ev.Close():
            return replace(state, draining=True, closing=True), []
        case ev.Tick():
            return state, []


def _wanted(state: PoolState, waiting: Waiting) -> PoolState:
    """In the queue. A server that was started for what the name meant before makes way for what it means now."""
    server = state.server_of(waiting.model.name)
    if server is not None and server.is_up and not server.model.is_served_as(waiting.model):
        state = _condemned(state, server)
    return replace(state, waiting=(*state.waiting, waiting))


def _unwanted(state: PoolState, waiting: Waiting) -> Step:
    """In the queue, and the server takes nothing new from here on. One that still loads is stopped, and those who wait
    for it are told; who comes later waits for its end and has it loaded again."""
    state = replace(state, waiting=(*state.waiting, waiting))
    server = state.server_of(waiting.model.name)
    if server is None or server.state is STOPPING:
        return state, []
    if server.state is STARTING:
        state, refusals = turn_away_model(state, Refusal(Reason.UNLOADED, waiting.model.name))
        state, orders = stop(state, server, "unload")
        return state, [*refusals, *orders]
    return _condemned(state, server), []


def _condemned(state: PoolState, server: Server) -> PoolState:
    leaving = server if server.state is DRAINING else server.moved(DRAINING)
    return changed(state, server.id, lambda _: replace(leaving, is_condemned=True))


def _released(state: PoolState, event: ev.Release) -> PoolState:
    holder = next((s for s in state.servers if event.ticket in s.leases), None)
    if holder is None:  # its server died first
        return state
    freed = replace(holder, leases=holder.leases - {event.ticket}, last_used=event.at)
    if event.ending is not ev.Ending.COMPLETE:
        check_at = event.at + _notice_seconds(state.limits, event.ending)
        freed = replace(freed, left_behind=holder.left_behind + 1, check_at=min(check_at, holder.check_at or check_at))
    return changed(state, holder.id, lambda _: freed)


def _notice_seconds(limits: Limits, ending: ev.Ending) -> float:
    return limits.notice_in_silence_seconds if ending is ev.Ending.CUT_IN_SILENCE else limits.notice_seconds


def _slots_counted(state: PoolState, event: ev.SlotsCounted) -> Step:
    """Slots are free when the engine says so. One that nobody uses and that still generates is ended: the only way
    to stop some engines. The count must not be older than the last request's end."""
    server = state.server(event.server)
    if server is None or not server.left_behind:
        return state, []
    if event.busy is not None and event.busy <= len(server.leases):
        return changed(state, server.id, lambda s: replace(s, left_behind=0, check_at=None)), []
    if event.busy is not None and server.is_idle and event.asked_at > server.last_used:
        return stop(state, server, "still generating for a client that left")
    again_at = event.at + state.limits.notice_seconds
    return changed(state, server.id, lambda s: replace(s, check_at=again_at)), []


def _became_ready(state: PoolState, server_id: int, port: int, at: float) -> PoolState:
    server = state.server(server_id)
    if server is None or server.state is not STARTING:  # told to stop while the news was on its way
        return state
    failures = {name: failure for name, failure in state.failures.items() if name != server.model.name}
    state = changed(state, server_id, lambda s: replace(s.moved(READY), port=port, ready_at=at, last_used=at))
    return replace(state, failures=failures)


def _exited(state: PoolState, event: ev.Exited) -> Step:
    server = state.server(event.server)
    assert server is not None, f"server {event.server} exited twice"
    ended = server.moved(ServerState.STOPPED if server.state is STOPPING else ServerState.FAILED)
    state = replace(
        state,
        servers=tuple(s for s in state.servers if s.id != server.id),
        last_exit_at=event.at,
    )
    if ended.state is ServerState.STOPPED:
        return state, []
    failures = {**state.failures, server.model.name: Failure(event.detail, event.at)}
    state = replace(state, failures=failures)
    if server.state is not STARTING:
        return state, []
    # Whoever waits for this load learns what became of it; a later request may try again.
    reason = Reason.SPAWN_FAILED if event.could_not_spawn else Reason.LOAD_FAILED
    return turn_away_model(state, Refusal(reason, server.model.name, event.detail))


def _without_a_reading(state: PoolState, detail: str) -> Step:
    """Nothing can be placed: those who would need a new server are told, the others wait on."""
    effects: list[Effect] = []
    state = replace(state, memory_asked_at=None)
    for name in dict.fromkeys(w.model.name for w in state.wanting):
        if state.server_of(name) is None:
            state, refusals = turn_away_model(state, Refusal(Reason.SPAWN_FAILED, name, detail))
            effects += refusals
    return state, effects


# --- settle: one look at the whole state -------------------------------------------------------------


def _give_up(state: PoolState, now: float) -> Step:
    """Waits end with the drain, or at their own time limit."""
    if state.draining:
        return turn_away(state, {w.ticket: Reason.DRAINING for w in state.waiting})
    return turn_away(state, {w.ticket: Reason.WAIT_TIMEOUT for w in state.waiting if w.give_up_at <= now})


def _resume(state: PoolState, now: float) -> Step:
    """Servers drained for somebody who has left since take requests again."""
    if state.draining or any(state.server_of(w.model.name) is None for w in state.wanting):
        return state, []
    for server in state.servers:
        if server.state is DRAINING and not server.is_condemned:
            state = changed(state, server.id, lambda s: s.moved(READY))
    return state, []


def _grant(state: PoolState, now: float) -> Step:
    """Free slots of ready servers go to those who wait for them, oldest first."""
    free = {s.model.name: s for s in state.servers if s.has_free_slot}
    granted: dict[int, Server] = {}
    for waiting in state.waiting:
        server = free.get(waiting.model.name)
        if waiting.want is Want.SLOT and server is not None and server.has_free_slot:
            server = replace(server, leases=server.leases | {waiting.ticket})
            free[waiting.model.name] = granted[waiting.ticket] = server
    if not granted:
        return state, []
    state = replace(
        state,
        servers=tuple(free.get(s.model.name, s) for s in state.servers),
        waiting=tuple(w for w in state.waiting if w.ticket not in granted),
    )
    return state, [Grant(ticket, server.id) for ticket, server in granted.items()]


def _tell_the_done(state: PoolState, now: float) -> Step:
    """Loads and unloads that have come about."""
    done = [w.ticket for w in state.waiting if _has_come_about(state, w)]
    left = tuple(w for w in state.waiting if w.ticket not in done)
    return replace(state, waiting=left) if done else state, [Done(ticket) for ticket in done]


def _has_come_about(state: PoolState, waiting: Waiting) -> bool:
    server = state.server_of(waiting.model.name)
    match waiting.want:
        case Want.LOADED:
            return server is not None and server.state in (STARTING, READY)
        case Want.UNLOADED:
            return server is None
        case Want.SLOT:
            return False


def _bound_the_queue(state: PoolState, now: float) -> Step:
    """The newest beyond the limits are turned away; who got a slot at once was never in the queue."""
    too_many: dict[int, Reason] = {}
    places: Counter[str] = Counter()
    for waiting in state.waiting:
        if places.total() >= state.limits.max_waiting:
            too_many[waiting.ticket] = Reason.OVERLOADED
        elif places[waiting.model.name] >= state.limits.max_waiting_per_model:
            too_many[waiting.ticket] = Reason.QUEUE_FULL
        else:
            places[waiting.model.name] += 1
    return turn_away(state, too_many)


def _stop_the_stalled(state: PoolState, now: float) -> Step:
    """A load that shows no sign of life for too long is ended; a slow one that moves never is."""
    effects: list[Effect] = []
    limit = state.limits.stall_timeout_seconds
    for server in state.servers:
        if server.state is STARTING and now >= server.progress_at + limit:
            detail = f"{server.model.name}: no progress for {limit:g} s while loading"
            state, refusals = turn_away_model(state, Refusal(Reason.LOAD_TIMEOUT, server.model.name, detail))
            state = replace(state, failures={**state.failures, server.model.name: Failure(detail, now)})
            state, orders = stop(state, server, "load stalled")
            effects += [*refusals, *orders]
    return state, effects


def _stop_the_unwanted(state: PoolState, now: float) -> Step:
    """What nobody uses and nobody is to use again goes; closing takes everything, leases or not."""
    effects: list[Effect] = []
    for server in state.servers:
        if why := _why_to_stop(state, server, now):
            state, orders = stop(state, server, why)
            effects += orders
    return state, effects


def _why_to_stop(state: PoolState, server: Server, now: float) -> str:
    """The reason, for the log; empty when there is none."""
    if server.is_idle and now >= _idle_until(state, server):
        return "idle"
    if server.state is DRAINING and not server.leases:
        return "drained"
    unused = server.is_idle or server.state is STARTING
    if (state.draining and unused) or (state.closing and server.state is not STOPPING):
        return "service draining"
    return ""


def _idle_until(state: PoolState, server: Server) -> float:
    """The time at which an idle server goes if nobody has used it."""
    own = server.model.ttl_seconds
    return server.last_used + (state.limits.ttl_seconds if own is None else own)


def _check_the_abandoned(state: PoolState, now: float) -> Step:
    """A server that a client left in mid-answer is asked, after a while, how many of its slots are busy."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.check_at is not None and now >= server.check_at:
            state = changed(state, server.id, lambda s: replace(s, check_at=None))
            effects.append(CountSlots(server.id))
    return state, effects


_PASSES = (
    _give_up,
    _resume,
    _grant,
    _tell_the_done,
    _bound_the_queue,
    _stop_the_stalled,
    _stop_the_unwanted,
    _check_the_abandoned,
    make_room,
)

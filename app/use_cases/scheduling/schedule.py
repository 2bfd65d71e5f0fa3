"""The heart: record, then settle.

`step` writes an event into a new state, then settles: a fixed row of passes looks at the whole state, whatever
the event was, and orders what is due. Each pass decides one thing, so no two branches can disagree, and a pass
that finds nothing to do changes nothing: settling twice is settling once. Nothing here reads a clock, waits or
does I/O: time comes with the events, readings come as events, orders leave as effects.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from app.entities.frozen import replace
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.scheduling import readings, replicas
from app.use_cases.scheduling.backoff import ended, holds
from app.use_cases.scheduling.events import CountSlots, Done, Effect, Event, Grant, StopReason
from app.use_cases.scheduling.eviction import eviction_due_at, make_room
from app.use_cases.scheduling.idle import goes_at
from app.use_cases.scheduling.load_balancing import chosen, with_one_more
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    READY,
    STARTING,
    STOPPING,
    Awaited,
    Failure,
    PoolState,
    Step,
    Waiter,
    changed,
    stop,
    turn_away,
    turn_away_model,
)
from app.use_cases.scheduling.rebook import correct_bookings
from app.use_cases.scheduling.record import record
from app.use_cases.scheduling.replicas import add_replicas
from app.use_cases.scheduling.retry_after import retry_after_seconds


def step(state: PoolState, event: Event) -> Step:
    """The state after `event`, and what to do about it, in order."""
    state, effects = record(state, event)
    for settle in _PASSES:
        state, more = settle(state, event.at)
        effects += more
        if settle is _grant and _is_settled(state, event.at):
            break
    return state, effects


def _is_settled(state: PoolState, now: float) -> bool:
    """Whether all other passes would find nothing to do: what nearly every request for a loaded model leaves behind."""
    if state.waiting or state.draining or state.undecided or state.crowded or state.sought:
        return False
    for server in state.servers:  # not in a generator: that alone would cost half of all this
        if server.state is not READY or replicas.lacks_one(state, server):
            return False
    if not readings.are_settled(state):
        return False
    due = due_at(state)
    return due is None or now < due


def due_at(state: PoolState) -> float | None:
    """The time at which something is due by the clock alone, so that a Tick is wanted then.

    The passes compare with these very sums: a difference may round to the other side, and the Tick would come again.
    """
    times = []
    for server in state.servers:
        if server.state is STARTING:
            times.append(server.progress_at + state.limits.stall_timeout_seconds)
        elif server.is_idle and (at := goes_at(state, server)) < inf:
            times.append(at)
        if server.check_at is not None:
            times.append(server.check_at)
    if state.waiting:
        times += [each.give_up_at for each in state.waiting]
        times += [*readings.due_at(state), *eviction_due_at(state)]
    if state.crowded or state.sought or state.backoffs:
        times += replicas.due_at(state)
    return min(times, default=None)


# --- settle: one look at the whole state -------------------------------------------------------------


def _give_up(state: PoolState, now: float) -> Step:
    """Waits end with the drain, or at their own time limit."""
    if state.draining:
        return turn_away(state, {w.ticket: Refusal(Reason.DRAINING, w.model.name) for w in state.waiting})
    over = [w for w in state.waiting if w.give_up_at <= now]
    return turn_away(
        state, {w.ticket: _busy(state, w, Reason.WAIT_TIMEOUT, _what_was_missing(state, w), now) for w in over}
    )


def _what_was_missing(state: PoolState, waiting: Waiter) -> str:
    name = waiting.model.name
    server = state.server_of(name)
    if server is None or (server.state is STOPPING and waiting.awaited is not Awaited.UNLOADED):
        why = f"there was no room to load it (GET /decisions?model={name} says why)"
    elif waiting.awaited is Awaited.UNLOADED:
        why = "it still answers what it was asked"
    elif server.is_up:
        why = "all its slots were taken"
    else:
        why = "it was still loading"
    return f"waited {waiting.give_up_at - waiting.since:g} s (scheduling.max_wait_seconds), and {why}"


def _busy(state: PoolState, waiting: Waiter, reason: Reason, detail: str, now: float) -> Refusal:
    return Refusal(
        reason, waiting.model.name, detail, retry_after_seconds=retry_after_seconds(state, waiting.model, now)
    )


def _hold_back(state: PoolState, now: float) -> Step:
    """Nobody waits for a server that would end as the last ones did, and nothing is started for it."""
    if not state.backoffs or not state.waiting:
        return state, []
    refusals = {}
    for waiting in state.waiting:
        backoff = holds(state.backoffs, waiting.model, now)
        if backoff and waiting.awaited is Awaited.SLOT and state.server_of(waiting.model.name) is None:
            failure = state.failures.get(waiting.model.name)
            detail = f"it failed {backoff.ends} times in a row, the last time so: {failure.detail if failure else ''}"
            refusals[waiting.ticket] = Refusal(
                Reason.LOAD_FAILED, waiting.model.name, detail, retry_after_seconds=backoff.until - now
            )
    return turn_away(state, refusals)


def _resume(state: PoolState, now: float) -> Step:
    """Servers drained for somebody who has left since take requests again."""
    if state.draining or not any(server.state is DRAINING for server in state.servers):
        return state, []
    lacking = {w.model.name for w in state.wanting if state.server_of(w.model.name) is None}
    for server in state.servers:
        if server.state is DRAINING and not server.is_condemned and server.drained_for not in lacking:
            state = changed(state, server.id, lambda s: s.moved(READY))
    return state, []


def _grant(state: PoolState, now: float) -> Step:
    """Free slots of ready servers go to those who wait for them, oldest first."""
    if not state.waiting:
        return state, []
    free: dict[str, list[Server]] = {}
    for server in state.servers:
        if server.has_free_slot:
            free.setdefault(server.model.name, []).append(server)
    granted: dict[int, int] = {}
    fuller: dict[int, Server] = {}
    known = state.conversations
    for waiting in state.waiting:
        ours = free.get(waiting.model.name)
        if waiting.awaited is Awaited.SLOT and ours:
            server = ours[0] if len(ours) == 1 else chosen(ours, waiting, known)
            if waiting.conversation is not None:
                known = with_one_more(known, waiting, server)
            ours.remove(server)
            granted[waiting.ticket] = server.id
            server = fuller[server.id] = replace(server, leases=server.leases | {waiting.ticket})
            if server.has_free_slot:
                ours.append(server)
    if not granted:
        return state, []
    state = replace(
        state,
        servers=tuple([fuller.get(s.id, s) for s in state.servers]),
        waiting=tuple([w for w in state.waiting if w.ticket not in granted]),
        conversations=known,
    )
    return state, [Grant(ticket, server) for ticket, server in granted.items()]


def _tell_the_done(state: PoolState, now: float) -> Step:
    """Loads and unloads that have come about."""
    done = [w.ticket for w in state.waiting if _has_come_about(state, w)]
    left = tuple(w for w in state.waiting if w.ticket not in done)
    return replace(state, waiting=left) if done else state, [Done(ticket) for ticket in done]


def _has_come_about(state: PoolState, waiting: Waiter) -> bool:
    servers = state.servers_of(waiting.model.name)
    match waiting.awaited:
        case Awaited.LOADED:
            return any(server.state in (STARTING, READY) for server in servers)
        case Awaited.UNLOADED:
            return not servers
        case Awaited.SLOT:
            return False


def _bound_the_queue(state: PoolState, now: float) -> Step:
    """The newest beyond the limits are turned away; who got a slot at once was never in the queue."""
    if len(state.waiting) <= min(state.limits.max_waiting, state.limits.max_waiting_per_model):
        return state, []
    too_many: dict[int, Refusal] = {}
    places: Counter[str] = Counter()
    for waiting in state.waiting:
        if places.total() >= state.limits.max_waiting:
            detail = f"{state.limits.max_waiting} requests wait here already (scheduling.max_waiting)"
            too_many[waiting.ticket] = _busy(state, waiting, Reason.OVERLOADED, detail, now)
        elif places[waiting.model.name] >= state.limits.max_waiting_per_model:
            most = state.limits.max_waiting_per_model
            detail = f"{most} requests wait for it already (scheduling.max_waiting_per_model)"
            too_many[waiting.ticket] = _busy(state, waiting, Reason.QUEUE_FULL, detail, now)
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
            state = replace(state, backoffs=ended(state.backoffs, server, now))
            if not state.has_another(server):
                state, refusals = turn_away_model(state, Refusal(Reason.LOAD_TIMEOUT, server.model.name, detail))
                state = replace(state, failures={**state.failures, server.model.name: Failure(detail, now)})
                effects += refusals
            state, orders = stop(state, server, StopReason.STALLED)
            effects += orders
    return state, effects


def _stop_the_unwanted(state: PoolState, now: float) -> Step:
    """What nobody uses and nobody is to use again goes; closing takes everything, leases or not."""
    effects: list[Effect] = []
    for server in state.servers:
        if why := _why_to_stop(state, server, now):
            state, orders = stop(state, server, why)
            effects += orders
    return state, effects


def _why_to_stop(state: PoolState, server: Server, now: float) -> StopReason | None:
    if server.is_idle and now >= goes_at(state, server):
        return StopReason.IDLE
    if server.state is DRAINING and not server.leases:
        return StopReason.UNLOAD if server.is_unloaded else StopReason.DRAINED
    unused = server.is_idle or server.state is STARTING
    if (state.draining and unused) or (state.closing and server.state is not STOPPING):
        return StopReason.SHUTDOWN
    return None


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
    _hold_back,
    _resume,
    _grant,
    _tell_the_done,
    _bound_the_queue,
    _stop_the_stalled,
    _stop_the_unwanted,
    correct_bookings,
    _check_the_abandoned,
    add_replicas,
    make_room,
)

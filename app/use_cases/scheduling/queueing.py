"""Queueing: passes over the waiting requests: which are granted a slot, answered, or rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from app.entities.frozen import replace
from app.entities.refusal import Reason, Refusal
from app.entities.server import InFlight, Server
from app.use_cases.scheduling.backoff import active_backoff
from app.use_cases.scheduling.effects import Done, Grant
from app.use_cases.scheduling.load_balancing import pick_server, with_conversation
from app.use_cases.scheduling.pool_state import (
    READY,
    STARTING,
    STOPPING,
    Awaited,
    PoolState,
    Step,
    Waiter,
    reject,
)
from app.use_cases.scheduling.retry_after import retry_after_seconds
from app.use_cases.scheduling.round_robin import by_key_in_turn, moved_to_back
from app.use_cases.scheduling.suspects import is_suspect, servers_to_be_alone_on, with_run


def expire_waits(state: PoolState, now: float) -> Step:
    """Waits end when the service drains, or at their deadline."""
    if state.draining:
        return reject(state, {w.ticket: Refusal(Reason.DRAINING, w.model.name) for w in state.waiting})
    expired = [waiter for waiter in state.waiting if waiter.deadline <= now]
    return reject(
        state, {w.ticket: _busy(state, w, Reason.WAIT_TIMEOUT, _timeout_detail(state, w, now), now) for w in expired}
    )


def _timeout_detail(state: PoolState, waiter: Waiter, now: float) -> str:
    seconds = waiter.deadline - waiter.since
    return f"timed out after {seconds:g} s (scheduling.max_wait_seconds) waiting for {_awaited(state, waiter, now)}"


def _awaited(state: PoolState, waiter: Waiter, now: float) -> str:
    name = waiter.model.name
    server = state.server_of(name)
    if server is None or (server.state is STOPPING and waiter.awaited is not Awaited.UNLOADED):
        return f"memory to load it; see GET /decisions?model={name}"
    if waiter.awaited is Awaited.UNLOADED:
        return "its running requests to finish"
    if is_suspect(state, waiter, now):
        return "a server for itself, because it was in flight when one ended"
    return "a free slot" if server.is_up else "it to load"


def _busy(state: PoolState, waiter: Waiter, reason: Reason, detail: str, now: float) -> Refusal:
    retry_after = retry_after_seconds(state, waiter.model, now)
    return Refusal(reason, waiter.model.name, detail, retry_after_seconds=retry_after)


def reject_in_backoff(state: PoolState, now: float) -> Step:
    """Requests for a model in a crash loop are rejected at once: a server started for them would fail again."""
    if not state.backoffs or not state.waiting:
        return state, []
    refusals = {}
    for waiter in state.waiting:
        backoff = active_backoff(state.backoffs, waiter.model, now)
        if backoff and waiter.awaited is Awaited.SLOT and state.server_of(waiter.model.name) is None:
            failure = state.failures.get(waiter.model.name)
            last = failure.detail if failure else ""
            detail = f"failed {backoff.consecutive_failures} times in a row, last: {last}"
            seconds = backoff.until - now
            refusals[waiter.ticket] = Refusal(
                Reason.LOAD_FAILED, waiter.model.name, detail, retry_after_seconds=seconds
            )
    return reject(state, refusals)


def reject_unloaded(state: PoolState, now: float) -> Step:
    """Requests that may not load their model are rejected once it has no server, or only servers that end."""
    refusals = {
        waiter.ticket: Refusal(Reason.UNLOADED, waiter.model.name)
        for waiter in state.waiting
        if not waiter.may_load and not any(_may_serve(server, waiter) for server in state.servers)
    }
    return reject(state, refusals)


def _may_serve(server: Server, waiter: Waiter) -> bool:
    is_ending = server.state is STOPPING or server.is_terminating
    return server.model.name == waiter.model.name and not is_ending and server.model.is_served_as(waiter.model)


def grant_slots(state: PoolState, now: float) -> Step:
    """Free slots of ready servers are granted to the requests that wait for them: keys in turn, of each the oldest
    first. A suspect gets a server for itself, or none yet."""
    if not state.waiting:
        return state, []
    free: dict[str, list[Server]] = {}
    for server in state.servers:
        if server.has_free_slot:
            free.setdefault(server.model.name, []).append(server)
    grants: dict[int, int] = {}
    leased: dict[int, Server] = {}
    conversations, uses = state.conversations, state.exclusive_uses
    for waiter in by_key_in_turn(state.waiting, state.slot_rotation):
        if waiter.awaited is not Awaited.SLOT:
            continue
        servers, is_alone = free.get(waiter.model.name, []), is_suspect(state, waiter, now)
        candidates = servers_to_be_alone_on(state, waiter, servers, uses) if is_alone else servers
        if not candidates:
            continue
        picked = pick_server(candidates, waiter, conversations)
        if waiter.conversation is not None:
            conversations = with_conversation(conversations, waiter, picked)
        grants[waiter.ticket] = picked.id
        servers[:] = [server for server in servers if server is not picked]
        request = InFlight(waiter.request_hash, waiter.key)
        server = picked.leased(waiter.ticket, request, now + state.limits.liveness_check_seconds)
        if is_alone:
            uses = with_run(uses, waiter, server, now)
            server = replace(server, exclusive_ticket=waiter.ticket)
        leased[picked.id] = server
        if server.has_free_slot:
            servers.append(server)
    if not grants:
        return state, []
    waiting = tuple([waiter for waiter in state.waiting if waiter.ticket not in grants])
    state = replace(
        state,
        servers=tuple([leased.get(server.id, server) for server in state.servers]),
        waiting=waiting,
        conversations=conversations,
        exclusive_uses=uses,
        slot_rotation=_slot_rotation(state, waiting, grants) if waiting else state.slot_rotation,
    )
    return state, [Grant(ticket, server_id) for ticket, server_id in grants.items()]


def _slot_rotation(
    state: PoolState, still_waiting: Sequence[Waiter], grants: Mapping[int, int]
) -> Mapping[str, tuple[str, ...]]:
    """The rotation after these grants; those of models for which nobody waits any more are not recorded."""
    rotation, contended = dict(state.slot_rotation), {waiter.model.name for waiter in still_waiting}
    granted = {waiter.ticket: waiter for waiter in state.waiting if waiter.model.name in contended}
    for ticket in grants:
        if waiter := granted.get(ticket):
            name = waiter.model.name
            rotation[name] = moved_to_back(rotation.get(name, ()), waiter.key)
    return rotation


def complete_commands(state: PoolState, now: float) -> Step:
    """Loads and unloads that have been carried out are answered."""
    done = [waiter.ticket for waiter in state.waiting if _is_carried_out(state, waiter)]
    waiting = tuple(waiter for waiter in state.waiting if waiter.ticket not in done)
    return replace(state, waiting=waiting) if done else state, [Done(ticket) for ticket in done]


def _is_carried_out(state: PoolState, waiter: Waiter) -> bool:
    servers = state.servers_of(waiter.model.name)
    match waiter.awaited:
        case Awaited.LOADED:
            return any(server.state in (STARTING, READY) for server in servers)
        case Awaited.UNLOADED:
            return not servers
        case Awaited.SLOT:
            return False


def limit_queue(state: PoolState, now: float) -> Step:
    """Requests beyond the limits are rejected: the newest of the key that has the most in the queue. One that got a
    slot at once was never in the queue."""
    most, most_per_model = state.limits.max_waiting, state.limits.max_waiting_per_model
    if len(state.waiting) <= min(most, most_per_model):
        return state, []
    refusals: dict[int, Refusal] = {}
    accepted: Counter[str] = Counter()
    for waiter in by_key_in_turn(state.waiting, {}):
        if accepted.total() >= most:
            detail = f"{_are_waiting(most)} already (scheduling.max_waiting)"
            refusals[waiter.ticket] = _busy(state, waiter, Reason.OVERLOADED, detail, now)
        elif accepted[waiter.model.name] >= most_per_model:
            detail = f"{_are_waiting(most_per_model)} for it already (scheduling.max_waiting_per_model)"
            refusals[waiter.ticket] = _busy(state, waiter, Reason.QUEUE_FULL, detail, now)
        else:
            accepted[waiter.model.name] += 1
    return reject(state, refusals)


def _are_waiting(count: int) -> str:
    return "1 request is waiting" if count == 1 else f"{count} requests are waiting"

"""Lifecycle: passes over the servers: which are stopped, or made ready again."""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.scheduling.backoff import with_failure
from app.use_cases.scheduling.effects import Effect, StopReason
from app.use_cases.scheduling.idle import idle_deadline
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    READY,
    STARTING,
    STOPPING,
    PoolState,
    Step,
    note_failure,
    reject_model,
    stop_server,
    update_server,
)


def resume_drained(state: PoolState, now: float) -> Step:
    """Servers that were drained for another model become ready again once no request waits for that model's load."""
    if state.draining or not any(server.state is DRAINING for server in state.servers):
        return state, []
    cold = {w.model.name for w in state.waiting_for_server if state.server_of(w.model.name) is None}
    for server in state.servers:
        if server.state is DRAINING and not server.is_terminating and server.drained_for not in cold:
            state = update_server(state, server.id, lambda s: s.with_state(READY))
    return state, []


def stop_stalled(state: PoolState, now: float) -> Step:
    """A load without progress for `stall_timeout_seconds` is stopped; one that logs or reads never is, however slow."""
    effects: list[Effect] = []
    seconds = state.limits.stall_timeout_seconds
    for server in state.servers:
        if server.state is STARTING and now >= server.progress_at + seconds:
            name = server.model.name
            detail = f"{name}: no progress for {seconds:g} s while loading: nothing logged, nothing read"
            state = replace(state, backoffs=with_failure(state.backoffs, server, now))
            if not state.has_another(server):
                state, orders = reject_model(state, Refusal(Reason.LOAD_TIMEOUT, name, detail))
                state = note_failure(state, server, detail, now)
                effects += orders
            state, orders = stop_server(state, server, StopReason.STALLED)
            effects += orders
    return state, effects


def stop_unneeded(state: PoolState, now: float) -> Step:
    """Servers that are idle for too long, drained, or shut down with the service are stopped."""
    effects: list[Effect] = []
    for server in state.servers:
        if why := _stop_reason(state, server, now):
            state, orders = stop_server(state, server, why)
            effects += orders
    return state, effects


def _stop_reason(state: PoolState, server: Server, now: float) -> StopReason | None:
    """None: the server stays. Closing stops every server, with or without leases."""
    if server.is_idle and now >= idle_deadline(state, server):
        return StopReason.IDLE
    if server.state is DRAINING and not server.leases:
        return StopReason.UNLOAD if server.is_unload_requested else StopReason.DRAINED
    is_unused = server.is_idle or server.state is STARTING
    if (state.draining and is_unused) or (state.closing and server.state is not STOPPING):
        return StopReason.SHUTDOWN
    return None

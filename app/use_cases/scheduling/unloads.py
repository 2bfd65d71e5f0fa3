"""Unloads: what an order to unload a model does to its servers and its requests.

A server that answers accepts nothing new and ends after its running requests; one that loads is stopped at once. What
comes later waits for their end, and has the model loaded again. An order may bound the time of the running requests:
then those that came before the order are ended, running or waiting, or the model would be loaded again at once for the
latter.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.refusal import Reason, Refusal
from app.entities.server import Server
from app.use_cases.scheduling.effects import Effect, StopReason
from app.use_cases.scheduling.events import Unload
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    STARTING,
    Awaited,
    PoolState,
    ServerEnding,
    Step,
    Waiter,
    begin_termination,
    note_ending,
    reject,
    reject_model,
    stop_server,
    update_server,
)


def record_unload(state: PoolState, event: Unload) -> Step:
    """The order in the queue, and its model's servers ending. The requests that wait for a load are rejected if it is
    the model's only server."""
    effects: list[Effect] = []
    model = event.model
    waiter = Waiter(event.ticket, model, event.at, event.deadline, Awaited.UNLOADED)
    state = replace(state, waiting=(*state.waiting, waiter))
    for server in state.servers_of(model.name):
        if server.is_up:
            state = begin_termination(state, server)
            state = update_server(state, server.id, lambda s: _ordered_to_end(s, event))
        elif server.state is STARTING:
            if not state.has_another(server):
                state, refusals = reject_model(state, Refusal(Reason.UNLOADED, model.name))
                effects += refusals
            state, orders = stop_server(state, server, StopReason.UNLOAD)
            effects += orders
    return state, effects


def _ordered_to_end(server: Server, event: Unload) -> Server:
    """Of several orders the one with the earliest end counts."""
    server = replace(server, is_unload_requested=True)
    if event.force_at > server.force_unload_at:
        return server
    return replace(server, force_unload_at=event.force_at, unload_ticket=event.ticket)


def force_unloads(state: PoolState, now: float) -> Step:
    """The time of running requests is over: their servers are killed."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.state is DRAINING and now >= server.force_unload_at:
            state, orders = _forced(state, server)
            effects += orders
    return state, effects


def _forced(state: PoolState, server: Server) -> Step:
    name = server.model.name
    earlier = [w.ticket for w in state.waiting_for_server if w.model.name == name and w.ticket < server.unload_ticket]
    state, effects = reject(state, dict.fromkeys(earlier, Refusal(Reason.UNLOADED, name)))
    if server.is_empty:
        state, orders = stop_server(state, server, StopReason.UNLOAD)
    else:
        state = note_ending(state, server, ServerEnding(f"{name} was unloaded", is_unloaded=True))
        state, orders = stop_server(state, server, StopReason.UNLOAD_FORCED)
    return state, [*effects, *orders]

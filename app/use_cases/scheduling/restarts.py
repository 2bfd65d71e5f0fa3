"""Restarts: servers that were stopped because another model needed the RAM of their prompt cache are started again.

Once that model is placed and nothing else waits, with as much prompt cache as the RAM that is left permits. Nothing is
evicted for it: a model that has no place now is loaded by its next request.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace as replace_fields
from math import inf

from app.entities.frozen import replace
from app.entities.placement import Outcome
from app.use_cases.scheduling import readings
from app.use_cases.scheduling.decision_inputs import current_world, decide_load
from app.use_cases.scheduling.effects import Decided
from app.use_cases.scheduling.pool_state import (
    DRAINING,
    STOPPING,
    Awaited,
    PoolState,
    Step,
    Waiter,
    start_server,
)

NO_TICKET = 0  # of the waiter that stands for a restart


def with_restarts(state: PoolState, server_ids: Collection[int]) -> PoolState:
    """The state in which the models of these servers are to be loaded again."""
    if not server_ids:
        return state
    stopped = {s.model.name: (s.model, state.placement_requests[s.id]) for s in state.servers if s.id in server_ids}
    return replace(state, restarts={**state.restarts, **stopped})


def restart_servers(state: PoolState, now: float) -> Step:
    """Start the servers that are to be started again, one at a time."""
    if not state.restarts:
        return state, []
    ending = {server.model.name for server in state.servers if server.state in (DRAINING, STOPPING)}
    loaded = {server.model.name for server in state.servers} - ending
    left = {} if state.draining else {name: each for name, each in state.restarts.items() if name not in loaded}
    state = readings.note_elapsed_time(replace(state, restarts=left), now)
    if not left or ending or state.releasing or state.has_waiting_load:
        return state, []
    return _restart(state, next(iter(left)), now)


def _restart(state: PoolState, name: str, now: float) -> Step:
    model, request = state.restarts[name]
    load = Waiter(NO_TICKET, model, -inf, inf, Awaited.LOADED, request)
    if not readings.are_fresh(state, load, now):
        return readings.request_readings(state, load, now)
    state = replace(state, restarts={other: each for other, each in state.restarts.items() if other != name})
    decision = decide_load(state, load, replace_fields(current_world(state, now), residents=()))
    if decision.outcome is not Outcome.PLACE or decision.placement is None:
        return state, []
    state, effects = start_server(state, load, decision.placement, now)
    reason = f"loaded again after another model has got RAM of its prompt cache; {decision.reason}"
    return state, [Decided(name, replace_fields(decision, reason=reason), ()), *effects]

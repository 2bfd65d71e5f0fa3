"""Steady: a slot granted or released while every server is ready and no request waits.

Nearly all requests are for loaded models, and none of the passes has anything to do for them. They are handled here,
with the result that the passes would come to: the scheduler's tests compare every such step.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.gpu import GpuState
from app.entities.server import InFlight, ServerState
from app.use_cases.scheduling.demand import with_request
from app.use_cases.scheduling.effects import Effect, Grant
from app.use_cases.scheduling.events import Acquire, Ending, Event, Release
from app.use_cases.scheduling.idle import idle_deadline
from app.use_cases.scheduling.pool_state import PoolState, Step, update_server
from app.use_cases.scheduling.quarantine import quarantined_keys


def grant_or_release(state: PoolState, event: Event) -> Step | None:
    """The step for an Acquire that gets a slot at once or a Release; None: the event is for the passes."""
    if not isinstance(event, Acquire | Release) or not _is_steady(state):
        return None
    return _granted(state, event) if isinstance(event, Acquire) else _released(state, event)


def _is_steady(state: PoolState) -> bool:
    if state.waiting or state.draining or state.evaluation or state.saturated_since or state.exclusive_uses:
        return False
    if state.releasing or state.gpus_requested_at is not None or state.gpus.state is GpuState.UNREAD:
        return False
    return all(server.state is ServerState.READY and server.model.replicas.max == 1 for server in state.servers)


def _granted(state: PoolState, event: Acquire) -> Step | None:
    name = event.model.name
    server = next((server for server in state.servers if server.model.name == name), None)
    if server is None or not server.has_free_slot or not server.model.is_served_as(event.model):
        return None
    if event.deadline <= event.at or event.request_hash in state.suspects:
        return None
    if state.crashes and event.key in quarantined_keys(state, event.model, event.at):
        return None
    state = replace(state, demands=with_request(state.demands, name, event.at))
    effects: list[Effect] = [Grant(event.ticket, server.id)]
    request = InFlight(event.request_hash, event.key)
    leased = server.leased(event.ticket, request, event.at + state.limits.liveness_check_seconds)
    return update_server(state, server.id, lambda _: leased), effects


def _released(state: PoolState, event: Release) -> Step | None:
    server = next((server for server in state.servers if event.ticket in server.leases), None)
    if server is None or event.ending not in (Ending.COMPLETE, Ending.NOT_SENT):
        return None
    if server.abandoned_slots or server.in_flight[event.ticket].request_hash in state.suspects:
        return None
    is_complete = event.ending is Ending.COMPLETE
    freed = server.released(event.ticket, event.at, is_complete, event.keep_alive_seconds)
    if freed.is_idle and idle_deadline(state, freed) <= event.at:  # keep_alive 0
        return None
    freed = freed.without_in_flight(event.ticket)
    return update_server(state, server.id, lambda _: freed), []

"""Liveness: which servers are checked, and which of them no longer respond and are stopped.

A server with requests is checked every few seconds; one whose clients have disconnected more often, until its slots are
free. llama-server answers /health on a thread of its own, but /slots only between two batches (b11549): on a slow CPU a
batch of a long prompt takes minutes. While it has requests, a server that uses CPU time therefore responds, and one
that neither does that nor answers /slots, but answers /health, has as long as a load without progress: it may be
waiting for a GPU or for another machine.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.placement import Decision, Outcome
from app.entities.server import Server
from app.use_cases.scheduling.effects import CheckServer, Decided, Effect, StopReason
from app.use_cases.scheduling.events import Ending, Release, ServerChecked
from app.use_cases.scheduling.limits import SchedulingLimits
from app.use_cases.scheduling.pool_state import (
    PoolState,
    ServerEnding,
    Step,
    note_ending,
    stop_server,
    update_server,
)


def check_servers(state: PoolState, now: float) -> Step:
    """Servers are checked when due. Those that should have a free slot, because a client has disconnected in
    mid-answer, are asked how many are busy."""
    effects: list[Effect] = []
    for server in state.servers:
        if server.next_check_at is not None and now >= server.next_check_at:
            state = update_server(state, server.id, lambda s: replace(s, next_check_at=None))
            counts_slots = server.abandoned_slots > 0 or server.unresponsive_since is not None
            if server.is_up and (counts_slots or server.leases):
                effects.append(CheckServer(server.id, counts_slots))
    return state, effects


def with_abandoned_slot(server: Server, event: Release, limits: SchedulingLimits) -> Server:
    """The slot stays taken until the engine itself reports that it is free; it is polled for that."""
    engine = server.model.launch.engine
    if event.ending is Ending.ABORTED_WHILE_STREAMING:
        first_check_seconds, notice_seconds = limits.first_slot_check_seconds, limits.disconnect_notice_seconds
    else:
        first_check_seconds, notice_seconds = limits.slot_check_seconds, limits.silent_notice_seconds_of(engine)
    check_at = event.at + min(notice_seconds, first_check_seconds)
    return replace(
        server,
        abandoned_slots=server.abandoned_slots + 1,
        next_check_at=check_at if server.next_check_at is None else min(check_at, server.next_check_at),
        disconnect_deadline=event.at + notice_seconds,
    )


def record_check(state: PoolState, event: ServerChecked) -> Step:
    """Slots are free when the engine reports it. A server is stopped if it does not respond, or if it is idle and still
    generates at its disconnect deadline: in some engines nothing else ends that."""
    server = state.server(event.server)
    if server is None or not server.is_up:
        return state, []
    server = _checked(server, event, state.limits)
    state = update_server(state, server.id, lambda _: server)
    if _is_abandoned(server, event):
        return stop_server(state, server, StopReason.ABANDONED)
    silent_seconds = 0.0 if server.unresponsive_since is None else event.at - server.unresponsive_since
    if silent_seconds >= _patience_seconds(server, event, state.limits):
        return _stop_hung(state, server, silent_seconds)
    return state, []


def _checked(server: Server, event: ServerChecked, limits: SchedulingLimits) -> Server:
    """The server with what a check has found, and with the time of the next one."""
    since = event.requested_at if server.unresponsive_since is None else server.unresponsive_since
    abandoned = server.abandoned_slots
    if event.busy is not None:
        abandoned = min(abandoned, max(0, event.busy - len(server.leases)))
    if not abandoned:
        server = server.with_only_leases_in_flight()
    server = replace(server, abandoned_slots=abandoned, unresponsive_since=None if _responds(server, event) else since)
    is_soon = abandoned > 0 or server.unresponsive_since is not None
    pause_seconds = limits.slot_check_seconds if is_soon else limits.liveness_check_seconds
    return replace(server, next_check_at=event.at + pause_seconds if is_soon or server.leases else None)


def _responds(server: Server, event: ServerChecked) -> bool:
    """What an engine computes while no request runs is no sign of life: its slots should be free."""
    return event.busy is not None or (event.has_worked and bool(server.leases))


def _is_abandoned(server: Server, event: ServerChecked) -> bool:
    """A count from before the last release does not decide."""
    is_overdue = event.requested_at > server.last_used and event.requested_at >= server.disconnect_deadline
    return event.busy is not None and server.abandoned_slots > 0 and server.is_idle and is_overdue


def _patience_seconds(server: Server, event: ServerChecked, limits: SchedulingLimits) -> float:
    """How long the server may not respond."""
    if event.is_listening and server.leases:
        return max(limits.hang_timeout_seconds, limits.stall_timeout_seconds)
    return limits.hang_timeout_seconds


def _stop_hung(state: PoolState, server: Server, seconds: float) -> Step:
    name, running = server.model.name, len(server.leases)
    waiting = sum(waiter.model.name == name for waiter in state.waiting_for_server)
    reason = (
        f"its llama-server (server {server.id}) has not responded for {seconds:.0f} s: stopped, with {running} running "
        f"and {waiting} waiting requests"
    )
    state = note_ending(state, server, ServerEnding(f"{name}: {reason}", is_hung=True))
    state, effects = stop_server(state, server, StopReason.HUNG, reason)
    return state, [Decided(name, Decision(Outcome.STOP, reason, needed_bytes=0), ()), *effects]

"""Schedule: record the event, then settle.

`step` writes an event into a new state, then settles it: a fixed sequence of passes looks at the whole state,
whatever the event was, and orders what is due. Each pass decides one thing, so no two branches can disagree, and a
pass that finds nothing to do changes nothing: settling twice is settling once. Nothing here reads a clock, waits or
does I/O: time arrives with the events, readings are events, and orders leave as effects.
"""

from __future__ import annotations

from math import inf

from app.use_cases.scheduling import readings
from app.use_cases.scheduling.back_to_gpus import leave_cpu
from app.use_cases.scheduling.events import Event
from app.use_cases.scheduling.eviction import evaluation_due_times, place_or_evict
from app.use_cases.scheduling.idle import idle_deadline
from app.use_cases.scheduling.lifecycle import resume_drained, stop_stalled, stop_unneeded
from app.use_cases.scheduling.liveness import check_servers
from app.use_cases.scheduling.memory_watch import watch_due_at, watch_memory
from app.use_cases.scheduling.pool_state import DRAINING, STARTING, PoolState, Step
from app.use_cases.scheduling.queueing import (
    complete_commands,
    expire_waits,
    grant_slots,
    limit_queue,
    reject_in_backoff,
    reject_unloaded,
)
from app.use_cases.scheduling.rebook import rebook_starting_servers
from app.use_cases.scheduling.record import record
from app.use_cases.scheduling.replicas import add_replicas, replica_due_times
from app.use_cases.scheduling.restarts import restart_servers
from app.use_cases.scheduling.steady import grant_or_release
from app.use_cases.scheduling.suspects import (
    end_exclusive_uses,
    exclusive_use_due_times,
    hold_servers,
    refuse_crashing,
)
from app.use_cases.scheduling.unloads import force_unloads
from app.use_cases.scheduling.unused_gpus import end_unaccelerated

PASSES = (
    expire_waits,
    refuse_crashing,
    reject_in_backoff,
    reject_unloaded,
    end_exclusive_uses,
    hold_servers,
    resume_drained,
    grant_slots,
    complete_commands,
    limit_queue,
    stop_stalled,
    force_unloads,
    stop_unneeded,
    end_unaccelerated,
    leave_cpu,
    watch_memory,
    rebook_starting_servers,
    check_servers,
    add_replicas,
    place_or_evict,
    restart_servers,
)


def step(state: PoolState, event: Event) -> Step:
    """The state after `event`, and the effects to carry out, in order."""
    return grant_or_release(state, event) or record_and_settle(state, event)


def record_and_settle(state: PoolState, event: Event) -> Step:
    """The same as `step`, by all passes, whatever the event is."""
    state, effects = record(state, event)
    for settle in PASSES:
        state, orders = settle(state, event.at)
        effects += orders
    return state, effects


def due_at(state: PoolState) -> float | None:
    """When something is due by time alone, so that a Tick is needed then; None: never.

    The passes compare with these very sums: a difference may round the other way, and the Tick would come again for
    ever.
    """
    times = []
    for server in state.servers:
        if server.state is STARTING:
            times.append(server.progress_at + state.limits.stall_timeout_seconds)
        elif server.is_idle and (at := idle_deadline(state, server)) < inf:
            times.append(at)
        elif server.state is DRAINING and server.force_unload_at < inf:
            times.append(server.force_unload_at)
        if server.next_check_at is not None and server.next_check_at < inf:
            times.append(server.next_check_at)
    if state.waiting:
        times += [waiter.deadline for waiter in state.waiting]
        times += [*readings.reading_due_times(state), *evaluation_due_times(state)]
    if state.exclusive_uses:
        times += exclusive_use_due_times(state)
    if (watch_at := watch_due_at(state)) is not None:
        times.append(watch_at)
    if state.saturated_since or state.evaluation or state.backoffs:
        times += replica_due_times(state)
    return min(times, default=None)

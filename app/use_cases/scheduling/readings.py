"""Readings of RAM and GPUs: which ones a load may be decided on, and when new ones are requested.

A load is decided on readings that are younger than its request and than the last exit, and at most MAX_AGE_SECONDS
old; those of the GPUs are also younger than the end of the last load. A GPU reading is waited for only
GPU_READING_TIMEOUT_SECONDS: a call may hang in the driver, and then the last reading is used until it is too old to
mean anything. Before the first GPU reading, and while the GPUs are asleep, loads wait for one: WAKE_TIMEOUT_SECONDS at
most in the latter case. Requests for loaded models wait for no reading.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.gpu import GpuState
from app.use_cases.scheduling.effects import Effect, ReadGpus, ReadMemory
from app.use_cases.scheduling.pool_state import PoolState, Step, Waiter

MAX_AGE_SECONDS = 1.0  # other processes come and go
GPU_READING_TIMEOUT_SECONDS = 0.05
WAKE_TIMEOUT_SECONDS = 10.0  # the driver initializes a card that nothing uses in one to three seconds, one by one
RELEASE_POLL_SECONDS = 0.1  # while memory is being released


def note_elapsed_time(state: PoolState, now: float) -> PoolState:
    """The state with what time alone has changed: GPU readings that are late, memory that was released or never will
    be."""
    requested_at = state.gpus_requested_at
    is_overdue = requested_at is not None and now >= requested_at + GPU_READING_TIMEOUT_SECONDS
    if is_overdue and not state.gpu_reading_is_late:
        state = replace(state, gpu_reading_is_late=True)
    if state.gpus.state is GpuState.UNREAD:
        state = replace(state, gpus=state.gpus.as_of(now))  # the first reading hangs, or is not due yet
    if (timeout_at := _wake_timeout_at(state)) is not None and now >= timeout_at:
        problem = f"NVML has not responded within {WAKE_TIMEOUT_SECONDS:.0f} s of being opened again"
        state = replace(state, gpus=replace(state.gpus, state=GpuState.HUNG, problem=problem))
    pending = tuple(memory for memory in state.releasing if memory.is_pending(state.gpus, state.servers, now))
    return state if pending == state.releasing else replace(state, releasing=pending)


def reading_due_times(state: PoolState) -> list[float]:
    """When time alone changes something about the readings that a waiting load needs."""
    if not state.has_waiting_load:
        return []
    times = [memory.expires_at for memory in state.releasing]
    if state.gpus.state is GpuState.UNREAD and state.gpus.overdue_at is not None:
        times.append(state.gpus.overdue_at)
    if (timeout_at := _wake_timeout_at(state)) is not None:
        times.append(timeout_at)
    if state.gpus_requested_at is None:
        times += [state.gpus.at + RELEASE_POLL_SECONDS] if _is_release_polled(state) else []
    elif not state.gpu_reading_is_late:
        times.append(state.gpus_requested_at + GPU_READING_TIMEOUT_SECONDS)
    return times


def are_fresh(state: PoolState, waiter: Waiter, now: float) -> bool:
    """Whether this load can be decided on the readings there are."""
    return _is_memory_reading_fresh(state, waiter, now) and _is_gpu_reading_fresh(state, waiter, now)


def request_readings(state: PoolState, waiter: Waiter, now: float) -> Step:
    """Request the readings that this load lacks, except those that were requested already."""
    effects: list[Effect] = []
    if state.memory_requested_at is None and not _is_memory_reading_fresh(state, waiter, now):
        state = replace(state, memory_requested_at=now)
        effects.append(ReadMemory())
    if state.gpus_requested_at is None and not _is_gpu_reading_fresh(state, waiter, now):
        state = replace(state, gpus_requested_at=now, gpus_needed_at=now)
        effects.append(ReadGpus())
    return state, effects


def _is_memory_reading_fresh(state: PoolState, waiter: Waiter, now: float) -> bool:
    return state.memory is not None and state.memory.at >= _oldest_usable_at(state, waiter, now)


def _is_gpu_reading_fresh(state: PoolState, waiter: Waiter, now: float) -> bool:
    gpus = state.gpus.as_of(now)
    if gpus.state is GpuState.UNREAD:
        return False
    if gpus.state is GpuState.ASLEEP:
        return not waiter.uses_gpus
    # The very sum of `reading_due_times`: a difference might round the other way.
    is_poll_due = _is_release_polled(state) and now >= gpus.at + RELEASE_POLL_SECONDS
    if gpus.poll_seconds is None or gpus.state is GpuState.HUNG:
        # There are no GPUs, or the call hangs. One reading is still requested where `reading_due_times` says so.
        return not is_poll_due or state.gpus_requested_at is not None
    oldest_usable_at = max(_oldest_usable_at(state, waiter, now), _last_ready_at(state))
    return (gpus.at >= oldest_usable_at and not is_poll_due) or state.gpu_reading_is_late


def _wake_timeout_at(state: PoolState) -> float | None:
    """When GPUs that are waking up are no longer waited for; None if they are not."""
    if state.gpus.state is not GpuState.ASLEEP or state.gpus_requested_at is None:
        return None
    return state.gpus_requested_at + WAKE_TIMEOUT_SECONDS


def _last_ready_at(state: PoolState) -> float:
    """When the last server became ready. Where pids are hidden, a reading from before counts its memory twice: it is no
    longer free, and still claimed. A server would be evicted for a model that fits beside it."""
    return max((server.ready_at for server in state.servers if server.ready_at is not None), default=float("-inf"))


def _is_release_polled(state: PoolState) -> bool:
    """Whether the GPUs are read more often for a while, to see memory being released."""
    return bool(state.releasing) and state.gpus.poll_seconds is not None


def _oldest_usable_at(state: PoolState, waiter: Waiter, now: float) -> float:
    """The reading must be younger than the request and the last exit, and at most MAX_AGE_SECONDS old."""
    return max(waiter.since, state.last_exit_at, now - MAX_AGE_SECONDS)

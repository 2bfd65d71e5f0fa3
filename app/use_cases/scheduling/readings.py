"""Readings of RAM and GPUs: which loads may be decided on them, and when a newer one is wanted.

A load is decided on readings that are younger than its request and than the last exit; the GPUs', also than the last
load's end. They are waited for only so long: a call may hang in the driver, and then the last reading has to do, until
it is so old that it says nothing any more.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.gpu import GpuState
from app.use_cases.scheduling.events import Effect, ReadGpus, ReadMemory
from app.use_cases.scheduling.pool_state import PoolState, Step, Waiter

MAX_AGE_SECONDS = 1.0  # strangers come and go
PATIENCE_SECONDS = 0.05  # for the GPUs
RETURN_POLL_SECONDS = 0.1  # while memory is on its way back


def take_stock(state: PoolState, now: float) -> PoolState:
    """Notice what time alone has changed: readings that do not come, memory that is back or never comes."""
    if state.gpus_asked_at is not None and not state.gpus_are_late and now >= state.gpus_asked_at + PATIENCE_SECONDS:
        state = replace(state, gpus_are_late=True)
    if state.gpus.state is GpuState.UNREAD:
        state = replace(state, gpus=state.gpus.as_of(now))  # it hangs, or is not due yet
    awaited = tuple(each for each in state.returning if each.is_awaited(state.gpus, state.servers, now))
    return state if awaited == state.returning else replace(state, returning=awaited)


def are_settled(state: PoolState) -> bool:
    """Whether time alone changes nothing about them."""
    return not state.returning and state.gpus_asked_at is None and state.gpus.state is not GpuState.UNREAD


def due_at(state: PoolState) -> list[float]:
    """When time alone changes something for those who wait for a load."""
    if not state.is_load_wanted:
        return []
    times = [each.until for each in state.returning]
    if state.gpus.state is GpuState.UNREAD and state.gpus.late_at is not None:
        times.append(state.gpus.late_at)
    if state.gpus_asked_at is None:
        times += [state.gpus.at + RETURN_POLL_SECONDS] if _is_return_polled(state) else []
    elif not state.gpus_are_late:
        times.append(state.gpus_asked_at + PATIENCE_SECONDS)
    return times


def are_fresh(state: PoolState, waiting: Waiter, now: float) -> bool:
    """Whether this load can be decided on the readings there are."""
    return _is_memory_fresh(state, waiting, now) and _are_gpus_fresh(state, waiting, now)


def ask(state: PoolState, waiting: Waiter, now: float) -> Step:
    """Order those that this load lacks, if they are not on their way already."""
    effects: list[Effect] = []
    if state.memory_asked_at is None and not _is_memory_fresh(state, waiting, now):
        state = replace(state, memory_asked_at=now)
        effects.append(ReadMemory())
    if state.gpus_asked_at is None and not _are_gpus_fresh(state, waiting, now):
        state = replace(state, gpus_asked_at=now)
        effects.append(ReadGpus())
    return state, effects


def _is_memory_fresh(state: PoolState, waiting: Waiter, now: float) -> bool:
    return state.memory is not None and state.memory.at >= _youngest_fact(state, waiting, now)


def _are_gpus_fresh(state: PoolState, waiting: Waiter, now: float) -> bool:
    gpus = state.gpus.as_of(now)
    if gpus.state is GpuState.UNREAD:
        return False
    is_soon_old = _is_return_polled(state) and now >= gpus.at + RETURN_POLL_SECONDS  # the very sum of `due_at`
    if gpus.poll_seconds is None or gpus.state is GpuState.HUNG:
        # There are none, or it would be waited for in vain; it is asked once all the same where `due_at` says so.
        return not is_soon_old or state.gpus_asked_at is not None
    since = max(_youngest_fact(state, waiting, now), _loaded_at(state))
    return (gpus.at >= since and not is_soon_old) or state.gpus_are_late


def _loaded_at(state: PoolState) -> float:
    """Since then no server has loaded. Where pids are hidden, what one takes counts twice until a reading that is
    younger: it is not free any more, and still claimed. One would be stopped for a model that has room beside it."""
    return max((server.ready_at for server in state.servers if server.ready_at is not None), default=float("-inf"))


def _is_return_polled(state: PoolState) -> bool:
    """Whether the GPUs are read more often for a while, to see what comes back."""
    return bool(state.returning) and state.gpus.poll_seconds is not None


def _youngest_fact(state: PoolState, waiting: Waiter, now: float) -> float:
    """Since then the request came, or bytes came back, or it is just now: no start on stale numbers."""
    return max(waiting.since, state.last_exit_at, now - MAX_AGE_SECONDS)

"""Read-ahead: which file is read into the page cache while its load waits for memory.

Pages of a file are given up by the kernel when RAM is wanted, so this costs nobody memory: it takes no more than what
nothing has booked, less what the waiting load itself needs of RAM and a reserve. It costs the disk, so no file is read
ahead while a model is being loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.launch import LoadMode
from app.entities.placement import CPU, Decision, Outcome
from app.use_cases.scheduling.decision_inputs import spare_ram_bytes
from app.use_cases.scheduling.pool_state import STARTING, PoolState, Waiter

RESERVE_BYTES = 2 * 1024**3
MIN_BYTES = 64 * 1024**2  # less is read in no time


@dataclass(frozen=True, slots=True)
class FileAhead:
    """The beginning of a model's files."""

    path: str
    size_bytes: int


def file_to_read_ahead(state: PoolState) -> FileAhead | None:
    """For the first load that waits and can use it; None if there is none, or RAM or the disk are wanted."""
    is_loading = any(server.state is STARTING for server in state.servers)
    if is_loading or state.draining or state.closing or not state.evaluation or _shares_ram(state):
        return None
    waiters = {waiter.model.name: waiter for waiter in reversed(state.waiting_for_server)}
    found = (
        _beginning(state, waiters[load.model], load.decision)
        for load in state.evaluation.decided
        if load.model in waiters
    )
    return next(filter(None, found), None)


def _shares_ram(state: PoolState) -> bool:
    """Whether a GPU uses RAM as its memory: a file in the page cache would take the place of its weights."""
    return any(gpu.is_unified for gpu in state.gpus.gpus)


def _beginning(state: PoolState, waiter: Waiter, decision: Decision) -> FileAhead | None:
    passes_cache = waiter.model.launch.options.load_mode is LoadMode.DIRECT
    if passes_cache or decision.outcome not in (Outcome.WAIT, Outcome.EVICT):
        return None
    size = min(waiter.model.size_bytes, spare_ram_bytes(state) - _needed_ram_bytes(decision) - RESERVE_BYTES)
    return FileAhead(waiter.model.path, size) if size >= MIN_BYTES else None


def _needed_ram_bytes(decision: Decision) -> int:
    """By the load itself. Where it will go may not be known yet: then all it needs counts as RAM."""
    place = decision.placement or decision.awaited_placement
    return place.booked_bytes[CPU] if place else decision.needed_bytes

"""StateStore: what the service knows, published as frozen snapshots that anyone may read without a lock."""

from __future__ import annotations

from app.entities.gpu import NOT_READ, GpuSnapshot
from app.use_cases.reporting.decisions import Explained
from app.use_cases.scheduling.pool_state import PoolState


class StateStore:
    """One writer for each snapshot; readers take the reference once and keep it for the length of their answer."""

    def __init__(self, pool: PoolState, gpus: GpuSnapshot = NOT_READ) -> None:
        self.pool = pool  # written by who has the pool's turn
        self.decisions: tuple[Explained, ...] = ()  # the last ones, newest last; written by who has the pool's turn
        self.pins: tuple[str, ...] = ()  # why the pinned models do not fit together; written by who publishes `gpus`
        self.gpus = gpus  # written by the thread `gpus` alone; how old it is, its reader asks: as_of(now)

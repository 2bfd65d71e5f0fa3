"""StateStore: the service's state, published as frozen snapshots that any thread may read without a lock."""

from __future__ import annotations

import time

from app.entities.configuration import ConfigurationState
from app.entities.gpu import GpuSnapshot
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.scheduling.pool_state import PoolState


class StateStore:
    """One writer for each snapshot; readers take the reference once and use it for the whole of their answer."""

    def __init__(self, pool: PoolState) -> None:
        self.configuration = ConfigurationState(time.time())  # written by ConfigurationReload, under its lock
        self.pool = pool  # written by the pool's lock holder
        self.decisions: tuple[DecisionRecord, ...] = ()  # the last ones, newest last; written by the pool's lock holder
        self.pins: tuple[str, ...] = ()  # why the pinned models do not fit together; written by the thread `gpus`

    @property
    def gpus(self) -> GpuSnapshot:
        """The last reading, which may be old: use `as_of(now)`."""
        return self.pool.gpus

"""Checks that the pinned models fit on this machine together, as soon as its GPUs are known."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.memory import MemoryReading
from app.entities.model import Model
from app.errors import ProxyError
from app.use_cases.placement.ledger import Ledger
from app.use_cases.placement.pins import PinnedRequests, auto_context_problems, is_capacity_known, pinned_problems
from app.use_cases.placement.world import World, world_of
from app.use_cases.scheduling.limits import SchedulingLimits
from workers.catalog.catalog import Catalog
from workers.pool.estimate_source import EstimateSource
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

FIRST_CHECK_SECONDS = 5.0  # the first reading of the GPUs includes a probe of the engine

GpuSet = tuple[object, ...]


class PinnedModelsCheck:
    """Called with each snapshot of the GPUs by the thread that publishes it; writes StateStore.pins."""

    def __init__(
        self,
        store: StateStore,
        pinned: PinnedRequests,
        limits: SchedulingLimits,
        read_memory: Callable[[Mapping[int, int]], MemoryReading],
    ) -> None:
        self._store = store
        self._pinned = pinned
        self._limits = limits
        self._read_memory = read_memory
        self._checked: GpuSet | None = None  # the last set of GPUs that was checked
        self._are_gpus_read = threading.Event()  # with whatever result
        self.errors: tuple[str, ...] = ()  # in the configuration; written by the thread that calls `check`

    def check(self, gpus: GpuSnapshot) -> None:
        """Checks each set of GPUs once, and none while a GPU is missing: with it the models may fit."""
        if is_capacity_known(gpus, self._limits.cpu_fallback) and (gpu_set := _gpu_set(gpus)) != self._checked:
            self._checked = gpu_set
            world = self._empty_world(gpus)
            self.errors = pinned_problems(self._pinned, world)
            self._store.pins = self.errors or auto_context_problems(self._pinned, world)
            for line in self._store.pins:
                log.warning("%s", line)
        if gpus.state is not GpuState.UNREAD:
            self._are_gpus_read.set()

    def certain_errors(self, gpus: GpuSnapshot) -> tuple[str, ...]:
        """Why the pinned models do not fit together on these GPUs; publishes nothing. Raises OSError."""
        gpus = gpus.as_awake()
        if not is_capacity_known(gpus, self._limits.cpu_fallback):
            return ()
        return pinned_problems(self._pinned, self._empty_world(gpus))

    def wait(self, seconds: float = FIRST_CHECK_SECONDS) -> None:
        """Wait until the GPUs were read, `seconds` at most. Logs a warning if no check was possible by then; a later
        check shows in /health."""
        self._are_gpus_read.wait(seconds)
        if self._checked is None:
            problem = "; ".join(self._store.gpus.problems) or self._store.gpus.problem
            log.warning("cannot tell yet whether the pinned models fit together: %s", problem)

    def _empty_world(self, gpus: GpuSnapshot) -> World:
        memory = self._read_memory({})
        ledger = Ledger(gpus, memory, (), self._limits.gpu_limits, max_loaded=self._limits.max_loaded)
        return world_of(ledger, self._limits.policy, memory.at, gpus.has_usable_gpu)


def pinned_requests(names: Iterable[str], catalog: Catalog, needs: EstimateSource) -> PinnedRequests:
    """The placement requests of the pinned models, except those that cannot be served. Reads their headers."""
    requests = {}
    for name in names:
        try:
            model: Model = catalog.servable(catalog.find(name))
            requests[model.name] = needs.placement_request(model)
        except ProxyError as error:
            log.warning("pinned model=%s: %s", name, error)
    return requests


def _gpu_set(gpus: GpuSnapshot) -> GpuSet:
    return tuple((gpu.uuid, gpu.total_bytes) for gpu in gpus.gpus)

"""Pins: looks whether the pinned models fit the machine together, as soon as it is known what the machine holds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from app.entities.gpu import GpuSnapshot, GpuState
from app.entities.model import Model
from app.errors import ProxyError
from app.use_cases.placement.ledger import Books
from app.use_cases.placement.pins import Pinned, can_be_told, kept_out_by_contexts, why_not_together
from app.use_cases.placement.usable_gpus import are_usable
from app.use_cases.placement.world import World, world_of
from app.use_cases.scheduling.pool_state import Limits
from workers.catalog.catalog import Catalog
from workers.gpu.ram import read_memory
from workers.pool.needs import EstimateSource
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

Machine = tuple[object, ...]


class Pins:
    """Told of each reading of the GPUs by who publishes it; writes StateStore.pins."""

    def __init__(self, store: StateStore, pinned: Pinned, limits: Limits) -> None:
        self._store = store
        self._pinned = pinned
        self._limits = limits
        self._seen: Machine | None = None  # the last one that was looked at
        self.errors: tuple[str, ...] = ()  # of the configuration; written by who calls `look`
        self._read = threading.Event()  # the GPUs were, whatever that showed

    def look(self, gpus: GpuSnapshot) -> None:
        """Once for each set of cards. One that is missed says nothing new: with it they may fit."""
        if can_be_told(gpus, self._limits.cpu_fallback) and (machine := _machine(gpus)) != self._seen:
            self._seen = machine
            world = self._world(gpus)
            self.errors = why_not_together(self._pinned, world)
            self._store.pins = self.errors or kept_out_by_contexts(self._pinned, world)
            for line in self._store.pins:
                log.warning("%s", line)
        if gpus.state is not GpuState.UNREAD:
            self._read.set()

    def wait(self, seconds: float) -> bool:
        """Until the GPUs were read and looked at, at most so long; whether that was enough."""
        self._read.wait(seconds)
        return self._seen is not None

    def _world(self, gpus: GpuSnapshot) -> World:
        memory = read_memory({})
        books = Books(gpus, memory, (), self._limits.rules, max_loaded=self._limits.max_loaded)
        return world_of(books, self._limits.policy, memory.at, are_usable(gpus))


def needs_of_pinned(names: Iterable[str], catalog: Catalog, needs: EstimateSource) -> Pinned:
    """What the pinned models need; of those that cannot be served, nothing. Reads their headers."""
    found = {}
    for name in names:
        try:
            model: Model = catalog.servable(catalog.find(name))
            found[model.name] = needs.placement_request(model)
        except ProxyError as error:
            log.warning("pinned model=%s: %s", name, error)
    return found


def _machine(gpus: GpuSnapshot) -> Machine:
    return tuple((gpu.uuid, gpu.total_bytes) for gpu in gpus.gpus)

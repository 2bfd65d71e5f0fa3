"""GpuWatch: the readings of the GPUs, and what is checked with each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from app.entities.gpu import GpuSnapshot, GpuState
from app.settings.configuration import ConfigurationError
from app.settings.schema import Settings
from app.use_cases.reporting.engines import gpus_it_cannot_use, own_engine_problems
from app.use_cases.scheduling import events as ev
from app.use_cases.scheduling.gpu_sleep import may_sleep
from workers.builders import build_gpu_poller
from workers.engine.engines import Engines
from workers.gpu.poller import GpuPoller
from workers.pool.gpu_names import GpuNamesCheck
from workers.pool.pinned_models import PinnedModelsCheck
from workers.telemetry.gpu_trends import GpuTrends
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)


class GpuWatch:
    """Owner of the GPU poller. `post` gives the pool, in whose state the snapshot is kept, an event."""

    def __init__(
        self, settings: Settings, engines: Engines, store: StateStore, post: Callable[[ev.Event], None]
    ) -> None:
        self._store = store
        self.trends = GpuTrends()
        self._post = post
        self._engines = engines
        self._logged: tuple[str, ...] = ()  # by the thread `gpus`
        self._poller: GpuPoller | None = None  # None: GPUs are disabled
        if store.gpus.state is not GpuState.DISABLED:
            self._poller = build_gpu_poller(settings, engines, self._publish, lambda now: may_sleep(store.pool, now))
        # Both are replaced by a reload.
        self._pinned: PinnedModelsCheck | None = None
        self._names = GpuNamesCheck(settings.gpu_names())

    def start(self, pinned: PinnedModelsCheck | None) -> None:
        """Start reading; with pinned models, wait for the first reading. Raises ConfigurationError if it is certain
        that they do not fit."""
        self._pinned = pinned
        if self._poller is not None:
            self._poller.start()
        if pinned is not None:
            if self._poller is None:
                pinned.check(self._store.gpus)
            pinned.wait()
            if pinned.errors:
                raise ConfigurationError(*pinned.errors)

    def replace_checks(self, names: GpuNamesCheck, pinned: PinnedModelsCheck) -> None:
        """The thread that reads the GPUs checks again, and publishes the result. GPUs that sleep are woken: their
        settings may no longer permit it."""
        self._names, self._pinned = names, pinned
        if self._poller is None:
            pinned.check(self._store.gpus)
        else:
            self._poller.read_now()

    def read_now(self) -> None:
        if self._poller is not None:
            self._poller.read_now()

    def probe_engine(self) -> None:
        """Read after a new probe of the engine."""
        if self._poller is not None:
            self._poller.probe_engine()

    def close(self) -> None:
        if self._poller is not None:
            self._poller.close()

    def _publish(self, gpus: GpuSnapshot) -> None:
        """Called by the poller's thread."""
        self._post(ev.GpusPolled(gpus, time.monotonic()))
        self._log_own_engines(gpus)
        self.trends.add(gpus)
        self._names.check(gpus)
        if self._pinned is not None:
            self._pinned.check(gpus)

    def _log_own_engines(self, gpus: GpuSnapshot) -> None:
        """What models' own engines cannot use, once; that one does not work at all is logged when it is probed."""
        states = {engine: replace(state, problem="") for engine, state in self._engines.states().items()}
        found = (*own_engine_problems(states, gpus), *gpus_it_cannot_use(states, gpus))
        problems = tuple(dict.fromkeys(found)) if gpus.views else self._logged
        for problem in problems:
            if problem not in self._logged:
                log.warning("%s", problem)
        self._logged = problems

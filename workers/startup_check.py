"""StartupCheck: what a configuration must pass before it is used: at a start, and again at a reload."""

from __future__ import annotations

from app.settings.configuration import ConfigurationError
from app.settings.schema import Settings
from app.use_cases.model_shape.shape import ModelShape
from workers.agents import load_agents
from workers.build_catalog import build_catalog
from workers.build_limits import build_limits
from workers.catalog.catalog import Catalog
from workers.catalog.model_headers import ModelHeaders
from workers.engine.engines import Engines
from workers.gpu.ram import read_memory
from workers.pool.estimate_source import EstimateSource
from workers.pool.pinned_models import PinnedModelsCheck, pinned_requests
from workers.reload import CheckedConfiguration
from workers.telemetry.store import StateStore


class StartupCheck:
    """Changes nothing of the service. Thread-safe as far as its parts are; reloads call it one at a time."""

    def __init__(
        self,
        store: StateStore,
        catalog: Catalog,
        shapes: ModelHeaders[ModelShape],
        needs: EstimateSource,
        engines: Engines,
    ) -> None:
        self._store, self._catalog, self._shapes, self._needs, self._engines = store, catalog, shapes, needs, engines

    def candidate(self, settings: Settings) -> CheckedConfiguration:
        """Checks what a start checks. Raises ConfigurationError and OSError."""
        load_agents(settings.agents)
        catalog = build_catalog(settings, self._shapes, earlier=self._catalog)
        if not catalog.is_scanned:
            raise OSError("the models could not be searched; the log says why")
        check = self.of_pinned(settings, catalog)
        if errors := check.certain_errors(self._store.gpus):
            raise ConfigurationError(*errors)
        return CheckedConfiguration(settings, catalog, check)

    def of_pinned(self, settings: Settings, catalog: Catalog) -> PinnedModelsCheck:
        pinned = pinned_requests(settings.pinned, catalog, self._needs)
        return PinnedModelsCheck(self._store, pinned, build_limits(settings, self._engines), read_memory)

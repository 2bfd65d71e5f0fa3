"""Reloads the configuration: reads it again, checks it as a start would, and applies what changed.

Until everything is checked, nothing is applied. One reload runs at a time; each reads its sources anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.entities.configuration import ConfigurationState
from app.entities.frozen import replace
from app.entities.model import Model
from app.errors import Draining, InvalidConfiguration, Overloaded
from app.settings.configuration import Configuration, ConfigurationError, read_configuration
from app.settings.reload import applicable_settings, changed_keys, pending_restart
from app.settings.schema import Settings
from app.use_cases.reporting.reload_report import ModelChanges, ReloadReport, model_changes
from workers.catalog.catalog import Catalog
from workers.pool.pinned_models import PinnedModelsCheck
from workers.telemetry.store import StateStore

log = logging.getLogger(__name__)

MAX_RELOADS = 4  # running and waiting: each keeps a thread from other requests


@dataclass(frozen=True, slots=True)
class CheckedConfiguration:
    """A checked configuration that is about to be applied."""

    settings: Settings  # those that need no restart are new
    catalog: Catalog
    pinned: PinnedModelsCheck


class ConfigurationReload:
    """`prepare` makes a candidate of settings and may raise ConfigurationError and OSError, `apply` puts it into
    force."""

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        catalog: Catalog,
        prepare: Callable[[Settings], CheckedConfiguration],
        apply: Callable[[CheckedConfiguration, ModelChanges], None],
    ) -> None:
        self._settings = settings  # in force; this and StateStore.configuration: under the lock
        self._warnings: tuple[str, ...] = ()  # of the last configuration that was read
        self._store = store
        self._catalog = catalog
        self._prepare = prepare
        self._apply = apply
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_RELOADS)

    def reload(self) -> ReloadReport:
        """Apply the changes of the sources. Where they are invalid, only model files are searched, and
        InvalidConfiguration says why. Raises Draining while the service shuts down, and Overloaded if several reloads
        wait: they will see whatever this one would see."""
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{MAX_RELOADS} reloads are running or waiting already")
        try:
            with self._lock:
                return self._reload()
        finally:
            self._places.release()

    def _reload(self) -> ReloadReport:
        if self._store.pool.draining:
            raise Draining("the service is shutting down; its configuration is not reloaded")
        try:
            configuration = read_configuration()
            candidate = self._prepare(applicable_settings(configuration.settings, self._settings))
        except (ConfigurationError, OSError) as error:
            raise self._failure(error) from error
        return self._put_into_force(candidate, configuration)

    def _failure(self, error: Exception) -> InvalidConfiguration:
        lines = error.lines if isinstance(error, ConfigurationError) else (str(error),)
        for line in lines:
            log.error("configuration not reloaded: %s", line)
        state = self._store.configuration
        self._store.configuration = replace(state, errors=lines, failed_reloads=state.failed_reloads + 1)
        self._catalog.reload()
        return InvalidConfiguration(lines)

    def _put_into_force(self, candidate: CheckedConfiguration, configuration: Configuration) -> ReloadReport:
        changes = model_changes(_by_name(self._catalog), _by_name(candidate.catalog))
        report = ReloadReport(
            changed=changed_keys(self._settings, candidate.settings),
            models=changes,
            needs_restart=pending_restart(configuration.settings, candidate.settings),
            warnings=(*configuration.warnings, *candidate.catalog.warnings),
        )
        self._apply(candidate, changes)
        self._settings = candidate.settings
        state = self._store.configuration
        self._store.configuration = ConfigurationState(
            loaded_at=time.time(), needs_restart=report.needs_restart, failed_reloads=state.failed_reloads
        )
        self._log(report, configuration.warnings)
        return report

    def _log(self, report: ReloadReport, warnings: tuple[str, ...]) -> None:
        """`warnings`: without those of the catalogue, which logs its own."""
        models = report.models
        log.info(
            "configuration reloaded changed=%s added=%s restarted=%s updated=%s removed=%s needs_restart=%s",
            *(report.changed, models.added, models.restarted, models.updated, models.removed, report.needs_restart),
        )
        for warning in warnings:
            if warning not in self._warnings:
                log.warning("configuration: %s", warning)
        self._warnings = warnings


def _by_name(catalog: Catalog) -> dict[str, Model]:
    return {model.name: model for model in catalog.models()}


def newly_preloaded(before: Settings, after: Settings, changes: ModelChanges) -> Iterator[str]:
    """Models with `preload` that are not loaded as they are now: the key is new, or the model has changed."""
    for name, model in after.models.items():
        was_preloaded = name in before.models and before.models[name].preload
        if model.preload and (not was_preloaded or name in (*changes.added, *changes.restarted)):
            yield name

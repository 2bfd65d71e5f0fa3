"""Ports of the published state, and of the reload that replaces the configuration."""

from __future__ import annotations

from typing import Protocol

from app.entities.configuration import ConfigurationState
from app.entities.gpu import GpuSnapshot
from app.use_cases.reporting.decision_record import DecisionRecord
from app.use_cases.reporting.reload_report import ReloadReport
from app.use_cases.scheduling.pool_state import PoolState


class Snapshots(Protocol):
    """The published state, each part frozen (workers.telemetry.store.StateStore). Read it without a lock."""

    @property
    def pool(self) -> PoolState: ...
    @property
    def gpus(self) -> GpuSnapshot: ...
    @property
    def pins(self) -> tuple[str, ...]:
        """Why the pinned models do not fit together; empty if they do."""

    @property
    def configuration(self) -> ConfigurationState: ...
    @property
    def decisions(self) -> tuple[DecisionRecord, ...]:
        """The last ones, newest last."""


class Reloader(Protocol):
    """Reloads the configuration (workers.reload.ConfigurationReload)."""

    def reload(self) -> ReloadReport:
        """Read the sources again and apply what changed. Raises InvalidConfiguration, Draining or Overloaded; nothing
        changed then, except that model files were searched."""

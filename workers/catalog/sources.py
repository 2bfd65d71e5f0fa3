"""Sources: where a catalogue's models come from."""

from __future__ import annotations

from dataclasses import dataclass

from app.entities.launch import LaunchSettings
from app.entities.placement import PlacementConstraints
from workers.catalog.configured_models import ConfiguredModel


@dataclass(frozen=True, slots=True)
class Sources:
    """Where models come from, and the settings of those without an entry. `bases`: folders of relative paths."""

    folders: tuple[str, ...]
    bases: tuple[str, ...]
    cache: str | None
    entries: tuple[ConfiguredModel, ...]
    defaults: LaunchSettings
    constraints: PlacementConstraints
    default_model: str | None

    @property
    def has_replicas(self) -> bool:
        return any(entry.replicas.max > 1 for entry in self.entries)

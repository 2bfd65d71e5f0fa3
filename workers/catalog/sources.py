"""Sources: where a catalogue's models come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.launch import LaunchSettings
from app.entities.model_name import folded
from app.entities.placement import PlacementConstraints
from workers.catalog.configured_models import ConfiguredModel
from workers.catalog.other_programs import ProgramFolder


@dataclass(frozen=True, slots=True)
class Sources:
    """Where models come from, and the settings of those without an entry. `bases`: folders of relative paths."""

    folders: tuple[str, ...]
    bases: tuple[str, ...]
    cache: str | None
    lm_studio: tuple[ProgramFolder, ...]
    ollama: tuple[ProgramFolder, ...]
    entries: tuple[ConfiguredModel, ...]
    defaults: LaunchSettings
    constraints: PlacementConstraints
    default_model: str | None
    any_of: Mapping[str, tuple[str, ...]]  # virtual names, and the models that they stand for

    def members(self, name: str) -> tuple[str, ...]:
        """The models that a virtual name stands for, the exact one or else in any spelling."""
        if not self.any_of:  # at every request
            return ()
        if found := self.any_of.get(name):
            return found
        wanted = folded(name)
        return next((names for each, names in self.any_of.items() if folded(each) == wanted), ())

    @property
    def has_replicas(self) -> bool:
        return any(entry.replicas.max > 1 for entry in self.entries)

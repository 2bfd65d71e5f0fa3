"""Chooses how each start reads its file, on the server's thread: what must be looked at takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.entities.launch import EngineFacts
from app.entities.model import Model
from app.entities.placement import Placement
from app.use_cases.launch.load_mode import (
    FileFacts,
    LoadChoice,
    chosen_load_mode,
    offered_modes,
)
from workers.model_files.file_systems import file_system_of
from workers.model_files.page_cache import cached_share
from workers.model_files.parts import parts_of


@dataclass(frozen=True, slots=True)
class LoadChoices:
    """`spare_ram_bytes`: available, and not booked by anyone."""

    spare_ram_bytes: Callable[[], int]

    def choose(self, model: Model, placement: Placement, engine: EngineFacts) -> LoadChoice:
        """`model`: with the settings of this start."""
        file = self._file_facts(model)
        return replace(chosen_load_mode(model.launch, placement, offered_modes(engine), file), file=file)

    def _file_facts(self, model: Model) -> FileFacts:
        share, found = cached_share(parts_of(model.path)), file_system_of(model.path)
        return FileFacts(share, found.type, found.mount, self.spare_ram_bytes())

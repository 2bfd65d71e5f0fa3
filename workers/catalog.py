"""Catalogue: the names clients may ask for, and the files behind them. The only way from a name to a path."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.entities.launch import LaunchSettings
from app.entities.model import Model
from app.errors import ModelNotFound

log = logging.getLogger(__name__)


class Catalog:
    """Models by name. Replaced whole by `reload`; a look-up touches no file."""

    def __init__(self, folders: Sequence[Path], launch: LaunchSettings) -> None:
        self._folders = folders
        self._launch = launch
        self._models: Mapping[str, Model] = {}
        self.reload()

    def reload(self) -> None:
        """Look at the folders again."""
        self._models = {model.name: model for model in self._scan()}
        log.info("catalogue models=%d folders=%d", len(self._models), len(self._folders))

    def find(self, name: str) -> Model:
        """The model of that name, exactly. Raises ModelNotFound."""
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(name)
        return model

    def models(self) -> list[Model]:
        return sorted(self._models.values(), key=lambda model: model.name)

    def _scan(self) -> Iterator[Model]:
        for folder in self._folders:
            if not folder.is_dir():
                log.warning("models_dirs: %s is not a folder", folder)
                continue
            for file in sorted(folder.glob("*.gguf")):
                if not file.name.startswith("mmproj"):  # a projector serves beside its model, never alone
                    stat = file.stat()
                    yield Model(file.stem, str(file.resolve()), stat.st_size, int(stat.st_mtime), self._launch)

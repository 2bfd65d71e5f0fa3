"""Catalogue: the names clients may ask for, and the files behind them. The only way from a name to a path."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.entities.launch import LaunchSettings
from app.entities.model import Model
from app.errors import ModelNotFound

log = logging.getLogger(__name__)


_LATER_SHARD = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")  # the first one of a split model names it


class Catalog:
    """Models by name. Replaced whole by `reload`; a look-up touches no file."""

    def __init__(self, folders: Sequence[Path], launch: LaunchSettings) -> None:
        self._folders = folders
        self._launch = launch
        self._models: Mapping[str, Model] = {}
        self.reload()

    def reload(self) -> None:
        """Look at the folders again."""
        models: dict[str, Model] = {}
        for model in self._scan():
            if first := models.get(model.name):
                log.warning("%s is not served: %s has the same name", model.path, first.path)
            else:
                models[model.name] = model
        self._models = models
        log.info("catalogue models=%d folders=%s", len(models), [str(folder) for folder in self._folders])

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
            try:
                files = sorted(folder.iterdir())
            except OSError as error:
                log.warning("models_dirs: %s cannot be read: %s", folder, error.strerror)
                continue
            for file in files:
                if file.suffix.lower() == ".gguf" and (model := self._model(file)):
                    yield model

    def _model(self, file: Path) -> Model | None:
        """The model in a file; None, with the reason in the log, for what is none."""
        if file.name.startswith((".", "mmproj")) or _LATER_SHARD.search(file.stem):
            return None  # hidden; a projector, which serves beside its model; a part of another
        if not file.stem.isprintable():  # nor is what is not UTF-8
            log.warning("not served, its name cannot be shown: %r", str(file))
            return None
        try:
            path = file.resolve(strict=True)
            stat = path.stat()
        except OSError as error:
            log.warning("%s is not served: %s", file, error.strerror)
            return None
        if not path.is_file():
            log.warning("%s is not served: it is no file", file)
            return None
        return Model(file.stem, str(path), stat.st_size, int(stat.st_mtime), self._launch)

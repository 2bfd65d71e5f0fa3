"""The catalogue, and files that its models need."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from app.entities.model import Model
from app.use_cases.diagnosis.models import CheckedModel, ModelFacts, ModelFolder
from app.use_cases.launch.parsed_args import companion_paths
from workers.catalog.catalog import Catalog

HEADER_SECONDS = 20.0


def read_models(
    folders: Sequence[Path], configured: frozenset[str], build: Callable[[], Catalog], is_configured: bool
) -> ModelFacts:
    """What a scan finds, with every header read for which there is time. `configured`: the names of models."""
    read = [ModelFolder(str(folder), _folder_problem(folder)) for folder in folders]
    catalog = build()
    models = catalog.read_headers(catalog.models(), HEADER_SECONDS)
    reported = [*(each.path for each in read if each.problem), *(model.problem for model in models if model.problem)]
    notes = [note for note in catalog.warnings if not any(each in note for each in reported)]
    return ModelFacts(read, [*map(_checked, models)], configured, notes, is_configured)


def _folder_problem(folder: Path) -> str:
    try:
        with os.scandir(folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _checked(model: Model) -> CheckedModel:
    is_locked = "--mlock" in model.launch.args
    return CheckedModel(model.name, model.size_bytes, model.problem, is_locked, model.source, tuple(_missing(model)))


def _missing(model: Model) -> Iterator[str]:
    files = companion_paths(model.launch)
    if not model.problem:  # of a projector, too
        yield from (path for path in (files.draft, *files.adapters) if path and not os.access(path, os.R_OK))

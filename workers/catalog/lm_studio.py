"""LM Studio's models, PUBLISHER/REPO/FILE.gguf, which are named as the repositories that they came from.

The layout: https://lmstudio.ai/docs/app/advanced/import-model. A file at another depth is named as in a models_dir. Its
`hub` folder beside `models` has descriptions (model.yaml), no files of models.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import replace

from app.entities.model import ModelSource
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import GgufFile, walk
from workers.catalog.hub_cache import repository_models
from workers.catalog.model_files import DiscoveredModel, discovered_in_folder, group_files
from workers.catalog.other_programs import ProgramFolder, read_small_file

HINT = "let the user of this service read it, or set catalog.lm_studio: off"
_POINTER = "~/.lmstudio-home-pointer"
_HOMES = ("~/.lmstudio", "~/.cache/lm-studio")
_MAX_POINTER_BYTES = 4096
_MAX_SETTINGS_BYTES = 1 << 20
_DEPTH = 2  # folders above a file


def lm_studio_folders() -> tuple[ProgramFolder, ...]:
    """Where LM Studio of this user keeps its models: in the folder that its pointer file names, or in its default ones
    (lmstudio-ai/lmstudio.js, findLMStudioHome; that of older releases is ~/.cache/lm-studio)."""
    homes = dict.fromkeys([*_pointed_home(), *map(os.path.expanduser, _HOMES)])
    return tuple(ProgramFolder(folder) for folder in dict.fromkeys(map(_models_folder, homes)))


def _pointed_home() -> list[str]:
    try:
        home = os.fsdecode(read_small_file(os.path.expanduser(_POINTER), _MAX_POINTER_BYTES)).strip()
    except (OSError, ValueError):
        return []
    return [home] if os.path.isabs(home) and "\0" not in home else []


def _models_folder(home: str) -> str:
    """The one chosen in LM Studio, `downloadsFolder` of its settings, else `models`."""
    try:
        chosen = json.loads(read_small_file(os.path.join(home, "settings.json"), _MAX_SETTINGS_BYTES))
        folder = chosen["downloadsFolder"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        folder = None
    is_usable = isinstance(folder, str) and os.path.isabs(folder) and "\0" not in folder
    return os.path.normpath(folder if is_usable else os.path.join(home, "models"))


def discover_lm_studio(folder: ProgramFolder, summaries: FileSummaries, notes: list[str]) -> list[DiscoveredModel]:
    """The models of one folder."""
    if not folder.is_readable(notes, HINT):
        return []
    repositories: dict[str, list[GgufFile]] = defaultdict(list)
    loose: list[GgufFile] = []
    for file in walk(folder.path, summaries, notes, set()):
        parts = file.relative_path.split("/", _DEPTH)
        if len(parts) > _DEPTH:
            repositories["/".join(parts[:_DEPTH])].append(replace(file, relative_path=parts[_DEPTH]))
        else:
            loose.append(file)
    found = [model for repo, files in repositories.items() for model in repository_models(repo, files, notes)]
    found += map(discovered_in_folder, group_files(loose, notes))
    return [replace(model, files=replace(model.files, source=ModelSource.LM_STUDIO)) for model in found]

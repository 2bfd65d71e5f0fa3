"""The Hugging Face cache: GGUF files that `hf download` or another program downloaded, by repository.

Does not use huggingface_hub.scan_cache_dir (2.4.0), which skips a whole repository for one broken link or one reference
to a missing revision, and reads every file of every data set. A test compares the two.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from app.entities.gguf_names import file_stem, parse_part_name
from app.entities.model import ModelSource
from app.use_cases.downloads.model_names import models_by_folded_name, names_to_list, order_in_repository
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import GgufFile, walk
from workers.catalog.model_files import DiscoveredModel, group_files
from workers.catalog.other_programs import read_small_file

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FOLDER = "models--"  # models--user--repo/{blobs,refs/main,snapshots/REVISION/FILE -> ../../blobs/HASH}


def discover_cached(cache: str, summaries: FileSummaries, notes: list[str]) -> list[DiscoveredModel]:
    """All complete downloads, by repository and file; none if there is no cache."""
    found = []
    for folder in _names_in(cache, notes) if os.path.lexists(cache) else ():
        if folder.startswith(_FOLDER):
            repo = folder.removeprefix(_FOLDER).replace("--", "/")
            files = _files(os.path.join(cache, folder), summaries, notes)
            found += repository_models(repo, map(_with_digest, files), notes)
    return [replace(model, files=replace(model.files, source=ModelSource.HUGGING_FACE)) for model in found]


def companion_in_cache(cache: str, repo: str, summaries: FileSummaries) -> GgufFile | None:
    """The file "user/repo:FILE", which is not a model."""
    wanted = repo.partition(":")[2]
    files = _files(_folder_of(cache, repo), summaries, [])
    return next((file for file in files if wanted in (file.name, file_stem(file.name), file.relative_path)), None)


def is_being_downloaded(cache: str, repo: str) -> bool:
    """Whether a file of this repository is not complete; huggingface_hub does not say which before it is."""
    blobs = os.path.join(_folder_of(cache, repo), "blobs")
    return any(name.endswith(".incomplete") for name in _names_in(blobs, []))


def _folder_of(cache: str, repo: str) -> str:
    """The folder of "user/repo" or "user/repo:FILE"."""
    return os.path.join(cache, _FOLDER + repo.partition(":")[0].replace("/", "--"))


def repository_models(repo: str, files: Iterable[GgufFile], notes: list[str]) -> list[DiscoveredModel]:
    """The models of one repository with their names. The files' paths are relative to it."""
    in_order = sorted(files, key=lambda file: order_in_repository(file.relative_path))
    models = group_files(in_order, notes, one_family=True)
    paths = [model.relative_path for model in models]
    keys: dict[int, list[str]] = defaultdict(list)
    for key, index in models_by_folded_name(repo, paths).items():
        keys[index].append(key)
    listed = names_to_list(repo, paths)
    return [
        DiscoveredModel(model, names, folded_names=tuple(keys[index]))
        for index, (model, names) in enumerate(zip(models, listed, strict=True))
    ]


def _files(folder: str, summaries: FileSummaries, notes: list[str]) -> list[GgufFile]:
    """The files of the current revision, which is that in refs/main, else the one modified last; and those that only an
    earlier one has: to download one file of a repository that has changed does not take the others away."""
    snapshots, main = os.path.join(folder, "snapshots"), _main_revision(folder)
    if os.path.isdir(os.path.join(folder, "blobs")) and not os.path.lexists(snapshots):
        return []  # its first download runs
    revisions = {
        revision: list(_complete_files(os.path.join(snapshots, revision), summaries, notes))
        for revision in _names_in(snapshots, notes)
    }
    latest_first = sorted(revisions, key=lambda each: (each == main, _last_change(revisions[each])), reverse=True)
    found: dict[str, list[GgufFile]] = {}
    for revision in latest_first:
        found = {**_by_part_set(revisions[revision]), **found}
    return [file for files in found.values() for file in files]


def _last_change(files: Iterable[GgufFile]) -> int:
    return max((file.mtime_ns for file in files), default=0)


def _by_part_set(files: Iterable[GgufFile]) -> dict[str, list[GgufFile]]:
    """Parts of one model are of one revision."""
    found: dict[str, list[GgufFile]] = defaultdict(list)
    for file in files:
        part = parse_part_name(file.relative_path)
        found[f"{part[0]} of {part[2]}" if part else file.relative_path].append(file)
    return found


def _complete_files(snapshot: str, summaries: FileSummaries, notes: list[str]) -> Iterator[GgufFile]:
    """The files of a snapshot, without dangling links: those are incomplete downloads."""
    return (file for file in walk(snapshot, summaries, notes, set()) if not file.is_missing)


def _with_digest(file: GgufFile) -> GgufFile:
    """A large file's blob is named by its SHA-256, any other's by its git hash."""
    try:
        blob = os.path.basename(os.readlink(file.path))
    except OSError:  # a copy, where links are not possible
        return file
    return replace(file, sha256=blob) if _SHA256.fullmatch(blob) else file


def _main_revision(folder: str) -> str:
    try:
        return read_small_file(os.path.join(folder, "refs", "main"), 256).decode(errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _names_in(folder: str, notes: list[str]) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        notes.append(f"{folder} cannot be read: {error.strerror}")
        return []

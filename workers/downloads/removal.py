"""Deletes a model's files from the Hugging Face cache, and what only they kept there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from app.entities.gguf_names import all_part_paths
from app.entities.model import Model, ModelSource
from app.errors import NotSupported
from app.use_cases.launch.parsed_args import companion_paths
from workers.downloads.cache_layout import RepositoryFolder, cached_file


def delete_from_cache(cache: Path, model: Model, unused_by: Sequence[Model]) -> int:
    """The bytes that became free. Files that a model of `unused_by` has too stay.

    Raises NotSupported for a model of another folder, and if the files cannot be deleted."""
    folder = _repository_folder(cache, model).path
    kept = {os.path.realpath(path) for each in unused_by if each.name != model.name for path in files_of(each)}
    doomed = {os.path.realpath(path) for path in files_of(model)} - kept
    pointers = [each for each in _pointers(folder) if os.path.realpath(each) in doomed]
    try:
        freed = sum(_delete(blob, cache) for blob in set(map(_blob, pointers)))
        for pointer in pointers:
            pointer.unlink(missing_ok=True)
        _remove_empty(folder)
    except OSError as error:
        raise NotSupported(f"{model.name} cannot be deleted: {error.strerror} ({error.filename})") from error
    return freed


def files_of(model: Model) -> list[str]:
    """All files of a model: its parts, and its companions, also those that it may draft with."""
    companions = companion_paths(model.launch)
    found = [companions.projector, companions.draft, *companions.adapters]
    return [*all_part_paths(model.path), *(path for path in found if path), *model.draft_heads]


def _repository_folder(cache: Path, model: Model) -> RepositoryFolder:
    """Raises NotSupported."""
    if (found := cached_file(cache, model.path)) is None:
        raise NotSupported(_why_not_here(model))
    folder = RepositoryFolder(cache, found.repo)
    if not folder.is_valid:
        raise NotSupported(f"{model.name} is in a folder that no download has made: delete its files yourself")
    _check_stays_in_cache(folder)
    return folder


def _why_not_here(model: Model) -> str:
    """And what to do. A file of Ollama may be that of several models."""
    if model.source is ModelSource.OLLAMA:
        return f"{model.name} is in Ollama's folder, which is never changed: `ollama rm` deletes it"
    where = os.path.dirname(model.path) or "no folder"
    if model.source is ModelSource.LM_STUDIO:
        return f"{model.name} is in LM Studio's folder, which is never changed: delete it there ({where})"
    return f"{model.name} is in {where}, not in the Hugging Face cache: delete its files yourself"


def _check_stays_in_cache(folder: RepositoryFolder) -> None:
    """Raises NotSupported where a folder of the repository is a link to a place that is somebody else's."""
    for path in (folder.path, folder.path / "snapshots", folder.path / "blobs"):
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.cache)):
            raise NotSupported(f"{path} leads out of the Hugging Face cache: delete its files yourself")


def _pointers(folder: Path) -> Iterator[Path]:
    """The files of all its snapshots."""
    for parent, _, names in os.walk(folder / "snapshots"):
        yield from (Path(parent, name) for name in names)


def _blob(pointer: Path) -> Path:
    """What a pointer points to; the pointer itself where the file system has no links."""
    return Path(os.path.normpath(pointer.parent / os.readlink(pointer))) if pointer.is_symlink() else pointer


def _delete(blob: Path, cache: Path) -> int:
    """The bytes that became free. A blob may be a link to one that huggingface_hub shares between repositories.

    A link out of the cache leads to somebody's file, which stays."""
    if not Path(os.path.abspath(blob)).is_relative_to(os.path.abspath(cache)):
        return 0
    size, target = blob.stat().st_size, Path(os.path.realpath(blob))
    was_link = blob.is_symlink()
    blob.unlink()
    if was_link:
        is_shared = target.is_relative_to(os.path.realpath(cache))
        if not is_shared or any(os.path.realpath(each) == str(target) for each in cache.glob("*--*/blobs/*")):
            return 0
        target.unlink(missing_ok=True)
        target.with_name(f"{target.name}.refs").unlink(missing_ok=True)
    return size


def delete_partial_files(cache: Path, repo: str, etags: Container[str] | None = None) -> int:
    """The bytes that became free: what unfinished downloads of "user/repo" left, except what a process downloads now.
    `etags`: of the files that are meant; None for all.

    Raises NotSupported if they cannot be deleted."""
    folder, freed = RepositoryFolder(cache, repo), 0
    _check_stays_in_cache(folder)
    try:
        for partial in folder.partials():
            is_meant = etags is None or partial.name.partition(".")[0] in etags
            if is_meant and not folder.is_locked(partial):
                freed += partial.stat().st_size
                partial.unlink()
        _remove_empty(folder.path)
    except OSError as error:
        raise NotSupported(f"{error.filename} cannot be deleted: {error.strerror}") from error
    return freed


def _remove_empty(folder: Path) -> None:
    """Its empty snapshots, and the folder itself once it has no file any more."""
    for parent, _, _ in os.walk(folder / "snapshots", topdown=False):
        if not os.listdir(parent) and Path(parent) != folder / "snapshots":
            os.rmdir(parent)
    blobs = folder / "blobs"
    if folder.exists() and not any(_pointers(folder)) and not (blobs.is_dir() and os.listdir(blobs)):
        shutil.rmtree(folder)

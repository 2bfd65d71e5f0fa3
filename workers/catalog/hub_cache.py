"""The Hugging Face cache: GGUF files that `hf download` or another program fetched, by repository.

Does not use huggingface_hub.scan_cache_dir (2.4.0), which skips a whole repository for one broken link or one reference
to a missing revision, and reads every file of every data set. A test compares the two.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from app.entities.gguf_names import file_stem, name_suffixes, quantization
from app.entities.model import ModelSource
from app.entities.model_name import folded
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import GgufFile, walk
from workers.catalog.model_files import DiscoveredModel, ModelFiles, group_files

DEFAULT_QUANTIZATION = "Q4_K_M"  # as llama-server's -hf
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


def is_being_fetched(cache: str, repo: str) -> bool:
    """Whether a file of this repository is not complete; huggingface_hub does not say which before it is."""
    blobs = os.path.join(_folder_of(cache, repo), "blobs")
    return any(name.endswith(".incomplete") for name in _names_in(blobs, []))


def _folder_of(cache: str, repo: str) -> str:
    """The folder of "user/repo" or "user/repo:FILE"."""
    return os.path.join(cache, _FOLDER + repo.partition(":")[0].replace("/", "--"))


def repository_models(repo: str, files: Iterable[GgufFile], notes: list[str]) -> list[DiscoveredModel]:
    """The models of one repository, named by their quantization where it is unique. The files' paths are relative to
    it."""
    in_order = sorted(files, key=lambda file: (file.name, file.relative_path.count("/"), file.relative_path))
    models = group_files(in_order, notes, one_family=True)
    kinds = [quantization(model.name) for model in models]
    count = Counter(kinds)
    keys: dict[str, list[str]] = defaultdict(list)
    for key, model in _folded_names(repo, models, kinds).items():
        keys[model.path].append(key)
    found = []
    for model, kind in zip(models, kinds, strict=True):
        by_file = (f"{repo}:{model.name}", f"{repo}:{file_stem(model.relative_path)}")
        names = (f"{repo}:{kind}", *by_file) if kind and count[kind] == 1 else by_file
        found.append(DiscoveredModel(model, names, folded_names=tuple(keys[model.path])))
    return found


def _folded_names(repo: str, models: Sequence[ModelFiles], kinds: Sequence[str]) -> dict[str, ModelFiles]:
    """Folded names -> models. The more specific kind of name takes precedence, then the first model by name."""
    keys: dict[str, ModelFiles] = {}
    for model, kind in zip(models, kinds, strict=True):
        keys.setdefault(folded(f"{repo}:{kind or model.name}"), model)
    for model in models:
        for file in (model.name, file_stem(model.relative_path), model.relative_path, os.path.basename(model.path)):
            keys.setdefault(folded(f"{repo}:{file}"), model)
    for model in models:
        for variant in name_suffixes(model.name):
            keys.setdefault(folded(f"{repo}:{variant}"), model)
    if models:
        default = keys.get(folded(f"{repo}:{DEFAULT_QUANTIZATION}"), models[0])
        keys.setdefault(folded(repo), default)
    return keys


def _files(folder: str, summaries: FileSummaries, notes: list[str]) -> list[GgufFile]:
    """The files of the current revision: the one in refs/main, else the one modified last."""
    snapshots = os.path.join(folder, "snapshots")
    revisions = _names_in(snapshots, notes)
    main = _main_revision(folder)
    chosen = [main] if main in revisions else revisions
    found = [list(_complete_files(os.path.join(snapshots, revision), summaries, notes)) for revision in chosen]
    return max(found, key=lambda files: max((file.mtime_ns for file in files), default=0), default=[])


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
        with open(os.path.join(folder, "refs", "main"), encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _names_in(folder: str, notes: list[str]) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        notes.append(f"{folder} cannot be read: {error.strerror}")
        return []

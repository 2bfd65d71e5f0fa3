"""Ollama's models: their manifests, and the files in `blobs` that these name. Nothing is written there.

    models/manifests/HOST/NAMESPACE/MODEL/TAG    JSON, see ollama_manifest.py
    models/manifests-v2/...                      the same in newer releases, which keep both for a while
    models/blobs/sha256-DIGEST                   GGUF files, and templates, parameters and licences

(ollama/ollama, manifest/paths.go)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from app.entities.gguf import FileKind
from app.entities.model import ModelSource
from app.entities.request_rules import RequestRules
from app.use_cases.model_shape.servable import COMPANIONS
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import GgufFile, inspect_file
from workers.catalog.model_files import DiscoveredModel, LoraAdapter, ModelFiles, mismatch_of
from workers.catalog.ollama_manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestName,
    parse_manifest,
)
from workers.catalog.ollama_parameters import MAX_PARAMETERS_BYTES, MAX_PROMPT_BYTES, parameter_rules
from workers.catalog.other_programs import ProgramFolder, read_small_file

HINT = "add the user of this service to the group ollama, or set catalog.ollama: off"
_MANIFESTS = ("manifests-v2", "manifests")  # the newer one takes precedence: manifest/paths.go:resolveManifestPath
_SHOWN = len("sha256-") + 12  # characters of a file's name, as Ollama shows it
_DEPTH = 4  # HOST/NAMESPACE/MODEL/TAG


def ollama_folders(environment: Mapping[str, str]) -> tuple[ProgramFolder, ...]:
    """Where Ollama keeps its models: OLLAMA_MODELS, else those of this user and of its packages for Linux.

    Of ollama/ollama, envconfig/config.go:Models and docs/linux.mdx, of the packages of Arch Linux and NixOS, and the
    snap.
    """
    if chosen := environment.get("OLLAMA_MODELS"):
        return (ProgramFolder(os.path.abspath(chosen)),)
    places = (
        os.path.expanduser("~/.ollama/models"),
        "/usr/share/ollama/.ollama/models",
        "/var/lib/ollama/.ollama/models",
        "/var/lib/ollama/models",
        "/var/lib/ollama",
        "/var/snap/ollama/common/models",
    )
    return tuple(map(ProgramFolder, places))


def discover_ollama(folder: ProgramFolder, summaries: FileSummaries, notes: list[str]) -> list[DiscoveredModel]:
    """The models of one folder with `manifests` and `blobs`."""
    if not folder.is_readable(notes, HINT):
        return []
    store = _Store(folder.path, summaries)
    found = store.models()
    if folder.is_configured and not store.has_manifests:
        notes.append(f"{folder.path} is not a folder of Ollama's models: it has no folder called manifests")
    notes += store.notes()
    return found


class _Store:
    """One scan of a folder of models."""

    def __init__(self, path: str, summaries: FileSummaries) -> None:
        self._path = path
        self._blobs = os.path.join(path, "blobs")
        self._summaries = summaries
        self._unreadable: list[str] = []  # what cannot be read, and why: files of another user
        self._invalid: list[str] = []
        self.has_manifests = False

    def models(self) -> list[DiscoveredModel]:
        found: dict[tuple[str, ...], DiscoveredModel] = {}
        for root in _MANIFESTS:
            for path, parts in self._manifests(os.path.join(self._path, root), ()):
                name = ManifestName(*parts)
                if name.is_valid and name.key not in found and (manifest := self._manifest(path)):
                    found[name.key] = self._discovered(name, manifest)
        return sorted(found.values(), key=_number_of_folders)

    def notes(self) -> Iterator[str]:
        """One of each kind, however many there are."""
        for problems, hint in ((self._unreadable, f"; {HINT}"), (self._invalid, "")):
            if problems:
                others = f" (and {len(problems) - 1} more in {self._path})" if len(problems) > 1 else ""
                yield f"{problems[0]}{others}{hint}"

    def _manifests(self, folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(path, parts of the name) of the files at their depth; other files are not looked at."""
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or a file among folders
            return
        except OSError as error:
            self._unreadable.append(f"{folder} cannot be read: {error.strerror}")
            return
        self.has_manifests = True
        for name in names:
            path, parts = os.path.join(folder, name), (*above, name)
            if len(parts) == _DEPTH:
                yield path, parts
            else:
                yield from self._manifests(path, parts)

    def _manifest(self, path: str) -> Manifest | None:
        """None if there is none that can be used."""
        try:
            found = parse_manifest(read_small_file(path, MAX_MANIFEST_BYTES))
            if isinstance(found, str):  # the manifest is a list, and has been chosen from
                found = parse_manifest(read_small_file(os.path.join(self._blobs, found), MAX_MANIFEST_BYTES))
            return found if isinstance(found, Manifest) else None
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:
            self._unreadable.append(f"{path} cannot be read: {error.strerror}")
        except ValueError as error:
            self._invalid.append(f"{path} is not used: it {error}")
        return None

    def _discovered(self, name: ManifestName, manifest: Manifest) -> DiscoveredModel:
        model = self._file(manifest.model, name)
        files = ModelFiles(
            name.listed[0],
            model.path,
            model.relative_path,
            (model,),
            model.problem or _kind_problem(model, FileKind.MODEL),
            source=ModelSource.OLLAMA,
            adapters=tuple(LoraAdapter(os.path.join(self._blobs, blob)) for blob in manifest.adapters),
            requests=self._requests(name, manifest),
        )
        projectors = [self._file(blob, name) for blob in manifest.projectors]
        return DiscoveredModel(_with_projector(files, projectors), name.listed, name.others)

    def _requests(self, name: ManifestName, manifest: Manifest) -> RequestRules:
        """None, if they cannot be used: the model is served without them."""
        try:
            parameters = self._small_blob(manifest.parameters, MAX_PARAMETERS_BYTES)
            return parameter_rules(parameters, self._small_blob(manifest.system_prompt, MAX_PROMPT_BYTES))
        except OSError as error:
            self._unreadable.append(f"{error.filename} cannot be read: {error.strerror}")
        except ValueError as error:
            self._invalid.append(f"{name.listed[0]} is served without its parameters and system prompt: it {error}")
        return RequestRules()

    def _small_blob(self, blob: str, most_bytes: int) -> bytes:
        return read_small_file(os.path.join(self._blobs, blob), most_bytes) if blob else b""

    def _file(self, blob: str, name: ManifestName) -> GgufFile:
        file = inspect_file(os.path.join(self._blobs, blob), self._summaries, blob)
        if file.is_missing:  # also while Ollama downloads it, as BLOB-partial: server/download.go
            hint = f"`ollama pull {name.listed[0]}` downloads it, or resumes that"
            file = replace(file, problem=f"{blob[:_SHOWN]}... is missing in {self._blobs}: {hint}")
        elif file.problem.endswith(os.strerror(errno.EACCES)):
            file = replace(file, problem=f"{file.problem}; {HINT}")
        return replace(file, sha256=blob.removeprefix("sha256-").lower())


def _number_of_folders(model: DiscoveredModel) -> int:
    """In the name. Of one file's names, it is listed under the shortest kind: gemma3 before hf.co/google/gemma3."""
    return model.names[0].count("/")


def _with_projector(files: ModelFiles, projectors: list[GgufFile]) -> ModelFiles:
    """llama-server takes one, Ollama's models have at most one."""
    if not projectors:
        return files
    projector = projectors[0]
    problem = projector.problem or _kind_problem(projector, FileKind.PROJECTOR)
    if not problem and not files.takes(projector):
        problem = mismatch_of(files, projector)
    return replace(files, projector=projector, problem=files.problem or problem)


def _kind_problem(file: GgufFile, expected: FileKind) -> str:
    if file.kind is expected:
        return ""
    return f"{file.name} {COMPANIONS.get(file.kind, 'is a model, not a multimodal projector')}"

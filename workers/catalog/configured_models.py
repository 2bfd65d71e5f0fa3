"""Configured models: the entries of `models`, and the files they refer to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.entities.gguf import FileKind
from app.entities.gguf_names import file_stem
from app.entities.launch import PLAIN_DRAFT, LaunchSettings
from app.entities.model import Model, Replicas
from app.entities.model_name import folded, similar_names
from app.entities.placement import PlacementConstraints
from app.entities.request_rules import RequestRules
from app.use_cases.model_shape.servable import COMPANIONS
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import GgufFile, files_in_same_folder, inspect_file
from workers.catalog.hub_cache import companion_in_cache, is_being_downloaded
from workers.catalog.model_files import DiscoveredModel, LoraAdapter, ModelFiles, group_files, mismatch_of
from workers.catalog.unfinished import marker_of


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """An entry of `models`. Without `path` and `repo`, the model discovered under this name."""

    name: str
    launch: LaunchSettings
    path: os.PathLike[str] | None = None  # absolute, or below the configuration's folder or a models_dir
    repo: str | None = None  # user/repo, user/repo:QUANT or user/repo:FILE of the Hugging Face cache
    aliases: tuple[str, ...] = ()
    mmproj: str = "auto"  # auto | off | a path
    lora: tuple[LoraAdapter, ...] = ()  # with paths like `path`
    draft: str = ""  # a model's name, or a path like `path`
    ttl_seconds: float | None = None
    constraints: PlacementConstraints = field(default_factory=PlacementConstraints)
    pin: bool = False
    priority: int = 0
    keep_kv_cache: bool = False
    replicas: Replicas = field(default_factory=Replicas)
    requests: RequestRules = field(default_factory=RequestRules)
    variants: Mapping[str, RequestRules] = field(default_factory=dict)


class ModelFileNotFound(Exception):
    """The file of an entry does not exist; the message says where it was searched."""


class FileResolver:
    """Resolves entries to files, for one scan. `find` looks up discovered models by name, `entry` the others;
    `projectors` are discovered ones, which may belong to a model outside the folders."""

    def __init__(
        self,
        bases: Sequence[str],
        cache: str | None,
        found: Sequence[DiscoveredModel],
        projectors: Sequence[GgufFile],
        find: Callable[[str], DiscoveredModel | None],
        entry: Callable[[str], ConfiguredModel | None],
        summaries: FileSummaries,
    ) -> None:
        self._bases = bases
        self._cache = cache
        plain = [model.files for model in found if not model.files.adapters]
        self._by_path = {part.path: files for files in plain for part in files.parts}
        self._names = [model.names[0] for model in found]
        self._projectors = projectors
        in_cache = [model for model in reversed(found) if model.folded_names]  # reversed: the first keeps a key
        self._cached = {key: model for model in in_cache for key in model.folded_names}
        self._cached |= {name: model for model in in_cache for name in model.names}
        self._find = find
        self._entry = entry
        self._summaries = summaries

    def files(self, entry: ConfiguredModel) -> ModelFiles:
        """The files of an entry, with its companions. Raises ModelFileNotFound."""
        files = self._with_draft(self._with_adapters(self._model_files(entry), entry), entry)
        if entry.mmproj == "auto":
            return files
        files = replace(files, projector=None, unfit_projector=None)
        if entry.mmproj == "off":
            return files
        try:
            projector = self._companion(entry.mmproj)
        except ModelFileNotFound as error:
            raise ModelFileNotFound(f"mmproj: {error}") from error
        mismatch = "" if files.takes(projector) else mismatch_of(files, projector)
        problem = projector.problem or mismatch
        return replace(files, projector=projector, problem=files.problem or (problem and f"mmproj: {problem}"))

    def _with_adapters(self, files: ModelFiles, entry: ConfiguredModel) -> ModelFiles:
        """With those of the entry after its own, and their scales in every request that names none.

        llama-server otherwise computes on with what an earlier request has cached under other scales (b11549,
        server-context.cpp, launch_slot_with_task).
        """
        if not entry.lora:
            return files
        try:
            found = [(self._companion(each.path), each.scale) for each in entry.lora]
        except ModelFileNotFound as error:
            raise ModelFileNotFound(f"lora: {error}") from error
        wrong = [file.problem or f"{file.name} is no adapter" for file, _ in found if not _is_adapter(file)]
        adapters = (*files.adapters, *(LoraAdapter(file.path, scale) for file, scale in found))
        scales = [{"id": number, "scale": each.scale} for number, each in enumerate(adapters)]
        files = replace(files, requests=files.requests.overridden_by(RequestRules(default={"lora": scales})))
        return replace(files, adapters=adapters, problem=files.problem or (f"lora: {wrong[0]}" if wrong else ""))

    def _with_draft(self, files: ModelFiles, entry: ConfiguredModel) -> ModelFiles:
        if not entry.draft:
            return files
        try:
            path, problem = self._draft(entry)
        except ModelFileNotFound as error:
            raise ModelFileNotFound(f"speculative: {error}") from error
        return replace(files, draft=path, problem=files.problem or (problem and f"speculative: {problem}"))

    def _draft(self, entry: ConfiguredModel) -> tuple[str, str]:
        """Its path, and why it cannot be used."""
        if other := self._entry(entry.draft):
            files = self._model_files(other)
        elif found := self._find(entry.draft):
            files = found.files
        else:
            return self._draft_file(entry)
        return files.path, files.problem

    def _draft_file(self, entry: ConfiguredModel) -> tuple[str, str]:
        try:
            file = self._companion(entry.draft)
        except ModelFileNotFound as error:
            raise ModelFileNotFound(f"no model has this name, and {error}") from error
        if not file.problem and file.kind is FileKind.DRAFT_HEAD and entry.launch.options.speculation == PLAIN_DRAFT:
            return file.path, f"{file.name} is a draft head: set the type, such as draft-eagle3 or draft-mtp"
        is_usable = file.kind in (FileKind.MODEL, FileKind.DRAFT_HEAD)
        return file.path, file.problem or ("" if is_usable else f"{file.name} {COMPANIONS[file.kind]}")

    def _companion(self, path: str) -> GgufFile:
        return inspect_file(self._existing(path), self._summaries, "")

    def _model_files(self, entry: ConfiguredModel) -> ModelFiles:
        if entry.path is not None:
            return self._at(self._existing(os.fspath(entry.path)))
        if found := self._in_cache(entry.repo) if entry.repo else self._find(entry.name):
            return found.files
        if entry.repo and self._cache and (file := companion_in_cache(self._cache, entry.repo, self._summaries)):
            return _single_file_model(file)
        raise ModelFileNotFound(self._not_found_message(entry))

    def _in_cache(self, repo: str) -> DiscoveredModel | None:
        return self._cached.get(repo) or self._cached.get(folded(repo))

    def _existing(self, path: str) -> str:
        path = os.path.expanduser(path)
        places = [os.path.normpath(os.path.join(base, path)) for base in self._bases] or [os.path.abspath(path)]
        for place in dict.fromkeys(places):  # an absolute path gives only one
            if os.path.lexists(place) or marker_of(place):
                return place
        if os.path.isabs(path):
            raise ModelFileNotFound(f"no such file: {path}")
        raise ModelFileNotFound(f"no such file: looked for {path} in {', '.join(dict.fromkeys(self._bases))}")

    def _at(self, path: str) -> ModelFiles:
        """The model a file belongs to, discovered or not."""
        if path in self._by_path:
            return replace(self._by_path[path], requests=RequestRules())  # the file alone: several models may have it
        for files in group_files([*files_in_same_folder(path, self._summaries), *self._projectors], []):
            if any(part.path == path for part in files.parts):
                return files
        return _single_file_model(inspect_file(path, self._summaries, ""))  # a file that a scan would skip

    def _not_found_message(self, entry: ConfiguredModel) -> str:
        if entry.repo:
            return self._not_cached_message(entry.repo)
        places = [*self._bases, *(("the Hugging Face cache",) if self._cache else ())]
        near = similar_names(entry.name, self._names)[:1]
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"no such model: looked for {entry.name} in {', '.join(places) or 'no folder'}{hint}"

    def _not_cached_message(self, repo: str) -> str:
        if not self._cache:
            return f"the Hugging Face cache is disabled: {repo}; set catalog.hugging_face.cache to auto, or to a folder"
        pull = f"llama-smart-proxy pull {repo}"
        if is_being_downloaded(self._cache, repo):
            return f"not in the Hugging Face cache yet: {repo}; it is being downloaded, or resume it with: {pull}"
        return f"not in the Hugging Face cache: {repo}; download it with: {pull}"


def _single_file_model(file: GgufFile) -> ModelFiles:
    """A file that a scan does not list as a model: its problem is that it is a companion, if it is nothing worse."""
    companion = f"{file.name} {COMPANIONS[file.kind]}" if file.kind in COMPANIONS else ""
    return ModelFiles(file_stem(file.name), file.path, file.relative_path, (file,), file.problem or companion)


def _is_adapter(file: GgufFile) -> bool:
    return file.kind is FileKind.ADAPTER and not file.problem


def resolve_configured_model(entry: ConfiguredModel, resolver: FileResolver) -> tuple[Model, ModelFiles | None]:
    """The model of an entry and its files; without files, a model whose `problem` is the reason."""
    try:
        files = resolver.files(entry)
    except ModelFileNotFound as error:
        return Model(
            entry.name,
            "",
            0,
            0,
            entry.launch,
            problem=str(error),
            ttl_seconds=entry.ttl_seconds,
            constraints=entry.constraints,
            repo=entry.repo or "",
        ), None
    model = model_of(entry.name, files, replace(entry.launch, mmproj=None), entry.constraints)
    model = replace(model, ttl_seconds=entry.ttl_seconds, pin=entry.pin, priority=entry.priority)
    # A saved cache does not say under which scales of adapters it was computed.
    keeps = entry.keep_kv_cache and not files.adapters
    return replace(model, keep_kv_cache=keeps, replicas=entry.replicas, repo=entry.repo or ""), files


def model_of(name: str, files: ModelFiles, launch: LaunchSettings, constraints: PlacementConstraints) -> Model:
    size_bytes, projector = files.size_bytes, files.projector
    if projector is not None:
        size_bytes += projector.size_bytes
        launch = replace(launch, mmproj=projector.path)
    launch = replace(launch, args=(*launch.args, *(word for each in files.adapters for word in each.arguments)))
    if files.draft:
        launch = replace(launch, args=(*launch.args, "--model-draft", files.draft))
    return Model(
        name,
        files.path,
        size_bytes,
        created=files.parts[0].mtime_ns // 10**9,
        launch=launch,
        problem=files.problem,
        constraints=constraints,
        media=projector.media if projector is not None else frozenset(),
        source=files.source,
        draft_heads=files.draft_heads,
    )

"""Groups GGUF files into models, with the parts of a split model and its projector.

Which files are models is decided by their headers, what belongs together by names and the width of embeddings. Skipped
files are added to `notes`, for the caller to log.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from app.entities.gguf import FileKind
from app.entities.gguf_names import family_of_head, file_stem, parse_part_name, part_path
from app.entities.model import ModelSource
from app.entities.request_rules import SYSTEM_PROMPT, RequestRules
from app.use_cases.downloads.companions import matching_companions
from workers.catalog.gguf_files import GgufFile


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A LoRA adapter that a model is loaded with; a request may choose another scale."""

    path: str
    scale: float = 1.0

    @property
    def arguments(self) -> tuple[str, str]:
        """llama-server's."""
        return ("--lora", self.path) if self.scale == 1 else ("--lora-scaled", f"{self.path}:{self.scale:g}")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model: a file or all parts of a split one, and its projector."""

    name: str  # the file's stem, without the part number
    path: str  # of the first part, even if it is missing
    relative_path: str  # of the first part, relative to the scanned folder
    parts: tuple[GgufFile, ...]  # without missing ones
    problem: str = ""
    projector: GgufFile | None = None
    source: ModelSource = ModelSource.FILE
    adapters: tuple[LoraAdapter, ...] = ()
    draft: str = ""  # path of the model that drafts tokens for it
    draft_heads: tuple[str, ...] = ()  # paths of those that belong to it by their names
    requests: RequestRules = field(default_factory=RequestRules)  # what came with it
    unfit_projector: GgufFile | None = None  # belongs to it by its name, but its embeddings have another width

    @property
    def kind(self) -> FileKind:
        return self.parts[0].kind

    @property
    def width(self) -> int | None:
        """Of the embeddings that the model takes; None if unknown."""
        return self.parts[0].width

    def takes(self, projector: GgufFile) -> bool:
        """Whether the engine accepts this projector with the model, as far as both widths are known."""
        is_known = projector.kind is FileKind.PROJECTOR and None not in (self.width, projector.width)
        return not is_known or self.width == projector.width

    @property
    def identity(self) -> object:
        """Equal for equal files, even through different links, that are loaded with the same adapters and answer with
        the same system prompt."""
        return self.parts[0].identity or self.path, self.adapters, self.system_prompt

    @property
    def system_prompt(self) -> str:
        return str(self.requests.default.get(SYSTEM_PROMPT, ""))

    @property
    def stamp(self) -> tuple[tuple[int, int], ...]:
        """(size, mtime_ns) of every part: changes when the files do."""
        return tuple((part.size_bytes, part.mtime_ns) for part in self.parts)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Variant:
    """A model of the same files, for whose requests other rules came with it."""

    name: str
    other_names: tuple[str, ...]
    requests: RequestRules


@dataclass(frozen=True, slots=True)
class DiscoveredModel:
    """A model on disk, and its possible names."""

    files: ModelFiles
    names: tuple[str, ...]  # names to list it under, best first
    other_names: tuple[str, ...] = ()  # further exact names
    aliases: tuple[str, ...] = ()  # names that the same file would have been listed under in other places
    variants: tuple[Variant, ...] = ()  # the same with other rules for requests
    folded_names: tuple[str, ...] = ()  # further names, folded, which any spelling of them matches


def discovered_in_folder(files: ModelFiles) -> DiscoveredModel:
    """The model, named after its file, or after its path in the folder if another model has that name."""
    file, relative_path = os.path.basename(files.path), files.relative_path
    part = parse_part_name(relative_path)
    path_name = part[0] if part else file_stem(relative_path)
    return DiscoveredModel(
        files, (files.name, path_name), (file, relative_path, file_stem(file), file_stem(relative_path), path_name)
    )


def group_files(files: Iterable[GgufFile], notes: list[str], one_family: bool = False) -> list[ModelFiles]:
    """The models that these files form, in the order of the files. `one_family`: all are from one repository."""
    sets: dict[tuple[str, int], list[GgufFile]] = defaultdict(list)
    for file in files:
        if file.name.isprintable():
            sets[_part_set(file)].append(file)
        else:  # includes names that are not UTF-8
            notes.append(f"not served, its name is not printable: {file.path!r}")
    grouped = [_model_files(parts, count) for (_, count), parts in sets.items()]
    models = [group for group in grouped if group.kind is FileKind.MODEL]
    projectors = [group for group in grouped if group.kind is FileKind.PROJECTOR]
    notes += [f"{each.path} is not used: {each.problem}" for each in projectors if each.problem]
    heads = [group.path for group in grouped if group.kind is FileKind.DRAFT_HEAD and not group.problem]
    models = _with_draft_heads(models, heads, one_family)
    return _with_projectors(models, [each.parts[0] for each in projectors if not each.problem], one_family)


def _part_set(file: GgufFile) -> tuple[str, int]:
    """Equal for the parts of one model: the path without the part number, and the number of parts."""
    part = parse_part_name(file.path)
    return (part[0] + file.path[-5:], part[2]) if part else (file.path, 0)


def _model_files(parts: Sequence[GgufFile], count: int) -> ModelFiles:
    parts = sorted(parts, key=lambda file: file.path)
    first = parts[0]
    if not count:
        return ModelFiles(file_stem(first.name), first.path, first.relative_path, tuple(parts), first.problem)
    problem = _missing_part(parts, count) or next((part.problem for part in parts if part.problem), "")
    path, relative_path = part_path(first.path, 1), part_path(first.relative_path, 1)
    name = os.path.basename(first.path)[: -len("-00001-of-00001.gguf")]
    return ModelFiles(name, path, relative_path, tuple(parts), problem)


def _missing_part(parts: Sequence[GgufFile], count: int) -> str:
    missing = count - len(parts)
    if not missing:
        return ""
    names = [part.name for part in parts]
    first = next(n for n in range(1, count + 1) if n > len(parts) or names[n - 1] != part_path(names[n - 1], n))
    name = part_path(names[0], first)
    if missing == 1:
        return f"part {first} of {count} is missing: {name}"
    return f"{missing} of {count} parts are missing, the first of them: {name}"


def _with_draft_heads(models: Sequence[ModelFiles], heads: Sequence[str], one_family: bool) -> list[ModelFiles]:
    """Whether one fits is decided by its header, before a load."""
    matching = matching_companions([model.path for model in models], heads, one_family, family_of_head)
    return [replace(model, draft_heads=tuple(dict.fromkeys(matching(model.path)))) for model in models]


def _with_projectors(
    models: Sequence[ModelFiles], projectors: Sequence[GgufFile], one_family: bool
) -> list[ModelFiles]:
    """The models with their projectors: the best match of those that fit."""
    by_path = {file.path: file for file in projectors}
    matching = matching_companions([model.path for model in models], list(by_path), one_family)

    def with_projector(model: ModelFiles) -> ModelFiles:
        candidates = [by_path[path] for path in matching(model.path)]
        projector = next(filter(model.takes, candidates), None)
        unfit = next(iter(candidates), None) if projector is None else None
        return replace(model, projector=projector, unfit_projector=unfit)

    return [with_projector(model) for model in models]


def mismatch_of(model: ModelFiles, projector: GgufFile) -> str:
    """Why the projector cannot be used with the model, in one line."""
    return f"{projector.name} makes embeddings of {projector.width} values, {model.name} takes {model.width}"

"""Model files: groups GGUF files into models, with the parts of a split model and its projector.

Decided by names alone. Skipped files are added to `notes`, for the caller to log.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from workers.catalog.gguf_files import GgufFile
from workers.gguf.file_names import family, file_stem, is_projector, part_of, part_path, quantization

PROJECTOR_ORDER = ("F16", "BF16", "F32", "Q8_0")  # the original weights first, in the type every backend computes in


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model: a file or all parts of a split one, and the projector that goes with it."""

    name: str  # the file's stem, without the number of its part
    path: str  # of the first part, there or not
    relative_path: str  # the same below the folder that was walked
    parts: tuple[GgufFile, ...]  # those that are there
    problem: str = ""
    projector: GgufFile | None = None

    @property
    def identity(self) -> object:
        """Equal for what is the same file, whatever leads to it."""
        return self.parts[0].identity or self.path

    @property
    def stamp(self) -> tuple[tuple[int, int], ...]:
        """What changes when its files do: size and mtime_ns of every part."""
        return tuple((part.size_bytes, part.mtime_ns) for part in self.parts)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class DiscoveredModel:
    """A model on disk, and its possible names."""

    files: ModelFiles
    names: tuple[str, ...]  # the name it is listed under, best first
    other_names: tuple[str, ...] = ()  # further exact names
    lowercase_names: tuple[str, ...] = ()  # further names, matched case-insensitively


def group_files(files: Iterable[GgufFile], notes: list[str], one_family: bool = False) -> list[ModelFiles]:
    """The models made up of these files, in the order of the files. `one_family`: all are of one repository."""
    sets: dict[tuple[str, int], list[GgufFile]] = defaultdict(list)
    projectors = []
    for file in files:
        if not file.name.isprintable():  # nor is what is not UTF-8
            notes.append(f"not served, its name cannot be shown: {file.path!r}")
        elif not is_projector(file.name):
            sets[_set_of(file)].append(file)
        elif file.problem:
            notes.append(f"{file.path} is not used: {file.problem}")
        else:
            projectors.append(file)
    models = [_model_files(parts, count) for (_, count), parts in sets.items()]
    return _with_projectors(models, projectors, one_family)


def _set_of(file: GgufFile) -> tuple[str, int]:
    """What the parts of one model have in common: the path up to the number, and how many there are."""
    part = part_of(file.path)
    return (part[0] + file.path[-5:], part[2]) if part else (file.path, 0)


def _model_files(parts: Sequence[GgufFile], count: int) -> ModelFiles:
    parts = sorted(parts, key=lambda file: file.path)
    first = parts[0]
    if not count:
        return ModelFiles(file_stem(first.name), first.path, first.relative_path, tuple(parts), first.problem)
    problem = _missing_part(parts, count) or next((part.problem for part in parts if part.problem), "")
    path, relative_path = (part_path(each, 1) for each in (first.path, first.relative_path))
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


def _with_projectors(
    models: Sequence[ModelFiles], projectors: Sequence[GgufFile], one_family: bool
) -> list[ModelFiles]:
    """Each model with its projector: of those in its folder the best, else the best one of its name.

    A projector whose name says nothing serves its folder if all models there are one. A repository counts as one
    folder, and there a name that fits no model says nothing: google/gemma-3-4b-it-qat-q4_0-gguf has
    gemma-3-4b-it-q4_0.gguf and mmproj-model-f16-4B.gguf.
    """
    group = (lambda path: "") if one_family else os.path.dirname
    families: dict[str, set[str]] = defaultdict(set)
    for model in models:
        families[group(model.path)].add(family(model.name))
    near: dict[tuple[str, str], list[GgufFile]] = defaultdict(list)
    far: dict[str, list[GgufFile]] = defaultdict(list)
    for file in projectors:
        rest, here = family(file_stem(file.name)), families[group(file.path)]
        if rest:
            far[rest].append(file)
        if len(here) == 1 and (one_family or not rest):
            rest = next(iter(here))
        if rest in here and (rest or len(here) == 1):
            near[group(file.path), rest].append(file)
    return [replace(model, projector=_best(near, far, group(model.path), family(model.name))) for model in models]


def _best(
    near: dict[tuple[str, str], list[GgufFile]], far: dict[str, list[GgufFile]], group: str, name: str
) -> GgufFile | None:
    return min(near.get((group, name)) or far.get(name) or (), key=_projector_rank, default=None)


def _projector_rank(file: GgufFile) -> tuple[int, str]:
    kind = quantization(file_stem(file.name)).replace("FP", "F")
    order = PROJECTOR_ORDER
    return (order.index(kind) if kind in order else len(order), file.name)

"""Which files of a repository a name means: the model with all its parts, its projector and its draft heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from app.entities.gguf import FileKind
from app.entities.gguf_names import kind_by_name, parse_part_name, quantization
from app.entities.model_name import folded, similar_names
from app.entities.repository import Repository, RepositoryFile, RepositoryName
from app.use_cases.downloads.companions import best_draft_heads, matching_companions
from app.use_cases.downloads.model_names import (
    DEFAULT_QUANTIZATION,
    model_stem,
    models_by_folded_name,
    names_to_list,
    order_in_repository,
)

DEFAULT_QUANTIZATIONS = (DEFAULT_QUANTIZATION, "Q8_0")  # as llama-server's -hf; then the first model
MAX_LISTED = 12


class UnknownChoice(Exception):
    """The repository has no such model; the message is one line that says what it has."""


@dataclass(frozen=True, slots=True)
class RepositoryModel:
    """One model of a repository, and the files that are downloaded for it."""

    name: str  # the name that the catalogue will have for it: "user/repo:Q4_K_M"
    quantization: str  # "" if its name has none
    parts: tuple[RepositoryFile, ...]
    projector: RepositoryFile | None = None
    drafts: tuple[RepositoryFile, ...] = ()
    problem: str = ""  # why it cannot be downloaded; "" if it can

    @property
    def path(self) -> str:
        """Of the first part, in the repository."""
        return self.parts[0].path

    @property
    def files(self) -> tuple[RepositoryFile, ...]:
        """All of them, in the order in which they are downloaded."""
        return *self.parts, *((self.projector,) if self.projector else ()), *self.drafts

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def models_of(repository: Repository) -> tuple[RepositoryModel, ...]:
    """All models of a repository, sorted as the catalogue sorts them, with the names that it will have for them."""
    by_kind: dict[FileKind, list[str]] = defaultdict(list)
    files = {file.path: file for file in sorted(repository.files, key=lambda file: order_in_repository(file.path))}
    for path in files:
        if path.lower().endswith(".gguf"):
            by_kind[kind_by_name(path)].append(path)
    part_sets = _part_sets(by_kind[FileKind.MODEL])
    firsts = [paths[0] for paths in part_sets]
    heads = best_draft_heads(by_kind[FileKind.DRAFT_HEAD])
    projectors = matching_companions(firsts, by_kind[FileKind.PROJECTOR], one_family=True)
    return tuple(
        RepositoryModel(
            name,
            quantization(model_stem(paths[0])),
            tuple(files[path] for path in paths),
            next((files[path] for path in projectors(paths[0])), None),
            tuple(files[path] for path in heads(paths[0])),
            _missing_parts(paths),
        )
        for paths, name in zip(part_sets, _unique_names(repository.repo, firsts), strict=True)
    )


def choose_model(repository: Repository, name: RepositoryName) -> RepositoryModel:
    """The model that the name means: Q4_K_M if it says no more than the repository. Raises UnknownChoice."""
    models = models_of(repository)
    if not models:
        raise UnknownChoice(f"{name.repo} has no GGUF models: look for a repository whose name ends in -GGUF")
    by_name = models_by_folded_name(repository.repo, [model.path for model in models])
    choices = [name.choice] if name.choice else DEFAULT_QUANTIZATIONS
    keys = (folded(f"{repository.repo}:{choice}") for choice in choices)
    found = next((by_name[key] for key in keys if key in by_name), None if name.choice else 0)
    if found is None:
        raise UnknownChoice(f"{name.repo} has no {name.choice}{_alternatives(name.choice, models)}")
    if problem := models[found].problem:
        raise UnknownChoice(f"{models[found].name} is not complete in its repository: {problem}")
    return models[found]


def _unique_names(repo: str, paths: Sequence[str]) -> list[str]:
    """The best name of each model that no earlier one has."""
    found: list[str] = []
    taken: set[str] = set()
    for names in names_to_list(repo, paths):
        found.append(next((name for name in names if name not in taken), names[-1]))
        taken.add(found[-1])
    return found


def _part_sets(paths: Sequence[str]) -> list[list[str]]:
    """The paths, those of one split model together in order."""
    sets: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in paths:
        part = parse_part_name(path)
        sets[(part[0], part[2]) if part else (path, 0)].append(path)
    return list(sets.values())


def _missing_parts(paths: Sequence[str]) -> str:
    part = parse_part_name(paths[0])
    missing = part[2] - len(paths) if part else 0
    return f"{missing} of {part[2]} parts are missing" if part and missing else ""


def _alternatives(choice: str, models: Sequence[RepositoryModel]) -> str:
    """What the repository has, the most similar first."""
    choices = [model.name.partition(":")[2] for model in models]
    near = similar_names(choice, choices)
    listed = [*near, *(each for each in choices if each not in near)]
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return f"; it has {', '.join(listed[:MAX_LISTED])}{more}"

"""The same file in several places: one model with several names, which is loaded once.

Programs share files by hard links (`lms import --hard-link`) and symbolic ones, or keep copies whose digests or names
tell that they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

from app.entities.model import ModelSource
from workers.catalog.model_files import DiscoveredModel


def group_same_files(found: Iterable[DiscoveredModel]) -> list[list[DiscoveredModel]]:
    """The models whose files are the same together, in the order in which their first ones were found.

    With other adapters it is another model, and a broken one is nothing that another could stand for.
    """
    groups: list[list[DiscoveredModel]] = []
    by_mark: dict[object, list[DiscoveredModel]] = {}
    for model in found:
        group = next((by_mark[mark] for mark in _matching_marks(model) if mark in by_mark), None)
        if group is None:
            groups.append(group := [])
        group.append(model)
        for mark in _own_marks(model):
            by_mark.setdefault(mark, group)
    return groups


def merge_same_files(group: Sequence[DiscoveredModel]) -> DiscoveredModel:
    """The model that was found first, with the names of the others as aliases."""
    return reduce(_merge, group)


def _own_marks(model: DiscoveredModel) -> Iterator[object]:
    if not model.files.problem:
        yield from _marks_of_files(model)
        yield _mark_of_copy(model, model.files.source)


def _matching_marks(model: DiscoveredModel) -> Iterator[object]:
    if not model.files.problem:
        yield from _marks_of_files(model)
        yield from (_mark_of_copy(model, source) for source in ModelSource if source is not model.files.source)


def _marks_of_files(model: DiscoveredModel) -> Iterator[object]:
    files = model.files
    yield files.adapters, tuple(part.identity for part in files.parts)
    if all(part.sha256 for part in files.parts):
        yield files.adapters, tuple(part.sha256 for part in files.parts)


def _mark_of_copy(model: DiscoveredModel, source: ModelSource) -> object:
    """Of what another program has fetched under the same name. In one folder, names may be the same by chance."""
    return source, model.names[0], model.files.adapters, model.files.size_bytes


def _merge(first: DiscoveredModel, other: DiscoveredModel) -> DiscoveredModel:
    files = first.files
    if files.projector is None and other.files.projector is not None:
        files = replace(files, projector=other.files.projector, unfit_projector=None)
    return replace(
        first,
        files=files,
        aliases=tuple(dict.fromkeys(name for name in (*first.aliases, other.names[0]) if name != first.names[0])),
        other_names=(*first.other_names, *other.names, *other.other_names),
        folded_names=(*first.folded_names, *other.folded_names),
    )

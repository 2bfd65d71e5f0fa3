"""The same file in several places: one model with several names, which is loaded once.

Programs share files by hard links (`lms import --hard-link`) and symbolic ones, or keep copies whose digests or names
tell that they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from workers.catalog.model_files import DiscoveredModel, LoraAdapter, Variant


def group_same_files(found: Iterable[DiscoveredModel]) -> list[list[DiscoveredModel]]:
    """The models whose files are the same together, in the order in which their first ones were found.

    With other adapters it is another model, and a broken one is nothing that another could stand for.
    """
    groups: list[list[DiscoveredModel]] = []
    by_mark: dict[object, list[DiscoveredModel]] = {}
    for model in found:
        marks = [] if model.files.problem else _marks(model)
        group = next(
            (by_mark[mark] for mark in marks if mark in by_mark and _is_same(by_mark[mark], model, mark)), None
        )
        if group is None:
            groups.append(group := [])
        group.append(model)
        for mark in marks:
            by_mark.setdefault(mark, group)
    return groups


@dataclass(frozen=True, slots=True)
class _Copy:
    """What two programs have downloaded under the same name. In one folder, names may be the same by chance."""

    name: str
    size_bytes: int
    adapters: tuple[LoraAdapter, ...]


def _marks(model: DiscoveredModel) -> list[object]:
    """What tells that files are the same."""
    files = model.files
    marks: list[object] = [(files.adapters, *(part.identity for part in files.parts))]
    if files.parts[0].sha256:
        marks.append((files.adapters, *(part.sha256 or part.identity for part in files.parts)))
    marks.append(_Copy(model.names[0], files.size_bytes, files.adapters))
    return marks


def _is_same(group: Sequence[DiscoveredModel], model: DiscoveredModel, mark: object) -> bool:
    return not isinstance(mark, _Copy) or all(each.files.source is not model.files.source for each in group)


def merge_same_files(group: Sequence[DiscoveredModel]) -> DiscoveredModel:
    """The model that was found first, with the names of the others as aliases, or as variants where other parameters
    came with the file. One with a system prompt was made of the others."""
    return reduce(_merge, sorted(group, key=lambda model: bool(model.files.system_prompt)))


def _merge(first: DiscoveredModel, other: DiscoveredModel) -> DiscoveredModel:
    files = first.files
    if files.projector is None and other.files.projector is not None:
        files = replace(files, projector=other.files.projector, unfit_projector=None)
    first = replace(first, files=files)
    if other.files.requests != first.files.requests:
        variant = Variant(other.names[0], (*other.names[1:], *other.other_names), other.files.requests)
        return replace(first, variants=(*first.variants, variant))
    return replace(
        first,
        aliases=tuple(dict.fromkeys(name for name in (*first.aliases, other.names[0]) if name != first.names[0])),
        other_names=(*first.other_names, *other.names, *other.other_names),
        folded_names=(*first.folded_names, *other.folded_names),
    )

"""Listing: which name leads to which model, when all that was configured and found is put side by side.

Configured names come first, then the names of what was found, then everything else it may be asked for as; among
equals the first keeps what it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from app.entities.launch import LaunchSettings
from app.entities.model import Model
from app.entities.placement import PlacementConstraints
from workers.catalog.entries import Entry, model_of
from workers.catalog.model_files import FoundModel, ModelFiles
from workers.catalog.model_headers import Stamp

LONGEST_NAME = 512

Configured = tuple[Entry, Model, ModelFiles | None]  # the files: None when they are not there


class Listing:
    """Filled by one scan, entries first; read-only from then on."""

    def __init__(self, defaults: LaunchSettings, constraints: PlacementConstraints) -> None:
        self.listed: dict[str, Model] = {}
        self.keys: dict[str, Model] = {}  # exact: the listed names and all others
        self.loose_keys: dict[str, Model] = {}  # in lower case: names of the Hugging Face cache
        self.stamps: dict[str, Stamp] = {}  # of the files that were seen, by the path in their models
        self.notes: list[str] = []
        self._defaults, self._wishes = defaults, constraints  # of what is merely found
        self._served_by: dict[object, list[Model]] = defaultdict(list)  # identity of a file -> entries that serve it

    def add_entries(self, configured: Sequence[Configured]) -> None:
        taken = {entry.name for entry, _, _ in configured}
        for entry, model, files in configured:
            aliases = tuple(alias for alias in dict.fromkeys(entry.aliases) if alias not in taken)
            if lost := set(entry.aliases) - {*aliases, entry.name}:
                self.notes.append(f"model {entry.name}: another model has its aliases {', '.join(sorted(lost))}")
            taken.update(aliases)
            model = self.listed[entry.name] = replace(model, aliases=aliases)
            self.keys |= dict.fromkeys((entry.name, *aliases), model)
            if files is not None:
                self.stamps[files.path] = files.stamp
                self._served_by[files.identity].append(model)

    def add_found(self, found: Sequence[FoundModel]) -> None:
        own_names = {each.files.path: name for name, each in names_of(found).items()}
        meant = [(each, self._list(each, own_names.get(each.files.path))) for each in found]
        for each, model in meant:
            if model is None:
                continue
            for key in _usable((*each.names, *each.keys)):
                self.keys.setdefault(key, model)
            for key in each.loose_keys:
                self.loose_keys.setdefault(key, model)

    def _list(self, each: FoundModel, own_name: str | None) -> Model | None:
        """The model that a find's names lead to; None when no name is left for it."""
        served_by = self._served_by.get(each.files.identity, [])
        if len(served_by) == 1:
            if own_name is not None:
                self.keys.setdefault(own_name, served_by[0])
            return served_by[0]
        name = next((name for name in _usable(each.names) if name not in self.keys), None)
        if name is None or name != next(iter(_usable(each.names)), None):
            self._note_lost_name(each, own_name, name, served_by)
        if name is None:
            return None
        model = self.listed[name] = self.keys[name] = model_of(name, each.files, self._defaults, self._wishes)
        self.stamps[each.files.path] = each.files.stamp
        return model

    def _note_lost_name(
        self, each: FoundModel, own_name: str | None, name: str | None, served_by: Sequence[Model]
    ) -> None:
        if self.keys.get(own_name or "") in served_by:
            return  # an entry serves the file under the name it has anyway
        became = f"listed as {name}" if name else "not served"
        lost = next((taken for taken in (own_name, *_usable(each.names)) if taken in self.keys), None)
        why = _why_taken(lost, self.keys[lost]) if lost is not None else "its name is too long"
        self.notes.append(f"{each.files.path} is {became}: {why}")


def _why_taken(name: str, holder: Model) -> str:
    if name in holder.aliases:
        return f"{name} is an alias of {holder.name}"
    return f"{holder.path or holder.name} has the same name"


def names_of(found: Sequence[FoundModel]) -> dict[str, FoundModel]:
    """What would be listed if nothing were configured."""
    names: dict[str, FoundModel] = {}
    for each in found:
        if (name := next((name for name in _usable(each.names) if name not in names), None)) is not None:
            names[name] = each
    return names


def meaning(found: Sequence[FoundModel]) -> Callable[[str], FoundModel | None]:
    """The look-up there would be if nothing were configured."""
    keys, loose_keys = names_of(found), dict[str, FoundModel]()
    for each in found:
        for key in each.keys:
            keys.setdefault(key, each)
        for key in each.loose_keys:
            loose_keys.setdefault(key, each)
    return lambda name: keys.get(name) or loose_keys.get(name.lower())


def _usable(names: Sequence[str]) -> list[str]:
    return [name for name in names if len(name) <= LONGEST_NAME and name.isprintable()]

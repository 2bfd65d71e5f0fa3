"""Listing: the mapping from names to models, from configured and discovered models.

Precedence: configured names, then the listed names of discovered models, then their other names; on equal rank the
first model keeps the name. A name that nobody has is looked for in any case and Unicode normal form, then as the name
of a repository in another spelling (hf.co/user/repo), then among the globs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace

from app.entities.launch import LaunchSettings
from app.entities.model import LATEST, Model
from app.entities.model_name import folded, glob_pattern, is_glob, literal_length, similar_names
from app.entities.placement import PlacementConstraints
from app.entities.request_rules import RequestRules
from app.use_cases.downloads.repository_names import usual_spelling
from workers.catalog.configured_models import ConfiguredModel, model_of
from workers.catalog.model_files import DiscoveredModel, ModelFiles, mismatch_of
from workers.catalog.model_headers import Stamp
from workers.catalog.same_files import group_same_files, merge_same_files
from workers.catalog.sources import Sources

MAX_NAME_LENGTH = 512

Configured = tuple[ConfiguredModel, Model, ModelFiles | None]  # the files: None if missing


class Listing:
    """Filled by one scan, configured models first; read-only afterwards."""

    def __init__(self, defaults: LaunchSettings, constraints: PlacementConstraints) -> None:
        self.listed: dict[str, Model] = {}
        self.by_name: dict[str, Model] = {}  # exact names: listed and other ones
        self._by_folded_name: dict[str, Model] = {}
        self._globs: list[tuple[str, re.Pattern[str], Model]] = []  # the most specific first, else in the file's order
        self.stamps: dict[str, Stamp] = {}  # of the files found, by model path
        self.notes: list[str] = []
        self._defaults, self._constraints = defaults, constraints  # for discovered models
        # Identity of a file -> entries that serve it.
        self._entries_by_file: dict[object, list[Model]] = defaultdict(list)
        self._listed_by_file: dict[object, list[Model]] = defaultdict(list)

    def find(self, name: str, may_use: Callable[[Model], bool] | None = None) -> Model | None:
        """The model that a client's name means, with or without the tag that Ollama's clients add; of those that the
        client `may_use`."""
        return next(filter(may_use, self._meant_by(name)), None)

    def _meant_by(self, name: str) -> Iterator[Model]:
        """The models that have the name, the one that it means first."""
        names = tuple(dict.fromkeys((name, name.removesuffix(LATEST)))) if len(name) <= MAX_NAME_LENGTH else ()
        for each in names:
            yield from self._called(each)
        if names and (usual := usual_spelling(name)) not in ("", name):
            yield from self._called(usual)
        folded_names = [folded(each) for each in names]
        yield from (model for _, glob, model in self._globs if any(map(glob.fullmatch, folded_names)))

    def _called(self, name: str) -> Iterator[Model]:
        return filter(None, (self.by_name.get(name), self._by_folded_name.get(folded(name))))

    def add_configured(self, configured: Sequence[Configured]) -> None:
        taken = {entry.name for entry, _, _ in configured}
        for entry, model, files in configured:
            aliases = tuple(alias for alias in dict.fromkeys(entry.aliases) if alias not in taken)
            if lost := set(entry.aliases) - {*aliases, entry.name}:
                self.notes.append(f"model {entry.name}: another model has its aliases {', '.join(sorted(lost))}")
            taken.update(aliases)
            own = files.requests if files is not None else RequestRules()
            model = replace(
                model,
                aliases=aliases,
                requests=own.overridden_by(entry.requests),
                variants={name: own.overridden_by(rules) for name, rules in entry.variants.items()},
            )
            self.listed[entry.name] = model
            self.by_name |= dict.fromkeys((entry.name, *(alias for alias in aliases if not is_glob(alias))), model)
            self.by_name |= {variant: replace(model, variant=variant) for variant in entry.variants}
            self._globs += [(alias, glob_pattern(alias), model) for alias in aliases if is_glob(alias)]
            if files is not None:
                self._entries_by_file[files.identity].append(model)
                self._note_files(model, files)
        self._globs.sort(key=lambda glob: -literal_length(glob[0]))

    def add_discovered(self, found: Sequence[DiscoveredModel]) -> None:
        found = [model for group in group_same_files(found) for model in self._merged_unless_configured(group)]
        listed = listed_names(found)
        own_names = {id(model): name for name, model in listed.items()}
        models = [(each, self._model_for(each, own_names.get(id(each)), listed)) for each in found]
        for discovered, model in models:
            if model is None:
                continue
            for key in _usable_names((*discovered.names, *discovered.other_names)):
                self.by_name.setdefault(key, model)
            for each in discovered.variants:
                if each.name in model.variants:
                    self.by_name |= {
                        key: self.by_name[each.name] for key in each.other_names if key not in self.by_name
                    }
        for key, model in self.by_name.items():
            self._by_folded_name.setdefault(folded(key), model)
        for discovered, served_by in models:
            if served_by is not None:
                for key in discovered.folded_names:
                    self._by_folded_name.setdefault(key, served_by)

    def _merged_unless_configured(self, group: list[DiscoveredModel]) -> list[DiscoveredModel]:
        """The one model of the same files. If entries serve one of these, all names are names of the entries, except
        those with a system prompt of their own."""
        configured = next((each for each in group if each.files.identity in self._entries_by_file), None)
        if configured is None:
            return [merge_same_files(group)]
        prompts = ("", configured.files.system_prompt)
        same = [each for each in group if each.files.system_prompt in prompts]
        others = [each for each in group if each.files.system_prompt not in prompts]
        entries = self._entries_by_file[configured.files.identity]
        self._entries_by_file = defaultdict(
            list, {each.files.identity: entries for each in same} | self._entries_by_file
        )
        return [*same, *([merge_same_files(others)] if others else [])]

    def note_unknown_names(self, sources: Sources) -> None:
        """Warnings, no errors: files come and go."""
        if sources.default_model and not sources.members(sources.default_model):
            self._note_if_unknown("catalog.default_model", sources.default_model)
        for virtual, names in sources.any_of.items():
            for name in names:
                self._note_if_unknown(f"any_of.{virtual}", name)
            if virtual in self.by_name:
                self.notes.append(
                    f"any_of.{virtual}: hides the model {self.by_name[virtual].name}, which has this name"
                )

    def _note_if_unknown(self, setting: str, name: str) -> None:
        if self.find(name) is None:
            near = similar_names(name, list(self.by_name))[:1]
            self.notes.append(f"{setting}: no model is called {name}{f'; did you mean {near[0]}?' if near else ''}")

    def _model_for(self, discovered: DiscoveredModel, own_name: str | None, listed: Container[str]) -> Model | None:
        """The catalogue's model for a discovered one; None if all of its names are taken. `listed`: what discovered
        models are listed under, which no alias takes away."""
        served_by = self._entries_by_file.get(discovered.files.identity, [])
        if len(served_by) == 1:
            if own_name is not None:
                self.by_name.setdefault(own_name, served_by[0])
            return served_by[0]
        if (namesake := self.by_name.get(own_name or "")) and namesake in served_by:
            return namesake  # of several entries for the file, the one with its name
        files, names = discovered.files, _usable_names(discovered.names)
        name = next((name for name in names if name not in self.by_name), None)
        if name is None or name != next(iter(names), None):
            self._note_lost_name(discovered, own_name, name)
        if name is None:
            return None
        model = self.listed[name] = self._with_all_names(
            model_of(name, files, self._defaults, self._constraints), discovered, listed
        )
        self._note_files(model, files)
        return model

    def _with_all_names(self, model: Model, discovered: DiscoveredModel, listed: Container[str]) -> Model:
        """The model with its aliases and variants, as far as their names are free, and those names with it."""
        free = [name for name in _usable_names(discovered.aliases) if name not in self.by_name and name not in listed]
        variants = {each.name: each.requests for each in discovered.variants if each.name not in listed}
        variants = {name: variants[name] for name in _usable_names([*variants]) if name not in self.by_name}
        model = replace(model, aliases=tuple(free), requests=discovered.files.requests, variants=variants)
        self.by_name |= dict.fromkeys((model.name, *free), model)
        self.by_name |= {name: replace(model, variant=name) for name in variants}
        return model

    def _note_files(self, model: Model, files: ModelFiles) -> None:
        self.stamps[files.path] = files.stamp
        if files.unfit_projector is not None:
            reason = mismatch_of(files, files.unfit_projector)
            self.notes.append(f"model {model.name} is served without {files.unfit_projector.path}: {reason}")
        if files.problem:
            return
        others = self._listed_by_file[files.identity]
        if twin := next((other for other in others if _has_same_settings(other, model)), None):
            self.notes.append(
                f"models {twin.name} and {model.name} are one file with the same settings, which is loaded once for "
                f"each: in their place, set models.{twin.name}.aliases to [{model.name}]"
            )
        others.append(model)

    def _note_lost_name(self, discovered: DiscoveredModel, own_name: str | None, name: str | None) -> None:
        result = f"listed as {name}" if name else "not served"
        lost = next((taken for taken in (own_name, *_usable_names(discovered.names)) if taken in self.by_name), None)
        why = _why_taken(lost, self.by_name[lost]) if lost is not None else "its name is too long"
        self.notes.append(f"{discovered.files.path} is {result}: {why}")


def _has_same_settings(one: Model, other: Model) -> bool:
    """Whether two models of one file differ only by their names; links give it several paths."""
    return replace(one, name=other.name, aliases=other.aliases, path=other.path) == other


def _why_taken(name: str, holder: Model) -> str:
    if name in holder.names[1:]:
        return f"{name} is {'a variant' if name in holder.variants else 'an alias'} of {holder.name}"
    return f"{holder.path or holder.name} has the same name"


def listed_names(found: Sequence[DiscoveredModel]) -> dict[str, DiscoveredModel]:
    """The names under which discovered models would be listed without a configuration."""
    names: dict[str, DiscoveredModel] = {}
    for model in found:
        if (name := next((name for name in _usable_names(model.names) if name not in names), None)) is not None:
            names[name] = model
    return names


def discovered_lookup(found: Sequence[DiscoveredModel]) -> Callable[[str], DiscoveredModel | None]:
    """A function that finds a discovered model by any of its names, as if nothing were configured."""
    keys, folded_names = listed_names(found), dict[str, DiscoveredModel]()
    for model in found:
        for key in model.other_names:
            keys.setdefault(key, model)
    for key, model in keys.items():
        folded_names.setdefault(folded(key), model)
    for model in found:
        for key in model.folded_names:
            folded_names.setdefault(key, model)
    return lambda name: keys.get(name) or folded_names.get(folded(name))


def _usable_names(names: Sequence[str]) -> list[str]:
    return [name for name in names if len(name) <= MAX_NAME_LENGTH and name.isprintable()]

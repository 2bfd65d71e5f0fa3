"""Catalogue: model names and the files behind them. The only way from a name to a path.

A name from a client is only looked up in mappings built by a scan; a look-up reads no file. A scan reads the first
bytes of every file. The rest of a header is read before its model is loaded, or in the background.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.entities.gguf import Value
from app.entities.launch import LaunchSettings
from app.entities.model import Model
from app.entities.placement import PlacementConstraints
from app.errors import InvalidModelFile, ModelNotFound
from workers.catalog.background_check import BackgroundCheck
from workers.catalog.configured_models import ConfiguredModel, FileResolver, resolve_configured_model
from workers.catalog.described_models import DescribedModels
from workers.catalog.discovery import discover
from workers.catalog.file_summaries import FileSummaries, Summaries
from workers.catalog.header_metadata import header_metadata
from workers.catalog.listing import Listing, discovered_lookup
from workers.catalog.model_headers import ModelHeaders, stamp_of
from workers.catalog.other_programs import ProgramFolder
from workers.catalog.scans import Scans
from workers.catalog.sources import Sources
from workers.catalog.unfinished import current_problem

__all__ = ["Catalog", "ConfiguredModel"]

log = logging.getLogger(__name__)


class Catalog:
    """Models by name. `reload` rescans and replaces everything at once; `replace_by` takes over another catalogue.

    `earlier`: the catalogue that this one may replace. What its scans found is not read or logged once more.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        defaults: LaunchSettings,
        hub_cache: Path | None = None,
        entries: Sequence[ConfiguredModel] = (),
        base: Path | None = None,
        headers: ModelHeaders[Any] | None = None,
        constraints: PlacementConstraints | None = None,
        earlier: Catalog | None = None,
        default_model: str | None = None,
        any_of: Mapping[str, tuple[str, ...]] | None = None,
        lm_studio: Sequence[ProgramFolder] = (),
        ollama: Sequence[ProgramFolder] = (),
    ) -> None:
        absolute = [os.path.abspath(folder) for folder in folders]
        self._sources = sources = Sources(  # replaced by `replace_by` alone
            folders=tuple(absolute),
            bases=(*([os.path.abspath(base)] if base else []), *absolute),
            cache=os.path.abspath(hub_cache) if hub_cache else None,
            lm_studio=tuple(lm_studio),
            ollama=tuple(ollama),
            entries=tuple(entries),
            defaults=defaults,
            constraints=constraints or PlacementConstraints(),
            default_model=default_model,
            any_of=any_of or {},
        )
        self.knows_replicas = sources.has_replicas  # read at every request
        self._headers = headers or ModelHeaders(lambda header: None)
        self._described = DescribedModels(self._headers)
        self._background = BackgroundCheck(self._unchecked_models, self._checked)
        self._scans = Scans(self._scan)
        # Sources, listing and summaries are replaced together, by the scanning thread and by `replace_by`.
        self._replacing = threading.Lock()
        self._listing = Listing(defaults, sources.constraints)
        self._summaries: Summaries = earlier._summaries if earlier else {}
        self._warnings_lock = threading.Lock()
        self.warnings: tuple[str, ...] = earlier.warnings if earlier else ()  # found by the last scan or since
        self.is_scanned = False  # False: no scan has succeeded yet
        self.reload()

    def start(self) -> None:
        """Start reading headers in the background."""
        self._background.start()

    def find(self, name: str, may_use: Callable[[Model], bool] | None = None) -> Model:
        """The model with that name or other name, with what is known of its header; the first that the client
        `may_use`. Raises ModelNotFound."""
        if (model := self._listing.find(name, may_use)) is None:
            raise ModelNotFound(name)
        return self._described.of(model)

    def definition(self, name: str) -> Model | None:
        """The model of this name, no other; None if there is none, or none any more."""
        model = self._listing.listed.get(name)
        return self._described.of(model) if model else None

    @property
    def virtual_names(self) -> Mapping[str, tuple[str, ...]]:
        return self._sources.any_of

    def members(self, name: str) -> tuple[str, ...]:
        """The models that a virtual name stands for, in any spelling; none for any other name."""
        return self._sources.members(name)

    def has_replicas(self, name: str) -> bool:
        """Whether the model of that name, or one that it stands for, may have several servers."""
        models = map(self._listing.find, self.members(name) or (name,))
        return any(model is not None and model.replicas.max > 1 for model in models)

    def models(self) -> list[Model]:
        """All models by name, including those that cannot be served."""
        return sorted(map(self._described.of, self._listing.listed.values()), key=lambda model: model.name)

    def servable(self, model: Model) -> Model:
        """The model, after its header was checked, which is read again only if its files have changed.

        What a scan found is void once they have changed. Raises InvalidModelFile, and ModelNotFound if it is gone.
        """
        return self._described.of(self._checked(self._current(model)))

    def _checked(self, model: Model) -> Model:
        problem = current_problem(model.path) if self._has_changed(model) else model.problem
        if not problem or problem == self._headers.last_problem(model.path):
            problem = self._headers.problem(model.path)
        if problem:
            self._warn_once(_problem_line(model, problem))
            raise InvalidModelFile(model.name, problem)
        return replace(model, problem="") if model.problem else model

    def _current(self, model: Model) -> Model:
        """The model as a scan finds it now, if its files have changed or the last scan found it broken."""
        found_by_scan = model.problem and model.problem != self._headers.last_problem(model.path)
        if not (found_by_scan or self._has_changed(model)) or not self.rescan():
            return model
        if (current := self._listing.listed.get(model.name)) is None:
            raise ModelNotFound(model.name)
        return replace(current, variant=model.variant) if model.variant else current

    def _has_changed(self, model: Model) -> bool:
        """Whether its files have changed since the last scan."""
        return stamp_of(model.path) != self._listing.stamps.get(model.path)

    def metadata(self, model: Model) -> Mapping[str, Value]:
        """Of its header, without long arrays. Raises InvalidModelFile."""
        return header_metadata(model.path)

    def read_headers(self, models: Sequence[Model], seconds: float) -> list[Model]:
        """The models with their facts; headers that are not known yet are read until so much time has passed."""
        self._background.check_now([model for model in models if model.facts is None and not model.problem], seconds)
        return [self._described.of(model) for model in models]

    def _unchecked_models(self) -> list[Model]:
        """Models whose headers have not been read."""
        listing = self._listing
        listed = [model for model in listing.listed.values() if not model.problem]
        return [model for model in listed if not self._headers.is_known(model.path, listing.stamps[model.path])]

    def reload(self) -> None:
        """Rescan the files. Files that existed at the time of the call are known on return. Look-ups never wait."""
        self._scans.run()

    def rescan(self) -> bool:
        """Scan for a request whose model is unknown, unless one has just done so. Whether names may differ now."""
        return self._scans.run_if_due()

    def replace_by(self, other: Catalog) -> None:
        """Be what `other` is, between two scans. A scan that hangs must not hold up a new configuration: its result is
        dropped."""
        self._scans.wait_until_idle()
        with self._replacing:
            self._sources, self.knows_replicas = other._sources, other.knows_replicas
            self._listing, self._summaries = other._listing, other._summaries
        with self._warnings_lock:
            self.warnings = other.warnings
        self._background.restart()

    def _scan(self) -> None:
        began, sources = time.monotonic(), self._sources
        try:
            listing, summaries = self._read(sources)
        except Exception:  # of any kind: the known models must still be served
            log.exception("the scan failed; the catalogue is unchanged")
            return
        with self._replacing:
            if self._sources is not sources:
                return
            self._listing, self._summaries, self.is_scanned = listing, summaries, True
        self._headers.keep(listing.stamps)
        self._described.forget()
        self._background.restart()
        broken = [_problem_line(model, model.problem) for model in self.models() if model.problem]
        self._warn([*listing.notes, *broken])
        seconds = time.monotonic() - began
        log.info("catalogue models=%d broken=%d seconds=%.3f", len(listing.listed), len(broken), seconds)

    def _warn(self, notes: Sequence[str]) -> None:
        """Log only notes that the previous scan did not log: reloads are frequent, and files rarely change."""
        notes = tuple(dict.fromkeys(notes))
        with self._warnings_lock:
            known, self.warnings = set(self.warnings), notes
        new = [note for note in notes if note not in known]
        for note in new:
            log.warning("%s", note)

    def _warn_once(self, note: str) -> None:
        """Log a problem found after the scan, once."""
        with self._warnings_lock:
            is_new = note not in self.warnings
            self.warnings = tuple(dict.fromkeys((*self.warnings, note)))
        if is_new:
            log.warning("%s", note)

    def _read(self, sources: Sources) -> tuple[Listing, Summaries]:
        listing = Listing(sources.defaults, sources.constraints)
        summaries = FileSummaries(self._summaries)
        found, projectors = discover(sources, summaries, listing.notes)
        find, entry = discovered_lookup(found), {each.name: each for each in sources.entries}.get
        resolver = FileResolver(sources.bases, sources.cache, found, projectors, find, entry, summaries)
        listing.add_configured([(entry, *resolve_configured_model(entry, resolver)) for entry in sources.entries])
        listing.add_discovered(found)
        listing.note_unknown_names(sources)
        return listing, summaries.summaries


def _problem_line(model: Model, problem: str) -> str:
    return f"model {model.name} cannot be served: {problem}"

"""Downloads that do what a test tells them, and the services that routes about them need: no network, no process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.entities.configuration import ConfigurationState
from app.entities.download import Download, DownloadState
from app.entities.launch import LaunchSettings
from app.entities.model import Model
from app.entities.repository import RepositoryName
from app.errors import ProxyError
from app.services import RequestSettings
from app.use_cases.downloads.repository_plan import QuantPlan, RepositoryPlan
from tests.helpers.builders import Play, an_engine, memory, replace
from tests.helpers.connected_client import ConnectedClient
from tests.helpers.scripted_engine import ScriptedEngine
from tests.helpers.scripted_peers import NO_PEERS
from workers.catalog.catalog import Catalog, ConfiguredModel
from workers.clients.admission import KeyRateLimits, admission_limits
from workers.clients.audience_texts import AudienceTexts
from workers.request_bodies.held_body import RequestBodies
from workers.telemetry.activity import Activity

NOON = 1_700_000_000.0
PLACES = 16


class ScriptedDownloads:
    """In place of workers.downloads. Each wait takes the next of `script`: changes of the download, its error, or what
    a function returns. At the end of the script nothing changes any more."""

    def __init__(self, *script: dict[str, Any] | ProxyError | Callable[[], dict[str, Any]]) -> None:
        self.all: tuple[Download, ...] = ()
        self.script = list(script)
        self.started: list[str] = []
        self.keys: list[str] = []  # of the starts
        self.canceled: list[str] = []
        self.removed: list[tuple[str, list[str]]] = []
        self.remains: dict[str, int] = {}  # of unfinished downloads, by repository
        self.planned: list[str] = []
        self.quants: tuple[QuantPlan, ...] = ()
        self.problem: ProxyError | None = None  # of the next start or removal
        self._lock = threading.Lock()

    def start(self, name: RepositoryName, key: str = "") -> Download:
        if self.problem:
            raise self.problem
        self.keys.append(key)
        self.started.append(str(name))
        found = self._of(name)
        if found is None or not found.is_running:
            found = Download(str(name), DownloadState.CHECKING, NOON)
            self.all = (*self.all, found)
        return found

    def wait(self, name: RepositoryName, seconds: float) -> Download | None:
        with self._lock:
            found = self._of(name)
            if found is None or not found.is_running or not self.script or not seconds:
                return found
            step = self.script.pop(0)
            step = step() if callable(step) else step
            if isinstance(step, ProxyError):
                self._put(found, {"state": DownloadState.FAILED, "problem": str(step), "code": step.code})
                raise step
            return self._put(found, step)

    def plan(self, name: RepositoryName) -> RepositoryPlan:
        if self.problem:
            raise self.problem
        self.planned.append(str(name))
        return RepositoryPlan(name, self.quants)

    def cancel(self, name: RepositoryName) -> bool:
        found = self._of(name)
        if found is None or not found.is_running:
            return False
        self.canceled.append(str(name))
        self._put(found, {"state": DownloadState.CANCELED})
        return True

    def remove(self, model: Model, unused_by: Sequence[Model]) -> int:
        if self.problem:
            raise self.problem
        self.removed.append((model.name, [each.name for each in unused_by]))
        return model.size_bytes

    def discard(self, name: RepositoryName) -> int:
        return self.remains.pop(name.repo, 0)

    def _of(self, name: RepositoryName) -> Download | None:
        return next((each for each in reversed(self.all) if each.model.startswith(str(name))), None)

    def _put(self, old: Download, changes: dict[str, Any]) -> Download:
        new = replace(old, **changes)
        self.all = tuple(new if each is old else each for each in self.all)
        return new


def some_services(
    folder: Path, downloads: Any, settings: RequestSettings | None = None, entries: Sequence[ConfiguredModel] = ()
) -> Any:
    """The parts that routes about models need; `folder` has the models."""
    play = Play()
    engine = ScriptedEngine()
    return SimpleNamespace(
        settings=settings or RequestSettings(),
        store=SimpleNamespace(
            pool=play.state, gpus=play.state.gpus, decisions=(), pins=(), configuration=ConfigurationState(0.0)
        ),
        catalog=Catalog([folder], LaunchSettings(), entries=entries),
        downloads=downloads,
        pool=engine,
        relay=engine,
        peers=NO_PEERS,
        gauges=SimpleNamespace(first_byte=lambda *about: None, answered=lambda *about: None),
        access_log=SimpleNamespace(note=lambda *about: None),
        **admission_limits(PLACES),
        clients=SimpleNamespace(watch=lambda socket: ConnectedClient()),
        status_texts=AudienceTexts(),
        bodies=RequestBodies(2**20, 2**24),
        rates=KeyRateLimits(),
        refusals=SimpleNamespace(note=lambda *refusal: None),
        tokens=SimpleNamespace(used=lambda key: (0, None), count=lambda key, tokens: None),
        activity=Activity(),
        engine_slots=SimpleNamespace(loads={}, drafts={}, view=lambda: None),
        engine=an_engine(),
        engine_problem="",
        own_engines={},
        version="1",
        started_at=0.0,
        read_ram=lambda: memory(0.0),
    )

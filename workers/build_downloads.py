"""Builds the downloads, for the service and for commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.entities.model import Model
from app.entities.refusal import Refusal
from app.entities.repository import RepositoryName
from app.settings.schema import Settings
from app.use_cases.downloads.choice import UnknownChoice, choose_model
from app.use_cases.downloads.repository_names import InvalidName, parse_name
from app.use_cases.downloads.repository_plan import PLANNED_CTX_TOKENS, RepositoryPlan
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.reporting.plans import Plan
from workers.build_catalog import hugging_face_cache
from workers.downloads.cache_layout import RepositoryFolder
from workers.downloads.downloader import Downloader
from workers.downloads.found_model import FoundModel
from workers.downloads.remote_model import Machine, RemoteModel
from workers.pool.estimate_source import EstimateSource
from workers.pool.plans import Plans


def build_downloads(settings: Callable[[], Settings], completed: Callable[[], None], machine: Machine) -> Downloader:
    """`settings`: the current ones. `completed`: see Downloader."""

    # The imports: huggingface_hub takes 20 MiB, only for who downloads.
    def find(name: RepositoryName) -> FoundModel:
        from workers.downloads.hub import Hub
        from workers.downloads.search import search_model

        return search_model(Hub(), name)

    def check(found: FoundModel) -> None:
        from workers.downloads.header_check import check_fits
        from workers.downloads.hub import Hub

        check_fits(Hub(), machine, found)

    def plan(name: RepositoryName) -> RepositoryPlan:
        from workers.downloads.hub import Hub
        from workers.downloads.planner import plan_repository

        return plan_repository(Hub(), name, machine, lambda found: _is_here(cache(), found))

    def cache() -> Path | None:
        return hugging_face_cache(settings())

    return Downloader(cache, find, check, plan, completed)


def _is_here(cache: Path | None, found: FoundModel) -> bool:
    if cache is None:
        return False
    folder, files = RepositoryFolder(cache, found.repository.repo), found.model.files
    return all(file.sha256 and folder.blob(file.sha256).exists() for file in files)


def model_to_download(settings: Settings, remote: RemoteModel) -> Model:
    """The model as it will be in the catalogue, with the settings of the entry that names this file."""
    name = next((name for name, each in settings.models.items() if _is_meant_by(each.repo, remote.found)), None)
    found, launch = remote.found.model, settings.launch_of(name)
    constraints = settings.constraints_of(name)
    return Model(found.name, "", found.size_bytes, 0, launch, constraints=constraints, facts=remote.facts)


def _is_meant_by(entry: str | None, found: FoundModel) -> bool:
    try:
        name = parse_name(entry or "")
        return name.repo.lower() == found.repository.repo.lower() and (
            choose_model(found.repository, name).path == found.model.path
        )
    except (InvalidName, UnknownChoice):
        return False


def planned_request(request: PlacementRequest) -> PlacementRequest:
    """With the context that plans of repositories are made for."""
    trained = request.shape.hparams.integer("context_length")
    tokens = min(PLANNED_CTX_TOKENS, trained) if trained else PLANNED_CTX_TOKENS
    constraints = replace(request.constraints, has_auto_context=False)
    return replace(request, options=replace(request.options, ctx_size=tokens), constraints=constraints)


class ServiceMachine:
    """This machine as the service sees it, with what it has loaded."""

    def __init__(self, settings: Callable[[], Settings], needs: EstimateSource, plans: Plans) -> None:
        self._settings, self._needs, self._plans = settings, needs, plans

    def plan(self, model: RemoteModel) -> Plan:
        own, request = self._request(model)
        return self._plans.plan_of_file(own, planned_request(request))

    def refusal(self, model: RemoteModel) -> Refusal | None:
        return self._plans.permanent_refusal(*self._request(model))

    def _request(self, remote: RemoteModel) -> tuple[Model, PlacementRequest]:
        model = self._needs.as_started(model_to_download(self._settings(), remote))
        return model, self._needs.request_by_headers(model, remote.shape, remote.companions)

"""Asks the hub what a name means."""

from __future__ import annotations

from app.entities.repository import RepositoryName
from app.errors import ModelNotFound
from app.use_cases.downloads.choice import UnknownChoice, choose_model
from workers.downloads.found_model import FoundModel
from workers.downloads.hub import Hub


def search_model(hub: Hub, name: RepositoryName) -> FoundModel:
    """Raises ModelNotFound, which says what the repository has, and DownloadFailed."""
    repository = hub.repository(name.repo)
    try:
        return FoundModel(repository, choose_model(repository, name))
    except UnknownChoice as error:
        raise ModelNotFound(str(name), str(error)) from error

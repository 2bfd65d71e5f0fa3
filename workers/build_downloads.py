"""Builds the downloads, for the service and for commands."""

from __future__ import annotations

from collections.abc import Callable

from app.entities.repository import RepositoryName
from app.settings.schema import Settings
from workers.build_catalog import hugging_face_cache
from workers.downloads.downloader import Downloader
from workers.downloads.found_model import FoundModel


def build_downloads(settings: Callable[[], Settings], completed: Callable[[], None]) -> Downloader:
    """`settings`: the current ones. `completed`: see Downloader."""
    return Downloader(lambda: hugging_face_cache(settings()), _find, lambda found: None, completed)


def _find(name: RepositoryName) -> FoundModel:
    from workers.downloads.hub import Hub  # imports huggingface_hub: 20 MiB, only for who downloads
    from workers.downloads.search import search_model

    return search_model(Hub(), name)

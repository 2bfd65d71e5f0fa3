"""Builds what fetches models by name."""

from __future__ import annotations

from collections.abc import Sequence

from app.entities.download import Download
from app.entities.model import Model
from app.entities.repository import RepositoryName
from app.errors import NotSupported
from app.ports import Downloads

DISABLED = "models are not downloaded: catalog.hugging_face.cache, where they would go, is off"


def build_downloads() -> Downloads:
    return NoDownloads()


class NoDownloads:
    """Where there is no cache for them."""

    all: tuple[Download, ...] = ()

    def start(self, name: RepositoryName) -> Download:
        raise NotSupported(DISABLED)

    def wait(self, name: RepositoryName, seconds: float) -> Download | None:
        return None

    def cancel(self, name: RepositoryName) -> bool:
        return False

    def remove(self, model: Model, unused_by: Sequence[Model]) -> int:
        raise NotSupported(DISABLED)

"""Port of the downloads of models from Hugging Face repositories, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.entities.download import Download
from app.entities.model import Model
from app.entities.repository import RepositoryName
from app.use_cases.downloads.repository_plan import RepositoryPlan


class Downloads(Protocol):
    """Downloads models into the Hugging Face cache (workers.downloads.downloader.Downloader). Thread-safe."""

    @property
    def all(self) -> tuple[Download, ...]:
        """The running ones, and those that ended in the last minutes; a frozen snapshot, the latest start last."""

    def start(self, name: RepositoryName, key: str = "") -> Download:
        """Start a download, or join the one of the same files. Returns at once, mostly with `checking`: what
        goes wrong is the state of the download. `key`: the name of the key that orders it, "" for one without a limit.
        Raises Overloaded if too many run, Draining during a shutdown, NotSupported where the cache is not used."""

    def wait(self, name: RepositoryName, seconds: float) -> Download | None:
        """Wait for its end, this long at most; None if there is no such download. Raises the ProxyError of a failed
        one: ModelDoesNotFit, InvalidModelFile, ModelNotFound or DownloadFailed; Draining when a shutdown begins."""

    def plan(self, name: RepositoryName) -> RepositoryPlan:
        """What each model of a repository, or the one that the name chooses, would need with 32k of context, and where
        it would go now. Reads their headers, which takes seconds. Raises ModelNotFound, DownloadFailed, Overloaded."""

    def cancel(self, name: RepositoryName) -> bool:
        """Stop it; the partial download is kept. Whether it was running."""

    def remove(self, model: Model, unused_by: Sequence[Model]) -> int:
        """Delete the files of a model from the Hugging Face cache, except those that other models of `unused_by` have
        too; returns the bytes that became free. Raises NotSupported for a model of another folder."""

    def discard(self, name: RepositoryName) -> int:
        """Delete what unfinished downloads of the repository left, except those that run; returns the bytes that became
        free."""

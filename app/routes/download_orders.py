"""Orders about downloads, of whichever API: begin one, follow it, cancel it, delete a model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from app.entities.download import Download, DownloadState
from app.entities.model import Model
from app.entities.repository import RepositoryName
from app.errors import InvalidRequest, ModelNotFound, NotAllowed, NotSupported, ProxyError
from app.routes.download_rules import check_pull, limited_key, repository_name, visible_downloads, wanted_download
from app.routes.incoming_request import IncomingRequest
from app.routes.open_stream import OpenStream
from app.routes.visibility import find_model, visible_text
from app.use_cases.downloads.repository_names import why_not_deleted

POLL_SECONDS = 0.5
UNCHANGED_SECONDS = 5.0  # after which a state is sent once more, as a sign of life


@dataclass(frozen=True, slots=True)
class Ordered:
    """A download that was ordered. `name`: None for a model that is here and is not downloaded."""

    download: Download
    name: RepositoryName | None


def order_download(request: IncomingRequest, name: str) -> Ordered:
    """Begin a download, or join one that runs. What is no repository's, or may not be downloaded by this client, is
    complete if it is here. Raises InvalidRequest, ModelNotFound, NotAllowed and what Downloads.start raises."""
    try:
        wanted = check_pull(request, name)
    except (InvalidRequest, NotAllowed):
        if (model := _here(request, name)) is None:
            raise
        size_bytes = model.size_bytes
        return Ordered(Download(model.name, DownloadState.COMPLETE, time.time(), size_bytes, size_bytes), None)
    return Ordered(request.services.downloads.start(wanted.name, limited_key(request)), wanted.name)


def _here(request: IncomingRequest, name: str) -> Model | None:
    with contextlib.suppress(ModelNotFound):
        model = find_model(request, name)
        return None if model.problem else model
    return None


class DownloadStates:
    """The states of a download for the client that ordered it; holds a thread as long as it takes."""

    def __init__(self, request: IncomingRequest, ordered: Ordered) -> None:
        """Raises Overloaded. Call `close`."""
        self._request = request
        self._ordered = ordered
        self._place = OpenStream(request, request.services.viewers)
        self.close = self._place.close
        self.problem: ProxyError | None = None  # of one that has failed

    def __iter__(self) -> Iterator[Download]:
        """Each change, the last one final. Ends before if the client disconnects, or at a shutdown."""
        shown, shown_at = self._ordered.download, time.monotonic()
        yield shown
        while shown.is_running and not self._is_over:
            now = self._next(shown)
            if now != shown or time.monotonic() - shown_at >= UNCHANGED_SECONDS:
                yield now
                shown, shown_at = now, time.monotonic()

    def _next(self, shown: Download) -> Download:
        assert self._ordered.name is not None, "what is here does not run"
        try:
            found = self._request.services.downloads.wait(self._ordered.name, POLL_SECONDS)
        except ProxyError as error:
            self.problem = error
            return replace(shown, state=DownloadState.FAILED, problem=str(error), code=error.code)
        return found or replace(shown, state=DownloadState.CANCELED)

    @property
    def _is_over(self) -> bool:
        return self._place.client.is_disconnected or self._request.services.store.pool.draining


def cancel_download(request: IncomingRequest, name: str) -> bool:
    """Whether a download of that model was running, and is canceled: one that the key may see. `name`: the one that
    ordered it, the model's own, or another of its names."""
    if (wanted := _not_here(request, name)) is None:
        return False
    with contextlib.suppress(ProxyError):  # it has failed
        running = request.services.downloads.wait(wanted, 0.0)
        if running is not None and running.model in {each.model for each in visible_downloads(request)}:
            return request.services.downloads.cancel(wanted)
    return False


def _not_here(request: IncomingRequest, name: str) -> RepositoryName | None:
    """What the name means to the downloads; None if it means a model of the settings whose files are here."""
    with contextlib.suppress(ModelNotFound):
        wanted = wanted_download(request, name)
        if wanted is not None and (wanted.model is None or not wanted.model.path):
            return wanted.name
    return repository_name(name)


def _delete_remains(request: IncomingRequest, name: str) -> int:
    """Of unfinished downloads: the bytes that become free. Nobody lists them as models."""
    wanted = wanted_download(request, name)
    return request.services.downloads.discard(wanted.name) if wanted else 0


def delete_model(request: IncomingRequest, name: str) -> int:
    """Delete the files of a model from the Hugging Face cache, then unload it; returns the bytes that become free.

    A download that runs is canceled instead; what one left that has ended is deleted. Raises ModelNotFound, and
    NotSupported for a model that is elsewhere, and for a name of another repository that has the same file.
    """
    services = request.services
    if cancel_download(request, name):
        return 0
    try:
        model = find_model(request, name)
    except ModelNotFound:
        if freed_bytes := _delete_remains(request, name):
            return freed_bytes
        raise
    if problem := why_not_deleted(name, model.name):
        raise NotSupported(visible_text(request, problem))
    others = [each for each in services.catalog.models() if each.name != model.name]
    try:
        freed_bytes = services.downloads.remove(model, others)
    finally:
        services.catalog.reload()
    with contextlib.closing(request.watch_client()) as client:
        services.pool.unload(model, request.settings.max_wait_seconds, client)
    return freed_bytes

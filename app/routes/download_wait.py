"""A request's wait for the download of its model. It holds no slot, and a place among the inference requests.

A stream begins meanwhile, with progress. Until it is known whether the model fits and can be downloaded, it does not
begin, so that an error has its own status.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import replace

from app.entities.download import Download, DownloadState
from app.errors import (
    ClientDisconnected,
    DownloadFailed,
    Draining,
    InvalidModelFile,
    ModelDownloading,
    ModelNotFound,
    Overloaded,
    ProxyError,
)
from app.ports import WatchedClient
from app.routes.answer_head import as_header
from app.routes.download_rules import Wanted, allows, limited_key, wanted_download
from app.routes.incoming_request import IncomingRequest
from app.routes.loading_stream import CHECK_SECONDS, COMMENT_SECONDS, SILENT_SECONDS, progress_event
from app.use_cases.reporting.downloads import progress_text


class DownloadWait:
    """Used by the request's own thread alone. Call `close`."""

    def __init__(self, request: IncomingRequest, name: str, error: ModelNotFound | InvalidModelFile) -> None:
        """Join the download of the model with that name, or begin it. `error`: why the model cannot be used; raised if
        it is not downloaded and requests may not have it downloaded. Raises what Downloads.start raises, the error of a
        download that has just failed, and ModelDownloading if too many requests wait already."""
        self._services = request.services
        self._began_at = time.monotonic()
        self._deadline = self._began_at + request.settings.max_wait_seconds
        self._wanted = _wanted(request, name, error)
        self.download = self._joined(request, error)
        try:
            self._services.download_waits.acquire()
        except Overloaded:
            raise self._still_downloading() from None

    def close(self) -> None:
        self._services.download_waits.release()

    def _joined(self, request: IncomingRequest, error: ProxyError) -> Download:
        found = self._services.downloads.wait(self._wanted.name, 0.0)
        if found is not None and found.is_running:
            return found
        if not allows(request, self._wanted):
            raise _with_way_to_get(error, self._wanted)
        return self._services.downloads.start(self._wanted.name, limited_key(request))

    def until_complete(self, client: WatchedClient) -> None:
        """Raises ModelDownloading if it takes longer than scheduling.max_wait_seconds, the error of a download that
        fails, Draining, and ClientDisconnected."""
        client.begin()
        while not self._is_complete(client, CHECK_SECONDS):
            pass

    def silently(self, client: WatchedClient) -> bool:
        """Whether it is complete; False where it takes so long that a stream should begin with progress. Raises as
        `until_complete`."""
        client.begin()
        while not self._is_complete(client, CHECK_SECONDS):
            is_late = time.monotonic() - self._began_at >= SILENT_SECONDS
            if is_late and self.download.state is not DownloadState.CHECKING:
                return False
        return True

    def write_progress(
        self, client: WatchedClient, write: Callable[[bytes], object], route: str, setting: bool | str
    ) -> None:
        """Write how far it is, once a second, until it is complete. `setting`: scheduling.loading_comments. Raises as
        `until_complete`."""
        last_text, is_complete = "", False
        while not is_complete:
            text = progress_text(replace(self.download, model=as_header(self.download.model)))
            write(progress_event(text, route, setting if text != last_text else True))
            last_text, is_complete = text, self._is_complete(client, COMMENT_SECONDS)

    def _is_complete(self, client: WatchedClient, seconds: float) -> bool:
        """Whether it is, after so many seconds at most."""
        if client.is_disconnected:
            raise ClientDisconnected("the client closed its connection")
        if self._services.store.pool.draining:
            raise Draining("the service is shutting down; try again once it has restarted")
        seconds = min(seconds, self._deadline - time.monotonic())
        if seconds <= 0:
            raise self._still_downloading()
        found = self._services.downloads.wait(self._wanted.name, seconds)
        if found is not None and found.state is DownloadState.CANCELED:
            raise DownloadFailed(f"the download of {self.download.model} was canceled; the partial download is kept")
        self.download = found or self.download
        return found is None or not found.is_running

    def _still_downloading(self) -> ModelDownloading:
        left = self.download.seconds_left
        error = ModelDownloading(f"{progress_text(self.download)}; send the request again later")
        if left is not None:
            error.retry_after = min(60, max(1, math.ceil(left)))
        return error


def _with_way_to_get(error: ProxyError, wanted: Wanted) -> ProxyError:
    """The repository of an entry of the settings is not told: the client knows the entry's name alone."""
    if not isinstance(error, ModelNotFound) or wanted.model is not None:
        return error
    advice = (
        f"GET /v1/models lists the names. `llama-smart-proxy pull {shlex.quote(str(wanted.name))}` downloads it; "
        "catalog.hugging_face.download may let requests do so"
    )
    return ModelNotFound(error.name, advice, error.near)


def _wanted(request: IncomingRequest, name: str, error: ModelNotFound | InvalidModelFile) -> Wanted:
    """Raises `error` if the name is no repository's. A file that is here and broken is not downloaded again."""
    try:
        wanted = wanted_download(request, name)
    except ModelNotFound:
        raise error from None
    is_broken = isinstance(error, InvalidModelFile)
    if wanted is None or (is_broken and (wanted.model is None or wanted.model.path)):
        raise error
    return wanted

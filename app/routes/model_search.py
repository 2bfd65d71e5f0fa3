"""ModelSearch: the part of an exchange that finds the model of the request, and waits for its download."""

from __future__ import annotations

from app.entities.model import Model
from app.errors import InvalidModelFile, ModelNotFound
from app.ports import WatchedClient
from app.routes.download_wait import DownloadWait
from app.routes.incoming_request import IncomingRequest
from app.routes.loading_rules import LOADS_NOTHING, may_load, model_for
from app.routes.paths import STREAMING_ROUTES
from app.routes.request_reading import RequestReading


class ModelSearch(RequestReading):
    """Written by the request's own thread alone (exchange.py)."""

    def __init__(self, request: IncomingRequest, route: str) -> None:
        super().__init__(request, route)
        self.may_load = may_load(request, route)
        self.takes_slot = request.method not in LOADS_NOTHING
        self.model: Model | None = None
        self.download: DownloadWait | None = None  # of the model, if it was not here

    def _here_or_downloaded(self, client: WatchedClient) -> Model | None:
        """The model; None if it is being downloaded and the stream should begin with progress."""
        try:
            return self._find_model(self.options.model)
        except (ModelNotFound, InvalidModelFile) as error:
            if not self._may_wait_for_download:
                raise
            self.download = download = DownloadWait(self.request, self.options.model, error)
        self.releases.append(download.close)
        if not self._shows_progress:
            download.until_complete(client)
        elif not download.silently(client):
            return None
        return self._find_model(self.options.model)

    def _find_model(self, name: str) -> Model:
        return model_for(self.request, self.route, name, self.may_load, self._requirements)

    @property
    def _may_wait_for_download(self) -> bool:
        return self.takes_slot and self.may_load and self.answer is None

    @property
    def _shows_progress(self) -> bool:
        """Whether its stream may begin before there is an answer."""
        comments = self.request.settings.loading_comments
        return bool(self.options.streams and comments and self.route in STREAMING_ROUTES)

    @property
    def _answering_model(self) -> str:
        """Its name in the catalogue, or the one that it will have."""
        if self.model is not None:
            return self.model.name
        assert self.download is not None
        return self.download.download.model

"""GET /models/sse: the changes of models' states as events, in the form of llama.cpp's router."""

from __future__ import annotations

import json
from collections.abc import Iterator

from flask import Blueprint, Response

from app.routes.download_rules import visible_downloads
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.loading_stream import HEADERS
from app.routes.open_stream import OpenStream
from app.routes.visibility import visible_pool
from app.use_cases.reporting.downloads import download_events
from app.use_cases.reporting.model_status import status_events

bp = Blueprint("model_events", __name__)


@bp.get("/models/sse")
def stream_events() -> Response:
    """Ends at a shutdown, and at a reload, which may have changed what the key may see."""
    events = EventStream(current_request())
    response = Response(events.chunks(), headers=HEADERS)
    response.call_on_close(events.close)
    return response


class EventStream:
    """One stream of the changes that its key may see."""

    def __init__(self, request: IncomingRequest) -> None:
        """Raises Overloaded."""
        self._request = request
        self._place = OpenStream(request, request.services.event_streams)
        self._published, self._known = request.services.store.pool, visible_pool(request)
        self._downloads = visible_downloads(request)
        self.close = self._place.close

    def chunks(self) -> Iterator[bytes]:
        """Begins with a comment, so that the client gets the head at once."""
        return self._place.chunks(b": connected\n\n", self._news)

    def _news(self) -> bytes:
        events = [*self._changed_models(), *self._changed_downloads()]
        return b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in events)

    def _changed_models(self) -> list[dict[str, object]]:
        store, before = self._request.services.store, self._known
        if store.pool is self._published:
            return []
        self._published, self._known = store.pool, visible_pool(self._request)
        return status_events(before, self._known)

    def _changed_downloads(self) -> list[dict[str, object]]:
        before, self._downloads = self._downloads, visible_downloads(self._request)
        return download_events(before, self._downloads)

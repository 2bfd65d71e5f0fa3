"""GET /models/sse: the changes of models' states as events, in the form of llama.cpp's router."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from flask import Blueprint, Response

from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.loading_stream import HEADERS
from app.routes.visibility import visible_pool
from app.use_cases.reporting.model_status import status_events

bp = Blueprint("model_events", __name__)

# Not woken by the scheduler: every request for a loaded model changes its state, and would have to wake each stream.
POLL_SECONDS = 0.1
COMMENT_SECONDS = 15.0  # so that proxies in between do not take the stream for dead


@bp.get("/models/sse")
def stream_events() -> Response:
    """Ends at a shutdown, and at a reload, which may have changed what the key may see."""
    events = EventStream(current_request())
    response = Response(events.chunks(), headers=HEADERS)
    response.call_on_close(events.close)
    return response


class EventStream:
    """One stream. It holds its thread, so their number is limited, and each counts as an inference request."""

    def __init__(self, request: IncomingRequest) -> None:
        self._request = request
        services = request.services
        services.event_streams.acquire()
        try:
            services.admission.acquire()
        except BaseException:
            services.event_streams.release()
            raise
        self._client = request.watch_client()
        self._client.begin()

    def chunks(self) -> Iterator[bytes]:
        """Begins with a comment, so that the client gets the head at once."""
        store = self._request.services.store
        yield b": connected\n\n"
        published, known, written_at = store.pool, visible_pool(self._request), time.monotonic()
        while not self._is_over:
            time.sleep(POLL_SECONDS)
            chunk = b""
            if store.pool is not published:
                published, before, known = store.pool, known, visible_pool(self._request)
                chunk = b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in status_events(before, known))
            if not chunk and time.monotonic() - written_at >= COMMENT_SECONDS:
                chunk = b": still here\n\n"
            if chunk:
                yield chunk
                written_at = time.monotonic()

    @property
    def _is_over(self) -> bool:
        services = self._request.services
        is_reloaded = services.settings is not self._request.settings
        return self._client.is_disconnected or services.store.pool.draining or is_reloaded

    def close(self) -> None:
        """Give back what the stream holds, whether or not it was read."""
        self._client.close()
        self._request.services.admission.release()
        self._request.services.event_streams.release()

"""GET /status/stream: the status as events, for as long as somebody looks at it.

Nothing is made for it while nobody does, and for all viewers together once a second at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Blueprint, Response

from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.loading_stream import HEADERS
from app.routes.open_stream import OpenStream
from app.routes.status_report import status_text

bp = Blueprint("status_stream", __name__)

POLL_SECONDS = 0.25
MIN_AGE_SECONDS = 1.0  # between two events
# Ages and countdowns go on where nothing changes. Also a sign of life, for proxies in between.
MAX_AGE_SECONDS = 5.0


@bp.get("/status/stream")
def stream_status() -> Response:
    """Ends at a shutdown, and at a reload, which may have changed what the key may see. Raises Overloaded if too many
    view already: then poll /status."""
    request = current_request()
    place = OpenStream(request, request.services.viewers)
    response = Response(status_updates(request, place), headers=HEADERS)
    response.call_on_close(place.close)
    return response


def status_updates(request: IncomingRequest, place: OpenStream) -> Iterator[bytes]:
    """Each has the whole status."""
    sent = b""
    while not place.is_over:
        text = status_text(request, MIN_AGE_SECONDS, MAX_AGE_SECONDS)
        if text is not sent:
            yield b"data: %s\n\n" % text
            sent = text
        time.sleep(POLL_SECONDS)

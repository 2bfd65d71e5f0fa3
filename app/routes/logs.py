"""The logs of the service and of the engines, for admins: what is kept in memory, and streams of what is added.

`/logs`, `/logs/stream` and `/logs/stream/proxy` are llama-swap's; `no-history` is its name for `lines=0`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime

from flask import Blueprint, Response, jsonify

from app.entities.log_line import SERVICE, LogLine, LogPage
from app.errors import InvalidRequest, NotAllowed
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.open_stream import OpenStream
from app.routes.visibility import find_model, is_limited

bp = Blueprint("logs", __name__)

EVENTS = "text/event-stream"
TEXT = "text/plain; charset=utf-8"
HEADERS = (("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"), ("X-Content-Type-Options", "nosniff"))


@bp.get("/logs")
def show_logs() -> Response:
    """All lines by time; `?model=NAME`: of one model; `?lines=N`: the last ones; `?format=json`."""
    request = current_request()
    history, count = request.services.logs, _count(request)
    names = request.arguments("model")
    if names:
        lines: Iterable[LogLine] = history.last(find_model(request, names[0]).name, count).lines
    else:
        _require_all_models(request)
        lines = history.merged(count)
    if request.arguments("format") == ["json"]:
        return jsonify(lines=[_as_json(line) for line in lines])
    return Response("".join(map(_as_text, lines)), content_type=TEXT, headers=list(HEADERS))


@bp.get("/logs/stream")
@bp.get("/logs/stream/proxy")
def stream_service_log() -> Response:
    """The service's own lines."""
    _require_all_models(current_request())
    return _stream(current_request(), SERVICE)


@bp.get("/logs/stream/<path:name>")
def stream_engine_log(name: str) -> Response:
    """The lines of a model's llama-servers, whether or not one runs; of those to come, too."""
    return _stream(current_request(), find_model(current_request(), name).name)


def _require_all_models(request: IncomingRequest) -> None:
    """The service's own lines name any model."""
    if is_limited(request.key):
        assert request.key is not None
        raise NotAllowed(
            f"the key {request.key.name!r} may read the logs of its models only, at /logs?model=NAME; for all of them "
            'it needs `models: ["*"]`'
        )


def _count(request: IncomingRequest) -> int | None:
    if request.arguments("no-history"):
        return 0
    values = request.arguments("lines")
    if not values:
        return None
    if not (values[0].isascii() and values[0].isdecimal()) or len(values[0]) > 9:
        raise InvalidRequest("lines must be a number", "lines")
    return int(values[0])


def _stream(request: IncomingRequest, source: str) -> Response:
    """Server-sent events if the client accepts them or asks for JSON, else text."""
    count = _count(request)
    is_events = EVENTS in request.header("Accept") or request.arguments("format") == ["json"]
    place = OpenStream(request, request.services.viewers)
    chunks = _chunks(request, source, count, place, _event_page if is_events else _text_page)
    response = Response(chunks, content_type=EVENTS if is_events else TEXT, headers=list(HEADERS))
    response.call_on_close(place.close)
    return response


def _chunks(
    request: IncomingRequest, source: str, count: int | None, place: OpenStream, written: Callable[[LogPage], str]
) -> Iterator[bytes]:
    """Ends at a shutdown and at a reload. A client that reads slowly gets the lines that are still there, and how many
    are not."""
    logs = request.services.logs
    page = logs.last(source, count)

    def news() -> bytes:
        nonlocal page
        page = logs.after(source, page.position)
        return written(page).encode(errors="replace")

    first = written(page).encode(errors="replace")
    if written is _event_page:
        return place.chunks(first or b": no lines yet\n\n", news)
    return place.chunks(first, news, sign_of_life=b"")


def _text_page(page: LogPage) -> str:
    skipped = f"({page.skipped} lines skipped)\n" if page.skipped else ""
    return skipped + "".join(map(_as_text, page.lines))


def _event_page(page: LogPage) -> str:
    skipped = f'event: skipped\ndata: {{"lines": {page.skipped}}}\n\n' if page.skipped else ""
    return skipped + "".join(f"data: {json.dumps(_as_json(line))}\n\n" for line in page.lines)


def _as_json(line: LogLine) -> dict[str, object]:
    """Without a server, the line is the service's."""
    return asdict(line) | ({} if line.server else {"source": "service", "server": None})


def _as_text(line: LogLine) -> str:
    at = datetime.fromtimestamp(line.at).isoformat(" ", "milliseconds")
    return f"{at} {f'{line.source}[{line.server}]' if line.server else 'service'} {line.text}\n"

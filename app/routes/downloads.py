"""Downloads of models from Hugging Face repositories, and deletions from the cache, by order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from flask import Blueprint, Response, jsonify

from app.errors import MissingModel
from app.request_body.pull_request import PullRequest, pull_request
from app.routes.download_orders import DownloadStates, Ordered, delete_model, order_download
from app.routes.download_rules import visible_plan
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.key_limits import take_request
from app.routes.models import admitted
from app.routes.ollama_answer import NDJSON
from app.routes.visibility import shown_names, visible_models
from app.use_cases.downloads.repository_plan import repository_plan_report
from app.use_cases.reporting.downloads import download_report

bp = Blueprint("downloads", __name__)

EVENT_STREAM = "text/event-stream"


@bp.post("/models/pull")
def pull_model() -> Response:
    """Returns at once, mostly with a download that is `checking`. With `stream` its progress, until its end; with
    `plan` what there is to download, and what of it fits."""
    request = current_request()
    order = _order(request)
    if order.plans:
        return _plan(request, order.name)
    ordered = order_download(request, order.name)
    if order.streams:
        return _progress(request, ordered)
    response = jsonify(download_report(ordered.download))
    response.status_code = 202 if ordered.download.is_running else 200
    return response


@bp.post("/models")
def pull_like_router() -> Response:
    """By the name that llama.cpp's router has for it."""
    request = current_request()
    order_download(request, _order(request).name)
    return jsonify(success=True)


@bp.delete("/models/<path:name>")
def remove_model(name: str) -> Response:
    """Returns once the files are deleted, or a running download is canceled."""
    request = current_request()
    with admitted(request.services):
        return jsonify(success=True, freed_bytes=delete_model(request, name))


@bp.delete("/models")
def remove_like_router() -> Response:
    """By the name that llama.cpp's router has for it."""
    names = current_request().arguments("model")
    if len(names) != 1 or not names[0]:
        raise MissingModel
    return remove_model(names[0])


def _order(request: IncomingRequest) -> PullRequest:
    """What the body says. Counts as a request of its key."""
    if request.key is not None:
        take_request(request.services, request.key)
    with admitted(request.services), contextlib.closing(request.receive_body()) as body:
        return body.read(pull_request)


def _plan(request: IncomingRequest, name: str) -> Response:
    with admitted(request.services):
        plan = visible_plan(request, name)
    return jsonify(repository_plan_report(plan, shown_names(request, visible_models(request))))


def _progress(request: IncomingRequest, ordered: Ordered) -> Response:
    """The states as lines of JSON, or as events for a client that accepts those."""
    states = DownloadStates(request, ordered)
    is_events = EVENT_STREAM in request.header("Accept")
    start, end = (b"data: ", b"\n\n") if is_events else (b"", b"\n")

    def lines() -> Iterator[bytes]:
        for each in states:
            yield start + json.dumps(download_report(each)).encode() + end

    response = Response(lines(), content_type=EVENT_STREAM if is_events else NDJSON)
    response.headers["Cache-Control"], response.headers["X-Accel-Buffering"] = "no-cache", "no"
    response.call_on_close(states.close)
    return response

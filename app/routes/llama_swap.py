"""llama-swap's routes about running models: which there are, their unloading, and where its page was."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import MethodNotAllowed

from app.entities.model import Model
from app.errors import NotAllowed
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.models import admitted, known_or_loaded
from app.routes.visibility import visible_engines, visible_pool
from app.use_cases.reporting.model_status import running

bp = Blueprint("llama_swap", __name__)

NO_GRACE = 0.0  # seconds for running requests


@bp.get("/ui", strict_slashes=False)
def redirect_to_page() -> Response:
    """To the status page, for llama-swap's bookmarks. Relative: the service may be below a path."""
    sent = current_request().environ.get("RAW_URI", "").partition("?")[0]  # with a slash at its end, as browsers count
    return Response(status=302, headers={"Location": "../" if sent.endswith("/") else "./"})


@bp.get("/running")
def list_running() -> Response:
    """The servers of the models that the key may use; command lines for admins only."""
    request = current_request()
    pool = visible_pool(request)
    return jsonify(running(pool.servers, visible_engines(request), pool.limits.ttl_seconds))


@bp.get("/unload")
def unload_by_get() -> Response:
    """As POST /api/models/unload, for whoever sends a key: without keys, any web page could send a GET."""
    request = current_request()
    if request.method == "HEAD":  # Flask adds it to each GET, and nobody expects it to change anything
        raise MethodNotAllowed(["GET"])
    if request.key is None:
        raise NotAllowed("GET /unload requires a key; without keys, POST /api/models/unload unloads all models")
    _unload(request, _loaded_models(request))
    return Response("OK", content_type="text/plain")


@bp.post("/api/models/unload")
def unload_all() -> Response:
    """Ends all models that the key may use; returns once their processes have ended."""
    request = current_request()
    _unload(request, _loaded_models(request))
    return jsonify(msg="ok")


@bp.post("/api/models/unload/<path:name>")
def unload_one(name: str) -> Response:
    """The same for one model."""
    request = current_request()
    _unload(request, [known_or_loaded(request, name)])
    return Response("OK", content_type="text/plain")


def _loaded_models(request: IncomingRequest) -> list[Model]:
    return list({server.model.name: server.model for server in visible_pool(request).servers}.values())


def _unload(request: IncomingRequest, models: Sequence[Model]) -> None:
    """All at the same time, and without waiting for running requests, like llama-swap. They end even if the client
    disconnects."""
    pool, wait_seconds = request.services.pool, request.settings.max_wait_seconds
    nobody = request.services.clients.watch(None)
    with admitted(request.services), ThreadPoolExecutor(max(1, len(models)), "unload") as threads:
        for order in [threads.submit(pool.unload, model, wait_seconds, nobody, NO_GRACE) for model in models]:
            order.result()

"""Models: the list of them, their state, and the commands to load and unload one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from math import inf
from typing import NoReturn

from flask import Blueprint, Response, jsonify
from flask import request as flask_request
from werkzeug.exceptions import MethodNotAllowed

from app.entities.model import Model
from app.errors import InvalidModelFile, InvalidRequest, ModelNotFound
from app.ports import BodyFile, RequestBody, WatchedClient
from app.request_body.content import MULTIPART
from app.request_body.grace_period import grace_seconds
from app.routes.download_orders import cancel_download
from app.routes.download_rules import visible_downloads
from app.routes.download_wait import DownloadWait
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.inference import forward
from app.routes.model_engine import check_engine
from app.routes.peer_models import listed_peer_model, peer_models_for_lists
from app.routes.requested_model import read_request
from app.routes.visibility import (
    HEADERS_SECONDS,
    alternatives,
    check_access,
    default_model,
    described_models,
    find_model,
    servable_model,
    virtual_names,
    visible_decisions,
    visible_engines,
)
from app.services import Services, services
from app.use_cases.reporting.downloads import with_downloads
from app.use_cases.reporting.model_list import (
    anthropic_entry,
    anthropic_list,
    anthropic_peer_entry,
    as_virtual,
    model_entry,
    model_list,
)
from app.use_cases.reporting.peer_models import model_entries
from app.use_cases.reporting.report import model_placement, router_props

bp = Blueprint("models", __name__)

ANTHROPIC = "anthropic-version"  # a header that Anthropic's API requires


@bp.get("/v1/models")
@bp.get("/models")
def list_models() -> Response:
    _reload_if_requested()
    request = current_request()
    store, models = request.services.store, described_models(request)
    if request.path == "/v1/models":  # clients offer all of its models; llama.cpp's router says in /models what failed
        models = [model for model in models if not model.problem]
    at_peers = [each for each in peer_models_for_lists(request) if request.path == "/models" or not each.problem]
    others = request.settings.list_aliases, virtual_names(request)
    if request.has(ANTHROPIC):
        return jsonify(anthropic_list(models, store.pool, store.decisions, *others, at_peers))
    listed = model_list(models, store.pool, store.decisions, visible_engines(request), *others)
    listed["data"] += [entry for each in at_peers for entry in model_entries(each)]
    if request.path == "/models":
        listed["data"] = with_downloads(listed["data"], visible_downloads(request))
    return jsonify(listed | {"default_model": default_model(request) or None})


@bp.get("/v1/models/<path:name>")
@bp.get("/models/<path:name>")
def show_model(name: str) -> Response:
    _reload_if_requested()
    request = current_request()
    if listed := listed_peer_model(request, name):
        return jsonify(anthropic_peer_entry(listed) if request.has(ANTHROPIC) else model_entries(listed)[0])
    store, model, key = request.services.store, find_model(request, name), request.key
    (model,) = request.services.catalog.read_headers([model], HEADERS_SECONDS)
    if request.has(ANTHROPIC):
        return jsonify(anthropic_entry(model, store.pool, store.decisions))
    decisions = visible_decisions(request) if key is None or key.admin else ()
    entry = model_entry(model, store.pool, store.decisions, visible_engines(request))
    if stands_for := alternatives(request, name):
        entry = as_virtual(entry, name, stands_for)
    return jsonify(entry | model_placement(model, store.pool, decisions))


def _reload_if_requested() -> None:
    """A scan takes up to a second, and requests for one wait for each other: they must not take the last thread."""
    if current_request().wants_scan:
        with admitted(services()):
            services().catalog.reload()


@bp.post("/models/load")
def load() -> Response:
    """Returns once the model's llama-server is starting, or has started. It waits for the download of its model, as an
    inference request does."""
    s = services()
    request = current_request()
    with admitted(s):
        name, _ = _ordered(request)
        with contextlib.closing(request.watch_client()) as client:
            model = _servable_or_downloaded(request, name, client)
            check_engine(s, model)
            s.pool.load(model, s.settings.max_wait_seconds, client)
    return jsonify(success=True)


def _servable_or_downloaded(request: IncomingRequest, name: str, client: WatchedClient) -> Model:
    try:
        return servable_model(request, name)
    except (ModelNotFound, InvalidModelFile) as error:
        download = DownloadWait(request, name, error)
    with contextlib.closing(download):
        download.until_complete(client)
    return servable_model(request, name)


@bp.post("/models/unload")
def unload() -> Response:
    """Returns once its processes have ended. Requests that they are answering are finished first, if the order does
    not say how long it waits for them. A model that is being downloaded no longer is: the partial download is kept."""
    s, request = services(), current_request()
    with admitted(s):
        name, seconds = _ordered(request, _grace_seconds)
        if cancel_download(request, name):
            return jsonify(success=True)
        max_wait_seconds = s.settings.max_wait_seconds + (0 if seconds == inf else seconds)
        model = known_or_loaded(request, name)
        with contextlib.closing(request.watch_client()) as client:
            s.pool.unload(model, max_wait_seconds, client, seconds)
    return jsonify(success=True)


@bp.get("/models/load")
@bp.get("/models/unload")
@bp.get("/models/pin")
@bp.get("/models/pull")
@bp.get("/models/unpin")
def reject_get() -> NoReturn:
    """These are not names of models: a model called "load" is at /v1/models/load."""
    raise MethodNotAllowed(["POST"])


def _grace_seconds(request: IncomingRequest, body: RequestBody) -> float:
    if request.mimetype == MULTIPART:
        return inf
    if isinstance(body.data, BodyFile):
        raise InvalidRequest("the body of a request to unload a model is too large")
    return grace_seconds(body.data)


def known_or_loaded(request: IncomingRequest, name: str) -> Model:
    """The model of that name, even if it is loaded but no longer in the catalogue."""
    try:
        return find_model(request, name)
    except ModelNotFound:
        server = request.services.store.pool.server_of(name)
        if server is None:
            raise
        return check_access(request, server.model, name)


@bp.get("/props")
def props() -> Response:
    """A loaded model's properties; without `?model=` our own, by which llama.cpp's clients recognize a router."""
    if "model" in flask_request.args:
        return forward()
    s = services()
    return jsonify(router_props(s.engine, s.settings.max_loaded))


def _ordered(
    request: IncomingRequest, read_grace: Callable[[IncomingRequest, RequestBody], float] = lambda request, body: inf
) -> tuple[str, float]:
    """The name in the body of a load or unload, and how many seconds its running requests get."""
    with contextlib.closing(request.receive_body()) as body:
        return read_request(request, body, must_name=True).model, read_grace(request, body)


@contextlib.contextmanager
def admitted(services: Services) -> Iterator[None]:
    """Count something that waits as an inference request. Raises Overloaded if too many are running."""
    services.admission.acquire()
    try:
        yield
    finally:
        services.admission.release()

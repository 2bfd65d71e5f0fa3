"""Models: what one may ask for, what is loaded, and the orders to load and unload."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NoReturn

from flask import Blueprint, Response, jsonify
from flask import request as flask_request
from werkzeug.exceptions import MethodNotAllowed

from app.entities.model import Model
from app.errors import ModelNotFound, NoEngine
from app.ports import WatchedClient
from app.routes.authorization import checked, find_model, servable_model, visible_models
from app.routes.exchange import place, read_body
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.inference import infer_by_flask
from app.routes.requested_model import read_request
from app.services import services
from app.use_cases.reporting.report import model_entry, model_list, model_place, router_props

bp = Blueprint("models", __name__)


@bp.get("/v1/models")
@bp.get("/models")
def list_models() -> Response:
    _reload_if_asked()
    return jsonify(model_list(visible_models(current_request()), services().store.pool))


@bp.get("/v1/models/<path:name>")
@bp.get("/models/<path:name>")
def show_model(name: str) -> Response:
    _reload_if_asked()
    request = current_request()
    store, model, key = request.services.store, find_model(request, name), request.key
    decisions = store.decisions if key is None or key.admin else ()  # they name other models
    return jsonify(model_entry(model, store.pool) | model_place(model, store.pool, decisions))


def _reload_if_asked() -> None:
    """A scan may take a second, and others wait for theirs: with a place, so that they never take the last thread."""
    if flask_request.args.get("reload") == "1":
        with place(services()):
            services().catalog.reload()


@bp.post("/models/load")
def load() -> Response:
    """Done once the model's llama-server is starting; it is so already, if it is."""
    s = services()
    if s.engine is None:
        raise NoEngine(s.engine_problem)
    with _order(servable_model) as (model, client):
        s.pool.load(model, s.max_wait_seconds, client)
    return jsonify(success=True)


@bp.post("/models/unload")
def unload() -> Response:
    """Done once its process is gone. What it is answering is answered first."""
    s = services()
    with _order(_known_or_loaded) as (model, client):
        s.pool.unload(model, s.max_wait_seconds, client)
    return jsonify(success=True)


@bp.get("/models/load")
@bp.get("/models/unload")
def refuse_to_order_by_get() -> NoReturn:
    """These are no names of models: one that is called so is at /v1/models/."""
    raise MethodNotAllowed(["POST"])


def _known_or_loaded(request: IncomingRequest, name: str) -> Model:
    """The model of that name, also one that is loaded although its file is gone from the catalogue."""
    try:
        return find_model(request, name)
    except ModelNotFound:
        server = request.services.store.pool.server_of(name)
        if server is None:
            raise
        return checked(request, server.model)


@bp.get("/props")
def props() -> Response:
    """A loaded model's properties; without `?model=` our own, by which llama.cpp's clients know a router."""
    if "model" in flask_request.args:
        return infer_by_flask()
    s = services()
    return jsonify(router_props(s.engine, s.max_loaded))


@contextlib.contextmanager
def _order(find: Callable[[IncomingRequest, str], Model]) -> Iterator[tuple[Model, WatchedClient]]:
    """The model that an order is about and the watch over its client; it holds a place while it waits."""
    request = current_request()
    with place(request.services):
        model = find(request, read_request(request, read_body(request)).model)
        with contextlib.closing(request.services.clients.watch(request.environ.get("gunicorn.socket"))) as client:
            yield model, client

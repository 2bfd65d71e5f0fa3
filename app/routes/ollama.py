"""Ollama's API, apart from what its model's server answers (ollama_exchange.py): lists, and what is not supported."""

from __future__ import annotations

import contextlib
import json
import time
from typing import NoReturn

from flask import Blueprint, Response, jsonify
from flask import request as flask_request

from app.entities.model import Model
from app.errors import InvalidRequest, ModelNotFound, NotSupported
from app.request_body.ollama_body import NameRequest, name_request
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.inference import InferenceResponse
from app.routes.models import admitted
from app.routes.ollama_answer import NDJSON
from app.routes.ollama_exchange import respond_to_ollama
from app.routes.visibility import described_models, find_model, virtual_names, visible_pool
from app.services import services
from app.use_cases.ollama.translation import Api
from app.use_cases.reporting.ollama_models import model_details, process_list, tag_list

bp = Blueprint("ollama", __name__)

# Clients compare it, to learn what is understood: this is the release whose API is followed.
VERSION = "0.30.6"
FILES = "models are files here: add or delete them in a folder of catalog.models_dirs, then GET /v1/models?reload=1"


def forward_translated() -> Response:
    """Those inference requests that did not bypass Flask."""
    assert flask_request.url_rule is not None
    return InferenceResponse(current_request(), flask_request.url_rule.rule, respond_to_ollama)


for path in Api:
    bp.post(path)(forward_translated)


@bp.get("/api/version")
def show_version() -> Response:
    return jsonify(version=VERSION)


@bp.get("/api/tags")
def list_tags() -> Response:
    request = current_request()
    models, servers = described_models(request), request.services.store.pool.servers
    return jsonify(tag_list(models, servers, request.settings.list_aliases, virtual_names(request)))


@bp.get("/api/ps")
def list_processes() -> Response:
    return jsonify(process_list(visible_pool(current_request()), time.monotonic(), time.time()))


@bp.post("/api/show")
def show_details() -> Response:
    """Reads the model's header, unless it was among the last that were asked for."""
    request, catalog = current_request(), services().catalog
    model = catalog.servable(find_model(request, _names(request).name))
    store = services().store
    return jsonify(model_details(model, store.pool, store.decisions, catalog.metadata(model)))


@bp.post("/api/pull")
def pull() -> Response:
    """Success, in Ollama's form, for a model that is there."""
    request = current_request()
    found = _names(request)
    _pulled(request, found.name)
    done = json.dumps({"status": "success"}) + "\n"
    return Response(done, content_type=NDJSON if found.streams else "application/json")


def _pulled(request: IncomingRequest, name: str) -> Model:
    try:
        return find_model(request, name)
    except ModelNotFound as error:
        raise ModelNotFound(name, f"/api/pull downloads nothing; {FILES}") from error


@bp.delete("/api/delete")
@bp.post("/api/create")
@bp.post("/api/push")
@bp.route("/api/blobs/<digest>", methods=["HEAD", "POST"])
def reject_file_command(digest: str = "") -> NoReturn:
    raise NotSupported(f"{current_request().path[:200]} is not supported: {FILES}")


@bp.post("/api/copy")
def reject_copy() -> NoReturn:
    raise NotSupported("/api/copy is not supported: give a model further names by `aliases` in its entry of `models`")


def _names(request: IncomingRequest) -> NameRequest:
    """What the body of a request about one model says. Raises InvalidRequest, and Overloaded: a body may arrive slowly,
    and must not take the last thread."""
    with admitted(request.services), contextlib.closing(request.receive_body()) as body:
        found = body.read(name_request)
    if not found.name:
        raise InvalidRequest('the request names no model: add "model"', param="model")
    return found

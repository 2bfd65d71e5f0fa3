"""Ollama's API, apart from what its model's server answers (ollama_exchange.py): lists, and what is not supported."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import NoReturn

from flask import Blueprint, Response, jsonify
from flask import request as flask_request

from app.errors import InvalidRequest, ModelNotFound, NotSupported
from app.request_body.ollama_body import NameRequest, name_request
from app.routes.download_orders import DownloadStates, delete_model, order_download
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.inference import InferenceResponse
from app.routes.key_limits import take_request
from app.routes.models import admitted
from app.routes.ollama_answer import JSON, NDJSON
from app.routes.ollama_exchange import respond_to_ollama
from app.routes.peer_models import listed_peer_model, peer_models_for_lists
from app.routes.visibility import described_models, find_model, virtual_names, visible_pool
from app.services import services
from app.use_cases.ollama.pull import pull_progress
from app.use_cases.ollama.translation import Api
from app.use_cases.reporting.ollama_models import model_details, peer_model_details, process_list, tag_list

bp = Blueprint("ollama", __name__)

# Clients compare it, to learn what is understood: this is the release whose API is followed.
VERSION = "0.30.6"
FILES = "models are files here: add them to a folder of catalog.models_dirs, then GET /v1/models?reload=1"
NO_REGISTRY = "models of Ollama's registry are not downloaded: pull user/repo:QUANT of Hugging Face, as hf.co/user/repo"


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
    names = request.settings.list_aliases, virtual_names(request)
    return jsonify(tag_list(models, servers, *names, peer_models_for_lists(request)))


@bp.get("/api/ps")
def list_processes() -> Response:
    return jsonify(process_list(visible_pool(current_request()), time.monotonic(), time.time()))


@bp.post("/api/show")
def show_details() -> Response:
    """Reads the model's header, unless it was among the last that were asked for."""
    request, catalog = current_request(), services().catalog
    name = _names(request).name
    if listed := listed_peer_model(request, name):
        return jsonify(peer_model_details(listed))
    model = catalog.servable(find_model(request, name))
    store = services().store
    return jsonify(model_details(model, store.pool, store.decisions, catalog.metadata(model)))


@bp.post("/api/pull")
def pull() -> Response:
    """A line for each change, the last one `success` or an error; without `stream` only that."""
    request = current_request()
    if request.key is not None:
        take_request(request.services, request.key)
    found = _names(request)
    try:
        ordered = order_download(request, found.name)
    except InvalidRequest:
        raise ModelNotFound(found.name, NO_REGISTRY) from None
    states = DownloadStates(request, ordered)
    if found.streams:
        response = Response((_line(pull_progress(each)) for each in states), content_type=NDJSON)
        response.call_on_close(states.close)
        return response
    with contextlib.closing(states):
        *_, last = states
    if states.problem:
        raise states.problem
    return Response(_line(pull_progress(last)), content_type=JSON)


def _line(line: Mapping[str, object]) -> bytes:
    return json.dumps(line).encode() + b"\n"


@bp.delete("/api/delete")
def delete() -> Response:
    request = current_request()
    name = _names(request).name
    with admitted(request.services):
        delete_model(request, name)
    return Response()


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

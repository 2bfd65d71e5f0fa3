"""Model lists: what one may ask for, and what is loaded."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from app.services import services
from app.use_cases.report import model_entry, model_list

bp = Blueprint("models", __name__)


@bp.get("/v1/models")
@bp.get("/models")
def list_models() -> Response:
    if request.args.get("reload") == "1":
        services().catalog.reload()
    return jsonify(model_list(services().catalog.models(), services().store.pool))


@bp.get("/v1/models/<path:name>")
@bp.get("/models/<path:name>")
def show_model(name: str) -> Response:
    return jsonify(model_entry(services().catalog.find(name), services().store.pool))

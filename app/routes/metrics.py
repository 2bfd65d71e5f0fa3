"""Metrics for Prometheus, and where they are. A scrape loads nothing and is not a use of a model."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from flask import request as flask_request

from app.routes.incoming_request import current_request
from app.routes.inference import forward
from app.routes.visibility import is_limited, visible_models
from app.services import services

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
def show_metrics() -> Response:
    if "model" in flask_request.args:
        return forward()  # to the model's server, if it is loaded
    request, gauges = current_request(), services().gauges
    models = {model.name for model in visible_models(request)} if is_limited(request.key) else None
    page, content_type = gauges.render(request.header("Accept"), models)
    return Response(page, content_type=content_type)


@bp.get("/sd")
def list_targets() -> Response:
    """For `http_sd_configs`: this service, at the address that was asked. The engines' series are among its own."""
    host = flask_request.host
    is_behind_tls = f"https://{host}" == current_request().settings.access_policy.public_origin
    return jsonify([{"targets": [host], "labels": {"__scheme__": "https"} if is_behind_tls else {}}])

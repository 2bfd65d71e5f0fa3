"""Metrics for Prometheus. A scrape loads nothing and is not a use of a model."""

from __future__ import annotations

import re

from flask import Blueprint, Response, jsonify
from flask import request as flask_request

from app.errors import InvalidRequest
from app.routes.incoming_request import current_request
from app.routes.inference import forward
from app.routes.visibility import is_limited, visible_names, visible_pool
from app.services import services
from app.use_cases.reporting.scrape_targets import scrape_targets

bp = Blueprint("metrics", __name__)

ADDRESS = re.compile(r"[\w.-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?")


@bp.get("/metrics")
def show_metrics() -> Response:
    if "model" in flask_request.args:
        return forward()  # to the model's server, if it is loaded
    request, gauges = current_request(), services().gauges
    key = request.key.name if request.key else ""
    models = visible_names(request) if is_limited(request.key) else None
    page, content_type = gauges.render(request.header("Accept"), models, key)
    return Response(page, content_type=content_type)


@bp.get("/sd")
def list_targets() -> Response:
    """For Prometheus's http_sd_configs: this service, at the address of the Host header, and the loaded models."""
    request = current_request()
    address = request.header("Host")
    if not ADDRESS.fullmatch(address):
        raise InvalidRequest("the Host header must be the address of this service")
    return jsonify(scrape_targets(address, visible_pool(request).servers))

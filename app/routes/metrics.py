"""Metrics for Prometheus. A scrape loads nothing and is not a use of a model."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as flask_request

from app.routes.inference import forward
from app.services import services

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
def show_metrics() -> Response:
    if "model" in flask_request.args:
        return forward()  # to the model's server, if it is loaded
    page, content_type = services().gauges.render(flask_request.headers.get("Accept", ""))
    return Response(page, content_type=content_type)

"""Metrics for Prometheus. A scrape wakes nothing and counts as no activity."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as flask_request

from app.routes.inference import infer_by_flask
from app.services import services

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
def show_metrics() -> Response:
    if "model" in flask_request.args:
        return infer_by_flask()  # that model's own, if it is loaded
    page, content_type = services().gauges.render(flask_request.headers.get("Accept", ""))
    return Response(page, content_type=content_type)

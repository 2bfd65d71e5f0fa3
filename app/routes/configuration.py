"""Configuration: the command to reload it."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from app.routes.models import admitted
from app.services import services

bp = Blueprint("configuration", __name__)


@bp.post("/admin/reload")
def reload_configuration() -> Response:
    """Returns once the new configuration is in force. Servers with old settings may still finish their requests."""
    with admitted(services()):
        report = services().configuration.reload()
    return jsonify(report.as_json())

"""Configuration: the command to reload it."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from app.services import services

bp = Blueprint("configuration", __name__)


@bp.post("/admin/reload")
def reload_configuration() -> Response:
    """Returns once the new configuration is in force. Servers with old settings may still finish their requests.

    Takes no place among the inference requests: limits must be changeable while all places are taken.
    """
    return jsonify(services().configuration.reload().as_json())

"""Pins: models that are not evicted or unloaded when idle, by order, until the service restarts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from flask import Blueprint, Response, jsonify

from app.entities.model import Model
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.models import admitted, known_or_loaded
from app.routes.requested_model import read_request
from app.routes.visibility import servable_model

bp = Blueprint("pins", __name__)


@bp.post("/models/pin")
def pin() -> Response:
    """The model is not loaded by it."""
    return _ordered(servable_model, current_request().services.pins.pin)


@bp.post("/models/unpin")
def unpin() -> Response:
    """Also a model that its settings pin."""
    return _ordered(known_or_loaded, current_request().services.pins.unpin)


def _ordered(find: Callable[[IncomingRequest, str], Model], order: Callable[[Model], None]) -> Response:
    request = current_request()
    with admitted(request.services):
        with contextlib.closing(request.receive_body()) as body:
            name = read_request(request, body, must_name=True).model
        order(find(request, name))
    return jsonify(success=True)

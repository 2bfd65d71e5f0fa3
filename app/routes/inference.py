"""Inference routes of Flask's: those whose paths have parameters or other meanings, and paths without a route.

A request's `model` picks the server; its bytes go there unchanged, and the answer comes back as it is (exchange.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Blueprint, Response
from flask import request as flask_request
from werkzeug.exceptions import NotFound as NoSuchRule

from app.errors import InvalidRequest
from app.routes.exchange import respond
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.paths import GET_ROUTES, OTHER_PATH, POST_ROUTES, hint, may_be_forwarded

bp = Blueprint("inference", __name__)

ENDPOINT = "inference.forward"
Respond = Callable[[IncomingRequest, str, Callable[..., Any]], Iterable[bytes]]
FORWARDED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class InferenceResponse(Response):
    """Flask's stand-in for an inference answer: the answer is made, and sent, when the server calls it."""

    def __init__(self, request: IncomingRequest, route: str, respond: Respond = respond) -> None:
        super().__init__()
        self._request = request
        self._route = route
        self._respond = respond

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._respond(self._request, self._route, start_response)


def forward(slot: int | None = None) -> Response:
    """Forward the request to the server of its model."""
    request = current_request()
    if slot is not None and request.arguments("action") != ["erase"]:
        reason = "slots are saved and restored by the service alone (keep_kv_cache): they hold other clients' prompts"
        raise InvalidRequest(f'"action" must be "erase": {reason}', param="action")
    return InferenceResponse(request, flask_request.url_rule.rule if flask_request.url_rule else OTHER_PATH)


for path in POST_ROUTES:
    bp.post(path)(forward)
for path in GET_ROUTES:
    bp.get(path)(forward)


@bp.before_app_request
def forward_other_path() -> Response | None:
    """A path without a route goes to the model that its JSON body names, if that is loaded (loading_rules.py)."""
    if not isinstance(flask_request.routing_exception, NoSuchRule):
        return None
    request = current_request()
    is_form = request.mimetype == "multipart/form-data"
    if not request.has_body or is_form or request.method not in FORWARDED_METHODS or not may_be_forwarded(request.path):
        return None
    if hint(request.path) and not request.settings.load_on_any_path:
        return None
    return forward()

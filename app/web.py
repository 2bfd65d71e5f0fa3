"""The WSGI application: routes for inference by themselves, all others as Flask's, and one form of errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, Response

from app.routes import authorization, decisions, health, inference, metrics, models, status
from app.routes.answers import WsgiResponse, error_answer
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.paths import PLAIN_ROUTES
from app.services import EXTENSION, Services

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def create_app(services: Services) -> Flask:
    """The WSGI application over `services`."""
    app = Flask("app", template_folder=str(TEMPLATES), static_folder=None)
    app.extensions[EXTENSION] = services
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # one path, one meaning
    for routes in (authorization, inference, models, decisions, health, metrics, status):
        app.register_blueprint(routes.bp)
    app.register_error_handler(Exception, _answer_error)
    app.after_request(_name_the_request)
    app.wsgi_app = _inference_first(services, app.wsgi_app)  # type: ignore[method-assign,assignment]
    return app


def _inference_first(services: Services, others: Wsgi) -> Wsgi:
    """What is asked for most goes past Flask, whose way in and out takes longer than all of ours."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "POST" or environ["PATH_INFO"] not in PLAIN_ROUTES:
            return others(environ, start_response)
        request = IncomingRequest(environ, services, inference.ENDPOINT)
        answer = _answered(request, environ["PATH_INFO"])
        start_response(answer.status_line, [*answer.headers, ("x-request-id", request.request_id)])
        return answer.body

    return call


def _answered(request: IncomingRequest, route: str) -> WsgiResponse:
    try:
        authorization.authorize(request)
        return inference.infer(request, route)
    except Exception as error:
        return error_answer(request, error)


def _answer_error(error: Exception) -> Response:
    return inference.as_flask(error_answer(current_request(), error))


def _name_the_request(response: Response) -> Response:
    response.headers["x-request-id"] = current_request().request_id
    return response

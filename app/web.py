"""The WSGI application: inference requests bypass Flask, all others are Flask's, and errors have one form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, Response

from app.routes import (
    assets,
    authorization,
    configuration,
    decisions,
    downloads,
    health,
    inference,
    llama_swap,
    logs,
    metrics,
    model_events,
    models,
    ollama,
    pins,
    plan,
    status,
    status_report,
    status_stream,
    upstream,
)
from app.routes.agent_exchange import respond_to_chat
from app.routes.cors import Wsgi, with_cors
from app.routes.error_response import error_response, respond_with_error
from app.routes.exchange import respond
from app.routes.incoming_request import IncomingRequest, current_request
from app.routes.ollama_exchange import respond_to_ollama
from app.routes.paths import CHAT_ROUTES, PLAIN_ROUTES, plain_path
from app.services import EXTENSION, Services
from app.use_cases.ollama.translation import Api

BLUEPRINTS = (
    *(authorization, inference, models, configuration, decisions, health, metrics, ollama, status, assets),
    *(status_report, status_stream, llama_swap, logs, model_events, downloads, pins, plan, upstream),
)
TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


def create_app(services: Services) -> Flask:
    """The WSGI application over `services`."""
    app = Flask("app", template_folder=str(TEMPLATES), static_folder=None)
    app.extensions[EXTENSION] = services
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # one path, one meaning
    for routes in BLUEPRINTS:
        app.register_blueprint(routes.bp)
    app.register_error_handler(Exception, _on_error)
    app.after_request(_add_request_id)
    app.wsgi_app = with_cors(services, _inference_first(services, app.wsgi_app))  # type: ignore[method-assign,assignment]
    return app


def _inference_first(services: Services, flask_app: Wsgi) -> Wsgi:
    """Inference requests bypass Flask, which takes longer for a request than all of our own code."""
    responders = dict.fromkeys(PLAIN_ROUTES, respond)
    responders |= dict.fromkeys(CHAT_ROUTES, respond_to_chat) | dict.fromkeys(Api, respond_to_ollama)

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        responder = responders.get(environ["PATH_INFO"])
        if responder is None:
            environ["PATH_INFO"] = plain_path(environ["PATH_INFO"])
            responder = responders.get(environ["PATH_INFO"])
        if environ["REQUEST_METHOD"] != "POST" or responder is None:
            return flask_app(environ, start_response)
        request = IncomingRequest(environ, services, inference.ENDPOINT)
        try:
            authorization.authorize(request)
        except Exception as error:
            return respond_with_error(request, error, start_response)
        return responder(request, environ["PATH_INFO"], start_response)

    return call


def _on_error(error: Exception) -> Response:
    status_code, headers, body = error_response(current_request(), error)
    response = Response(body, status=status_code)
    response.headers.clear()
    response.headers.extend(headers)
    return response


def _add_request_id(response: Response) -> Response:
    response.headers["x-request-id"] = current_request().request_id
    return response

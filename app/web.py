"""The Flask application: blueprints, and the one place where errors become answers."""

from __future__ import annotations

import logging
from pathlib import Path

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from app.errors import InvalidRequest, MethodNotAllowed, ProxyError
from app.routes import decisions, doors, health, inference, metrics, models, status
from app.services import EXTENSION, Services

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


def create_app(services: Services) -> Flask:
    """The WSGI application over `services`."""
    app = Flask("app", template_folder=str(TEMPLATES), static_folder=None)
    app.extensions[EXTENSION] = services
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # one path, one meaning
    for routes in (doors, inference, models, decisions, health, metrics, status):
        app.register_blueprint(routes.bp)
    app.register_error_handler(Exception, answer_error)
    app.after_request(_name_the_request)
    return app


def answer_error(error: Exception) -> Response:
    """Any exception as OpenAI's error object with the status it deserves."""
    problem = error if isinstance(error, ProxyError) else _translated(error)
    response = jsonify(problem.body)
    response.status_code = problem.status
    response.headers.update(problem.headers)
    for challenge in problem.challenges:
        response.headers.add("WWW-Authenticate", challenge)
    if isinstance(error, HTTPException) and (allow := dict(error.get_headers()).get("Allow")):
        response.headers["Allow"] = allow
    return response


def _translated(error: Exception) -> ProxyError:
    if not isinstance(error, HTTPException):
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return ProxyError("internal error; the service's log has the details")
    match error.code:
        case 404:
            return doors.no_such_path()
        case 405:
            return MethodNotAllowed(f"{request.method} is not possible on {request.path[:200]}")
        case _:
            return InvalidRequest(error.description or error.name)


def _name_the_request(response: Response) -> Response:
    response.headers["x-request-id"] = inference.request_id()
    return response

"""Error responses: any exception as an error of the API that was called, in Flask's routes and those that bypass it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus

from werkzeug.exceptions import HTTPException

from app.errors import InvalidRequest, MethodNotAllowed, NotFound, ProxyError
from app.routes.incoming_request import IncomingRequest
from app.routes.paths import hint
from app.routes.visibility import visible_error

log = logging.getLogger(__name__)

PHRASES = {status.value: status.phrase for status in HTTPStatus}


def error_response(request: IncomingRequest, error: Exception) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body."""
    problem = visible_error(request, error) if isinstance(error, ProxyError) else _proxy_error(request, error)
    body = json.dumps(request.error_form.body(problem)).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *problem.headers.items()]
    headers += [("WWW-Authenticate", challenge) for challenge in problem.challenges]
    if isinstance(error, HTTPException) and (allow := dict(error.get_headers()).get("Allow")):
        headers.append(("Allow", allow))
    return problem.status, headers, body


def respond_with_error(
    request: IncomingRequest, error: Exception, start_response: Callable[..., object]
) -> Iterable[bytes]:
    """The same as a WSGI application answers."""
    status, headers, body = error_response(request, error)
    start_response(f"{status} {PHRASES.get(status, 'Unknown')}", [*headers, ("x-request-id", request.request_id)])
    return [body]


def status_of(error: BaseException) -> int:
    """The status that the client of a request which ended so will see."""
    for each in (error, error.__cause__):
        if isinstance(each, ProxyError):
            return each.status
    if isinstance(error, HTTPException):
        return error.code or 500
    return 500 if isinstance(error, Exception) else 400  # what is not an Exception is a body that could not be read


def no_such_path(request: IncomingRequest, reason: str = "") -> NotFound:
    reason = reason or hint(request.path)
    return NotFound(f"no such path: {request.method} {request.path[:200]}{f' ({reason})' if reason else ''}")


def _proxy_error(request: IncomingRequest, error: Exception) -> ProxyError:
    if not isinstance(error, HTTPException):
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return ProxyError("internal error; see the service's log")
    match error.code:
        case 404:
            return no_such_path(request)
        case 405:
            allowed = set(dict(error.get_headers()).get("Allow", "").split(", ")) - {"HEAD", "OPTIONS"}
            text = f"{request.path[:200]} does not support {request.method}, only {', '.join(sorted(allowed))}"
            return MethodNotAllowed(text)
        case _:
            return InvalidRequest(error.description or error.name)

"""Answers as WSGI has them, for the routes that Flask does not serve; errors alone are worded here, for all routes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

from werkzeug.exceptions import HTTPException

from app.errors import InvalidRequest, MethodNotAllowed, ProxyError
from app.routes.authorization import no_such_path
from app.routes.incoming_request import IncomingRequest

log = logging.getLogger(__name__)

_PHRASES = {each.value: each.phrase for each in HTTPStatus}


@dataclass(frozen=True, slots=True)
class WsgiResponse:
    """A whole answer. WSGI closes a body that can be closed once it, or its client, is done with it."""

    status: int
    headers: list[tuple[str, str]]
    body: Iterable[bytes]

    @property
    def status_line(self) -> str:
        return f"{self.status} {_PHRASES.get(self.status, 'Unknown')}"


def error_answer(request: IncomingRequest, error: Exception) -> WsgiResponse:
    """Any exception as OpenAI's error object with the status it deserves."""
    problem = error if isinstance(error, ProxyError) else _translated(request, error)
    body = json.dumps(problem.body).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *problem.headers.items()]
    headers += [("WWW-Authenticate", challenge) for challenge in problem.challenges]
    if isinstance(error, HTTPException) and (allow := dict(error.get_headers()).get("Allow")):
        headers.append(("Allow", allow))
    return WsgiResponse(problem.status, headers, [body])


def _translated(request: IncomingRequest, error: Exception) -> ProxyError:
    if not isinstance(error, HTTPException):
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return ProxyError("internal error; see the service's log")
    match error.code:
        case 404:
            return no_such_path(request)
        case 405:
            return MethodNotAllowed(f"{request.method} is not possible on {request.path[:200]}")
        case _:
            return InvalidRequest(error.description or error.name)

"""Answers that go out before, or instead of, the Flask application: our error object as a whole HTTP response."""

from __future__ import annotations

import http
import json

from gunicorn.http import errors as http_errors

from app.errors import ExpectationFailed, HeadTooLarge, InvalidRequest, ProxyError, UriTooLong

_APPLICATION_FAULTS = (
    http_errors.InvalidResponseHeader,
    http_errors.InvalidResponseHeaderName,
    http_errors.ConfigurationProblem,
)
_OTHER_THAN_400: dict[type[Exception], type[ProxyError]] = {
    http_errors.LimitRequestLine: UriTooLong,
    http_errors.ExpectationFailed: ExpectationFailed,
    http_errors.LimitRequestHeaders: HeadTooLarge,
}
MESSAGE_CHARACTERS = 200


def problem_of(error: BaseException | None) -> ProxyError:
    """What to tell the client of a request that could not be read, or that the application failed on."""
    if isinstance(error, ProxyError):
        return error
    if isinstance(error, http_errors.NoMoreData):
        return InvalidRequest("the request body ended before its announced length")
    if isinstance(error, http_errors.ParseException) and not isinstance(error, _APPLICATION_FAULTS):
        # An unsupported transfer coding too: whatever makes the framing ambiguous is a 400 here.
        return _OTHER_THAN_400.get(type(error), InvalidRequest)(str(error)[:MESSAGE_CHARACTERS])
    return ProxyError("internal error; the service's log has the details")


def response_bytes(problem: ProxyError) -> bytes:
    """The whole HTTP response; the connection closes after it."""
    body = json.dumps(problem.body).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **problem.headers,
    }
    lines = [f"HTTP/1.1 {problem.status} {http.HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

"""Error responses that are sent without the Flask application: as complete HTTP responses."""

from __future__ import annotations

import contextlib
import http
import json
import socket
from collections.abc import Iterable

from gunicorn.http.errors import ExpectationFailed as GunicornExpectationFailed
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException

from app.errors import ErrorForm, ExpectationFailed, HeadTooLarge, InvalidRequest, ProxyError, UriTooLong, error_form

# All other parse errors are a 400, including an unsupported transfer coding, which makes the framing ambiguous.
_OTHER_THAN_400: dict[type, type[ProxyError]] = {
    LimitRequestLine: UriTooLong,
    GunicornExpectationFailed: ExpectationFailed,
    LimitRequestHeaders: HeadTooLarge,
}
MESSAGE_CHARACTERS = 200
MAX_TARGET = 100  # bytes of a request line that show its API


def request_error(error: BaseException | None) -> ProxyError:
    """The error for a request whose head or body could not be read."""
    if isinstance(error, NoMoreData):
        return InvalidRequest("the request body ended before its announced length")
    if isinstance(error, ParseException) or _is_bad_chunk(error):
        return _OTHER_THAN_400.get(type(error), InvalidRequest)(str(error)[:MESSAGE_CHARACTERS])
    return application_error(error)


def _is_bad_chunk(error: BaseException | None) -> bool:
    """Before 27.0, gunicorn's chunk errors were OSErrors; unlike errors of the socket, they have no errno."""
    return isinstance(error, OSError) and error.errno is None


def application_error(error: BaseException | None) -> ProxyError:
    """The error for a request whose application failed."""
    return error if isinstance(error, ProxyError) else ProxyError("internal error; see the service's log")


def response_bytes(
    problem: ProxyError, form: ErrorForm = ErrorForm.OPENAI, more_headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The complete HTTP response; the connection closes after it."""
    body = json.dumps(form.body(problem)).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **problem.headers,
        **dict(more_headers),
    }
    lines = [f"HTTP/1.1 {problem.status} {http.HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def form_for(received: bytes | bytearray) -> ErrorForm:
    """The form of an error for a request of which so much has been received."""
    return error_form(beginning_of_target(received))


def beginning_of_target(received: bytes | bytearray) -> str:
    """The path and what follows it, as far as MAX_TARGET; "" before it has been received."""
    return received[:MAX_TARGET].partition(b" ")[2].decode("latin-1")


def send_error(
    sock: socket.socket, problem: ProxyError, form: ErrorForm, more_headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Send the complete response without blocking, as far as possible."""
    # A few hundred bytes fit in an empty send buffer; it is full only if the client does not read.
    with contextlib.suppress(OSError):
        sock.send(response_bytes(problem, form, more_headers), socket.MSG_DONTWAIT)

"""Gives the application the client's socket, to send the bytes of an answer itself, bypassing gunicorn's framing.

This relies on the state that gunicorn's Response keeps, so it is limited to tested releases of gunicorn. With others,
`direct_answer` returns None, and the answer is sent as that of any WSGI application.
"""

from __future__ import annotations

import socket
from typing import Any

import gunicorn
from gunicorn.http.wsgi import Response

from workers.gunicorn_worker.compatibility import TESTED


class DirectAnswer:
    """One answer whose status and headers gunicorn's Response has, and whose bytes the application sends."""

    def __init__(self, sock: socket.socket, response: Response) -> None:
        self.socket = sock
        self._response = response

    def takes(self, length: int | None) -> bool:
        """Whether the head announces, or has announced, a body of this length (None: chunked). A chunked one may have
        begun with progress messages while the model was loading."""
        response = self._response
        if response.status is None or has_no_body(response) or (response.headers_sent and not response.chunked):
            return False
        return bool(response.chunked) if length is None else response.response_length == length

    def head(self) -> bytes:
        """The head of the answer, for the caller to send now; empty if it was sent before."""
        response = self._response
        if response.headers_sent:
            return b""
        response.headers_sent = True
        lines = [*response.default_headers(), *(f"{name}: {value}\r\n" for name, value in response.headers), "\r\n"]
        return "".join(lines).encode("latin-1")

    def mark_sent(self) -> None:
        """Record that the whole body was sent: gunicorn adds nothing, and the connection may be kept."""
        response = self._response
        if response.chunked:
            response.chunked, response.response_length = False, 0
        response.sent = response.response_length


def has_no_body(response: Response) -> bool:
    """Whether the response never has a body, whatever its headers say (RFC 9110, 6.4.1)."""
    status = response.status_code
    return response.req.method == "HEAD" or status in (204, 304) or 100 <= status < 200


def direct_answer(environ: dict[str, Any], start_response: Any) -> DirectAnswer | None:
    """None if the server is not gunicorn, is an untested release of it, or uses TLS."""
    sock, response = environ.get("gunicorn.socket"), getattr(start_response, "__self__", None)
    if gunicorn.version_info[:2] not in TESTED or type(response) is not Response or type(sock) is not socket.socket:
        return None
    return DirectAnswer(sock, response)

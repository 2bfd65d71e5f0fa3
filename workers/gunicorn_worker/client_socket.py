"""The client's socket for an application that sends an answer's bytes itself, past gunicorn's own framing of them.

That means to know how gunicorn's Response keeps its books. So it is done with the releases of gunicorn that were
tested; with any other `direct_answer` gives None, and the answer goes the way of any WSGI application's.
"""

from __future__ import annotations

import socket
from typing import Any

import gunicorn
from gunicorn.http.wsgi import Response

from workers.gunicorn_worker.compatibility import TESTED


class DirectAnswer:
    """One answer whose status and headers are known to gunicorn, and whose bytes are ours to send."""

    def __init__(self, sock: socket.socket, response: Response) -> None:
        self.socket = sock
        self._response = response

    def takes(self, length: int | None) -> bool:
        """Whether the head announces, or did, a body of this length; None: of chunks. A chunked answer may have begun,
        with progress messages while its model was loaded."""
        response = self._response
        if response.status is None or has_no_body(response) or (response.headers_sent and not response.chunked):
            return False
        return bool(response.chunked) if length is None else response.response_length == length

    def head(self) -> bytes:
        """The head of the answer, which is to be sent now; nothing if it was."""
        response = self._response
        if response.headers_sent:
            return b""
        response.headers_sent = True
        lines = [*response.default_headers(), *(f"{name}: {value}\r\n" for name, value in response.headers), "\r\n"]
        return "".join(lines).encode("latin-1")

    def mark_sent(self) -> None:
        """The whole body was sent: gunicorn has nothing to add, and the connection may carry another request."""
        response = self._response
        if response.chunked:
            response.chunked, response.response_length = False, 0
        response.sent = response.response_length


def has_no_body(response: Response) -> bool:
    """Of a response that never has one, whatever its headers say (RFC 9110, 6.4.1)."""
    status = response.status_code
    return response.req.method == "HEAD" or status in (204, 304) or 100 <= status < 200


def direct_answer(environ: dict[str, Any], start_response: Any) -> DirectAnswer | None:
    """None where gunicorn is not what answers, is a release that was not tested, or encrypts what it sends."""
    sock, response = environ.get("gunicorn.socket"), getattr(start_response, "__self__", None)
    if gunicorn.version_info[:2] not in TESTED or type(response) is not Response or type(sock) is not socket.socket:
        return None
    return DirectAnswer(sock, response)

"""The client's socket for an application that sends an answer's bytes itself, past gunicorn's own framing of them.

That means to know how gunicorn's Response keeps its books. So it is done with the releases of gunicorn that were
tested; with any other `direct_answer` gives None, and the answer goes the way of any WSGI application's.
"""

from __future__ import annotations

import socket
from typing import Any

import gunicorn
from gunicorn.http.wsgi import Response

from app.errors import ProxyError
from workers.gunicorn_worker.compatibility import TESTED
from workers.gunicorn_worker.error_answers import response_bytes
from workers.relay.framing import LAST_CHUNK, Chunked, Counted, FramedBody, chunk


class DirectAnswer:
    """One answer whose status and headers are known to gunicorn, and whose bytes are ours to send."""

    def __init__(self, sock: socket.socket, response: Response) -> None:
        self.socket = sock
        self._response = response

    def takes(self, body: FramedBody) -> bool:
        """Whether the response announces, or did, just the framing that this body has. A chunked one may have begun,
        with progress messages while its model was loaded."""
        response = self._response
        if response.status is None or has_no_body(response) or (response.headers_sent and not response.chunked):
            return False
        if isinstance(body, Chunked):
            return bool(response.chunked)
        return isinstance(body, Counted) and response.response_length == body.left

    def head(self) -> bytes:
        """The head of the answer, which is to be sent now; nothing if it was."""
        response = self._response
        if response.headers_sent:
            return b""
        response.headers_sent = True
        lines = [*response.default_headers(), *(f"{name}: {value}\r\n" for name, value in response.headers), "\r\n"]
        return "".join(lines).encode("latin-1")

    def is_sent(self, size_bytes: int) -> None:
        """The whole body went out: gunicorn has nothing to add, and the connection may carry another request."""
        response = self._response
        response.sent = size_bytes
        if response.chunked:
            response.chunked, response.response_length = False, size_bytes

    def refuse(self, problem: ProxyError) -> bytes:
        """The whole answer in place of one that failed before any of it was sent, or the end of one that had begun;
        the connection closes after it."""
        response = self._response
        had_begun, response.headers_sent, response.chunked = response.headers_sent, True, False
        response.force_close()
        return chunk(problem.event) + LAST_CHUNK if had_begun else response_bytes(problem)


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

"""The client's socket for an application that sends an answer's bytes itself, past gunicorn's own framing of them.

Leans on gunicorn's Response (checked against 27.0.1), as the other gunicorn_* files do. Where anything is not as it was
there, `direct_answer` gives None, and the answer goes the way of any WSGI application's.
"""

from __future__ import annotations

import socket
from typing import Any

import gunicorn
from gunicorn.http.wsgi import Response

from app.errors import ProxyError
from workers.gunicorn_worker.error_answers import response_bytes
from workers.relay.framing import LAST_CHUNK, Chunked, Counted, FramedBody, chunk

LOOKED_INTO = (27, 0)


class DirectAnswer:
    """One answer whose status and headers are known to gunicorn, and whose bytes are ours to send."""

    def __init__(self, sock: socket.socket, response: Response) -> None:
        self.socket = sock
        self._response = response

    def takes(self, body: FramedBody) -> bool:
        """Whether the client was told, or will be, of just the framing that this body has. One in chunks may have
        begun: with what there was to say while its model was loaded."""
        r = self._response
        if r.status is None or r._omits_body or (r.headers_sent and not r.chunked):
            return False
        if isinstance(body, Chunked):
            return bool(r.chunked)
        return isinstance(body, Counted) and r.response_length == body.left

    def head(self) -> bytes:
        """The head of the answer, which is to be sent now; nothing if it was."""
        r = self._response
        if r.headers_sent:
            return b""
        r.headers_sent = True
        lines = [*r.default_headers(), *(f"{name}: {value}\r\n" for name, value in r.headers), "\r\n"]
        return "".join(lines).encode("latin-1")

    def is_sent(self, size_bytes: int) -> None:
        """The whole body went out: gunicorn has nothing to add, and the connection may carry another request."""
        r = self._response
        r.sent = size_bytes
        if r.chunked:
            r.chunked, r.response_length = False, size_bytes

    def refuse(self, problem: ProxyError) -> bytes:
        """The whole answer in place of one that failed before any of it was sent, or the end of one that had begun;
        the connection closes after it."""
        r = self._response
        had_begun, r.headers_sent, r.chunked = r.headers_sent, True, False
        r.force_close()
        return chunk(problem.event) + LAST_CHUNK if had_begun else response_bytes(problem)


def direct_answer(environ: dict[str, Any], start_response: Any) -> DirectAnswer | None:
    """None where gunicorn is not what answers, is a version that nobody looked into, or encrypts what it sends."""
    sock, response = environ.get("gunicorn.socket"), getattr(start_response, "__self__", None)
    if gunicorn.version_info[:2] != LOOKED_INTO or type(response) is not Response or type(sock) is not socket.socket:
        return None
    return DirectAnswer(sock, response)

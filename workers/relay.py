"""The data path: one request to its server, the answer back to the client, byte for byte."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import logging
import re
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

from app.errors import BadUpstream, ClientLeft, Draining, ProxyError, SpawnFailed, UpstreamCrashed, UpstreamTimeout
from workers.client_watch import ClientWatch
from workers.pool import Address

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024

# What a client may say to the engine. Its Authorization, cookies and hop-by-hop headers are none of these; nor is
# X-Conversation-Id, which makes llama-server (11434) go on generating for a client that has left.
REQUEST_HEADERS = ("Accept", "X-Request-Id", "Traceparent", "Tracestate")

# Whatever the client calls its JSON: llama-server takes a form, which is what curl -d says, only up to 1 MiB.
CONTENT_TYPE = "application/json"
MULTIPART = "multipart/form-data"  # this one is told as it is: its boundary is in it

# RFC 9110 7.6.1, and what we say ourselves.
NOT_FORWARDED = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "server", "date", "set-cookie", "set-cookie2", "location", "x-request-id"),
}
NOT_FORWARDED_PREFIXES = ("access-control-", "x-llama-smart-proxy-")  # the latter would make it look like ours
OUT_OF_SOMETHING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
NO_HTTP = (http.client.BadStatusLine, http.client.LineTooLong, http.client.UnknownProtocol)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 5.5; gunicorn refuses any other


@dataclass(frozen=True, slots=True)
class Answer:
    """An engine's answer whose headers are here and whose body is on its way."""

    status: int
    headers: list[tuple[str, str]]
    # Ends early with an error event (event streams) or ConnectionResetError (all others). Its return value says
    # whether it was whole.
    chunks: Generator[bytes, None, bool]
    is_stream: bool
    close: Callable[[], None]  # must be called whether or not `chunks` was ever begun


class Relay:
    """Sends requests to llama-servers. Holds no state but its time limits; `is_closing` tells a cut from a crash."""

    def __init__(self, first_byte_seconds: float, stall_seconds: float, is_closing: Callable[[], bool]) -> None:
        self._first_byte_seconds = first_byte_seconds
        self._stall_seconds = stall_seconds
        self._is_closing = is_closing

    def send(
        self, to: Address, method: str, target: str, headers: Mapping[str, str], body: bytes, client: ClientWatch
    ) -> Answer:
        """Forward a request and wait for the head of its answer.

        Raises UpstreamCrashed, BadUpstream or UpstreamTimeout when none comes, ClientLeft when nobody is there to
        read it: the connection to the engine is shut within milliseconds then, so that it stops generating.
        """
        connection = http.client.HTTPConnection("127.0.0.1", to.port, timeout=self._first_byte_seconds)
        try:
            connection.connect()
            upstream = connection.sock  # kept here: http.client lets go of it once it has read "Connection: close"
            client.on_leave(lambda: _shut(upstream))
            # An engine that refuses before it has read all of the body may have said so.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body=body or None, headers=_request_headers(headers, to.api_key))
            response = connection.getresponse()
            if response.msg.defects:  # what follows a header that cannot be read is not known to be the body
                raise http.client.UnknownProtocol(str(response.msg.defects[0]))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._translated(error, to, client) from error
        upstream.settimeout(self._stall_seconds)

        def close() -> None:
            client.on_leave(None)
            response.close()
            upstream.close()

        kind = response.getheader("Content-Type") or ""
        is_stream = kind.startswith("text/event-stream")
        chunks = self._chunks(response, to, client, is_stream)
        return Answer(response.status, _response_headers(response), chunks, is_stream, close)

    def _chunks(
        self, response: http.client.HTTPResponse, to: Address, client: ClientWatch, is_stream: bool
    ) -> Generator[bytes, None, bool]:
        """The body as it comes. First nothing at all: that lets the server send the headers before the first token."""
        piece = b""
        try:
            yield piece
            for piece in _body(response):
                yield piece
            return True
        except (OSError, http.client.HTTPException) as error:
            problem = self._translated(error, to, client)
            log.log(
                logging.INFO if client.gone else logging.WARNING,
                *("answer cut model=%s server=%d: %s", to.model, to.server, problem),
            )
            if client.gone or not is_stream:
                # Nothing can be said inside a body of its own format: the connection ends short of it.
                raise ConnectionResetError(errno.ECONNRESET, str(problem)) from error
            yield _error_event(problem, piece)
            return False

    def _translated(self, error: Exception, to: Address, client: ClientWatch) -> ProxyError:
        if client.gone:
            return ClientLeft("the client closed its connection")
        if self._is_closing():
            return Draining("the service is shutting down and the answer was cut")
        if isinstance(error, TimeoutError):
            return UpstreamTimeout(f"{to.model}: llama-server did not answer in time")
        if isinstance(error, OSError) and error.errno in OUT_OF_SOMETHING:
            return SpawnFailed(f"{to.model}: no connection to llama-server can be made: {error.strerror}")
        garbage = type(error) is http.client.HTTPException or isinstance(error, NO_HTTP)
        if garbage and not isinstance(error, http.client.RemoteDisconnected):
            return BadUpstream(f"{to.model}: llama-server answered something that is not HTTP")
        return UpstreamCrashed(
            f"{to.model}: llama-server ended while it was answering; the next request starts it again"
        )


def _request_headers(headers: Mapping[str, str], api_key: str) -> dict[str, str]:
    kept = {name: headers[name] for name in REQUEST_HEADERS if headers.get(name)}
    told = headers.get("Content-Type", "")
    kind = told if told.lower().startswith(MULTIPART) else CONTENT_TYPE
    # One connection for each request, so far: the engine need not keep it.
    return kept | {"Content-Type": kind, "Authorization": f"Bearer {api_key}", "Connection": "close"}


def _response_headers(response: http.client.HTTPResponse) -> list[tuple[str, str]]:
    named = {name.strip().lower() for name in (response.getheader("Connection") or "").split(",")}
    dropped = NOT_FORWARDED | named
    return [
        (name, value)
        for name, value in response.getheaders()
        if name.lower() not in dropped
        and not name.lower().startswith(NOT_FORWARDED_PREFIXES)
        and _HEADER_VALUE.fullmatch(value)
    ]


def _body(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Pieces as soon as they are there. Raises IncompleteRead when the engine ends before its answer does."""
    if response.chunked or response.length is None:
        yield from iter(lambda: response.read1(CHUNK_BYTES), b"")
        return
    left = response.length  # kept here: before Python 3.12 read1 does not count, and would wait for more
    while left:
        piece = response.read1(min(left, CHUNK_BYTES))
        if not piece:
            raise http.client.IncompleteRead(b"", left)
        left -= len(piece)
        yield piece


def _error_event(problem: ProxyError, sent_before: bytes) -> bytes:
    """The only way to report a failure after a 200: SDKs raise on it. No [DONE] follows.

    A half-sent event is ended first, or the error would be a part of it.
    """
    is_whole = not sent_before or sent_before.endswith((b"\n\n", b"\r\n\r\n"))
    return (b"" if is_whole else b"\n\n") + b"data: " + json.dumps(problem.body).encode() + b"\n\n"


def _shut(upstream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        upstream.shutdown(socket.SHUT_RDWR)

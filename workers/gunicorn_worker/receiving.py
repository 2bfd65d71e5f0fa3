"""Receives requests: heads without a thread, bodies with a minimum pace.

The main loop collects the head in a ClientConnection. The request thread that serves it reads the body through a
PacedUnreader, which returns the bytes received with the head first.
"""

from __future__ import annotations

import contextlib
import enum
import io
import math
import re
import select
import socket
import struct
import time
from typing import Any

from gunicorn.http import Request
from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import Unreader

from app.errors import HeadTooLarge, InvalidRequest, RequestTimeout
from workers.gunicorn_worker.client_address import address_of

RECEIVE_BYTES = 64 * 1024
MAX_RECEIVE_BYTES = 1024 * 1024  # per call, for bodies known to be that long
MAX_HEAD_BYTES = 64 * 1024  # in addition to gunicorn's limits on the request line and fields
MAX_DISCARDED_BYTES = 16 * 1024 * 1024  # of a client that sends on after the answer
MIN_BODY_BYTES_PER_SECOND = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TLS_HANDSHAKE = b"\x16\x03"  # RFC 8446, 5.1
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"  # RFC 9113, 3.4
_OTHER_PROTOCOLS = (_TLS_HANDSHAKE, _HTTP2_PREFACE)
_HEAD_END = re.compile(rb"\r\n\r\n|(?<!\r)\n")


class Phase(enum.Enum):
    """The state of a connection: what it is waiting for."""

    HEAD = enum.auto()  # the rest of a request's head
    UNREAD = enum.auto()  # the client's reading of earlier answers, before its next request is served
    SERVED = enum.auto()  # the request thread that answers; only it may touch the connection
    IDLE = enum.auto()  # the next request
    LINGERING = enum.auto()  # the client's close, after our last byte


class Head(enum.Enum):
    PARTIAL = enum.auto()
    COMPLETE = enum.auto()
    CLOSED = enum.auto()  # the client closed its side before the end of the head


class ClientConnection:
    """One client's socket and the bytes of its next request.

    Written only by the main loop, or while `phase` is SERVED, only by its request thread. The socket is in
    blocking mode for the request thread; the main loop uses MSG_DONTWAIT.
    """

    def __init__(self, sock: socket.socket, client: Any, server: Any) -> None:
        self.sock = sock
        self.client = client  # the addresses of both ends
        self.server = server
        self.phase = Phase.HEAD
        self.address = address_of(client)
        self.since = time.monotonic()  # when the phase began
        self.deadline = math.inf  # monotonic time at which the phase ends
        self.received = bytearray()  # received bytes that no request has consumed
        self.is_watched = False  # registered in the loop's epoll set
        self._searched = 0  # bytes of `received` already searched for the end of the head
        self._discarded_bytes = 0

    def read_head(self) -> Head:
        """Look for the end of the head, reading once from the socket if necessary. Never blocks.

        Raises InvalidRequest or HeadTooLarge as soon as no further byte can make the head valid.
        """
        # Bytes received with the last request may suffice: reading each time would buffer all that a client can send.
        if self._head_is_complete():
            return Head.COMPLETE
        data = receive(self.sock)
        self.received += data or b""
        if self._head_is_complete():
            return Head.COMPLETE
        if len(self.received) > MAX_HEAD_BYTES:
            raise HeadTooLarge(f"headers exceed {MAX_HEAD_BYTES} bytes")
        return Head.CLOSED if data == b"" else Head.PARTIAL

    def _head_is_complete(self) -> bool:
        if self.received.startswith(_OTHER_PROTOCOLS):
            raise InvalidRequest(_not_http1(self.received))
        # RFC 9112, 2.2: one empty line may come before a request.
        if self.received.startswith(b"\r\n\r\n"):
            raise InvalidRequest("missing request line")
        end = _HEAD_END.search(self.received, max(0, self._searched - 3))
        self._searched = len(self.received)
        if end is not None and end[0] == b"\n":
            raise InvalidRequest("a header line ends without a carriage return")
        return end is not None

    def take_received(self) -> bytes:
        """Remove and return the complete head and the bytes after it, for the parser."""
        received = bytes(self.received)
        self.received.clear()
        self._searched = 0
        return received.removeprefix(b"\r\n")

    def accepts_answer(self) -> bool:
        """Whether a small answer can be sent without waiting for the client, or the connection is broken."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        return bool(poll.poll(0))

    def discard(self) -> bool:
        """Discard bytes received after our answer; whether to wait for more."""
        data = receive(self.sock)
        self._discarded_bytes += len(data or b"")
        return data != b"" and self._discarded_bytes <= MAX_DISCARDED_BYTES

    def reset_on_close(self) -> None:
        """Make the close a reset: only so can an HTTP/1.0 client tell that an answer was cut off."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _not_http1(received: bytearray) -> str:
    if received.startswith(_TLS_HANDSHAKE):
        return "TLS on a port that speaks plain HTTP; use http://, or a proxy in front that ends TLS"
    return "HTTP/2 without negotiation; this service speaks HTTP/1.1"


def receive(sock: socket.socket) -> bytes | None:
    """Received bytes; None if there are none yet, b"" once the client has closed or reset the connection."""
    try:
        return sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class PacedUnreader(Unreader):
    """The source from which gunicorn's parser reads one request. Used by one request thread."""

    buf: io.BytesIO  # gunicorn's buffer of unread bytes

    def __init__(self, connection: ClientConnection, receive_timeout_seconds: float) -> None:
        super().__init__()
        self._sock = connection.sock
        self._receive_timeout_seconds = receive_timeout_seconds
        self._received_bytes = len(connection.received)
        self._waited_seconds = 0.0
        self.unread(connection.take_received())

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes from the client; waits at most as long as its pace allows. Raises RequestTimeout."""
        size = min(max(size_hint or 0, RECEIVE_BYTES), MAX_RECEIVE_BYTES)
        try:
            data = self._sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._wait()
            data = self._sock.recv(size)
        self._received_bytes += len(data)
        return data

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """The next `size` bytes, fewer at the end of the connection; without one, the next bytes there are.

        gunicorn copies what it has read ahead at every call, under Python's lock: five times the bytes of a body.
        """
        if not size or size < 0:
            data: bytes = super().read(size, read_ahead)
            return data
        pieces = [self.take_rest()]
        missing = size - len(pieces[0])
        while missing > 0 and (piece := self.chunk(missing)):
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        if missing < 0:
            self.unread(data[size:])
        return data[:size]

    def _wait(self) -> None:
        # Only time spent waiting for the client counts, not that of an application that reads late.
        earned = max(self._receive_timeout_seconds, self._received_bytes / MIN_BODY_BYTES_PER_SECOND)
        allowed_seconds = min(self._receive_timeout_seconds, earned - self._waited_seconds)
        began = time.monotonic()
        if allowed_seconds <= 0 or not _is_readable(self._sock, allowed_seconds):
            raise RequestTimeout("the request body was not received in time")
        self._waited_seconds += time.monotonic() - began

    @property
    def buffered_bytes(self) -> int:
        return self.buf.getbuffer().nbytes

    def take_rest(self) -> bytes:
        """Remove and return the bytes that the client sent after this request."""
        rest, self.buf = self.buf.getvalue(), io.BytesIO()
        return rest


def _is_readable(sock: socket.socket, timeout_seconds: float) -> bool:
    # poll instead of settimeout: the response needs the socket in blocking mode.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout_seconds * 1000))


class BodyFailed(BaseException):
    """The body cannot be read to its end; `__cause__` says why.

    Not an Exception, because the application reads the body: Flask would turn an Exception into a 500 and an OSError
    into a 400. This passes every `except Exception`, and RequestHandler answers with the actual error.
    """


class BodyReader:
    """Wraps gunicorn's body reader: every failure, including a body that ends early, becomes a BodyFailed.

    `100 Continue` is sent when the body is first read: gunicorn would send it immediately, even if the request is then
    rejected because of its head.
    """

    def __init__(self, request: Request, unreader: PacedUnreader, sock: socket.socket) -> None:
        self.failure: BodyFailed | None = None
        self._inner = request.body.reader
        self._unreader = unreader
        self._continue_on = sock if _expects_continue(request) else None
        self._due_bytes = _body_bytes(request)  # bytes not read yet; None if chunked
        self._is_over = False  # of a chunked body: the last chunk was read

    def read(self, size: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        try:
            if self._continue_on is not None:
                self._continue_on.send(CONTINUE)
                self._continue_on = None
            return self._read(size)
        except Exception as error:
            self.failure = BodyFailed()
            raise self.failure from error

    def _read(self, size: int) -> bytes:
        data: bytes = self._inner.read(size)
        if self._due_bytes is None:
            self._is_over = len(data) < size
        elif len(data) < min(size, self._due_bytes):
            raise NoMoreData(data)  # gunicorn would pass a truncated body to the application as if it were complete
        else:
            self._due_bytes -= len(data)
        return data

    @property
    def is_received(self) -> bool:
        """Whether its end was received. Of a chunked body, whether that was read."""
        return self._is_over if self._due_bytes is None else self._due_bytes <= self._unreader.buffered_bytes

    def discard(self) -> bool:
        """Skip the rest if all of it has been received; whether the next request can be read. Never blocks."""
        self._continue_on = None
        if not self.is_received:
            return False
        try:
            while self.read(RECEIVE_BYTES):
                pass
        except BodyFailed:
            return False
        return True


def _expects_continue(request: Request) -> bool:
    return request.version >= (1, 1) and any(name == "EXPECT" for name, _ in request.headers)


def _body_bytes(request: Request) -> int | None:
    """The announced length of the body; None if chunked. The parser has validated both headers."""
    headers = dict(request.headers)
    return None if "TRANSFER-ENCODING" in headers else int(headers.get("CONTENT-LENGTH", 0))

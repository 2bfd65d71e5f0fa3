"""Reads requests on the thread that serves them: bodies with a minimum pace, and every failure as what it is.

A PacedUnreader returns the bytes that the main loop received with the head first.
"""

from __future__ import annotations

import io
import select
import socket
import time

from gunicorn.http import Request
from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import Unreader

from app.errors import RequestTimeout
from workers.gunicorn_worker.receiving import RECEIVE_BYTES, ClientConnection

MAX_RECEIVE_BYTES = 1024 * 1024  # per call, for bodies known to be that long
MIN_BODY_BYTES_PER_SECOND = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


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
        if size == 0:
            return b""
        if size is None or size < 0:
            return self.take_rest() or self.chunk(read_ahead)
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

"""How a request's bytes come in: the head without a thread, the body at a bounded pace.

Leans on gunicorn's insides (checked against 27.0.1), as gunicorn_worker.py does.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.http import errors as http_errors
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from app.errors import RequestTimeout
from app.services import DIRECT, END
from workers.gunicorn_worker.client_socket import direct_answer

RECEIVE_BYTES = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
MIN_BODY_BYTES_PER_SECOND = 64 * 1024

_BARE_LF = re.compile(rb"(?<!\r)\n")


class BodyFailed(BaseException):
    """The body cannot be read to its end; the cause says why.

    Not an Exception: the application reads the body, and Flask would turn an Exception into a 500 and an OSError
    into a 400. This passes through every `except Exception`, and `handle` answers with what really happened.
    """

    answerable = False  # True while no byte of a response can have been sent


class PacedUnreader(SocketUnreader):
    """Collects a head without blocking (main loop), then reads the body at a bounded pace (pool thread)."""

    def __init__(self, sock: socket.socket, receive_timeout_seconds: float) -> None:
        super().__init__(sock, max_chunk=RECEIVE_BYTES)
        self._patience = receive_timeout_seconds
        self.head = bytearray()  # written by the main loop alone
        self._searched = 0
        self._received = 0
        self._waited = 0.0

    def receive(self) -> bool:
        """Add what has arrived to the head; False once the client has closed its side."""
        data = take(self.sock)
        self.head += data or b""
        return data != b""

    def head_is_decided(self) -> bool:
        """Whether the parser can now accept or refuse the head without reading more."""
        start = max(0, self._searched - 3)
        self._searched = len(self.head)
        # The parser refuses a bare LF on sight; without this a typist with netcat would wait for the time-out.
        return self.head.find(b"\r\n\r\n", start) >= 0 or _BARE_LF.search(self.head, start) is not None

    def begin_request(self) -> None:
        """Hand the collected bytes to the parser and start the body's clock."""
        self._searched, self._received, self._waited = 0, len(self.head), 0.0
        self.unread(bytes(self.head))
        self.head.clear()

    def reclaim(self) -> bool:
        """Take back what the client sent beyond its last request; False if there is nothing."""
        self.head += self.take_buffered()
        return bool(self.head)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes from the client, waited for at most as long as its pace allows. Raises RequestTimeout."""
        size = min(max(size_hint or 0, self.mxchunk), self.max_body_chunk)
        try:
            data = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._wait()
            data = self.sock.recv(size)
        self._received += len(data)
        return data

    def _wait(self) -> None:
        # Only time spent waiting for the client counts, so an application that reads late blames nobody.
        earned = max(self._patience, self._received / MIN_BODY_BYTES_PER_SECOND)
        allowed_seconds = min(self._patience, earned - self._waited)
        began = time.monotonic()
        if allowed_seconds <= 0 or not _readable(self.sock, allowed_seconds):
            raise RequestTimeout("the request body was not received in time")
        self._waited += time.monotonic() - began


def take(sock: socket.socket) -> bytes | None:
    """What has arrived: None if nothing yet, b"" once the client has closed or reset the connection."""
    try:
        return sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _readable(sock: socket.socket, timeout_seconds: float) -> bool:
    # poll, not settimeout: the socket stays in blocking mode, which the response needs.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout_seconds * 1000))


class BodyReader:
    """gunicorn's reader of one body, with every failure made a BodyFailed and a short body a failure.

    A client that asks first (`Expect: 100-continue`) is told to go on when its body is first wanted: gunicorn would
    tell it so in any case, also where it is refused by what its head says.
    """

    def __init__(self, reader: Any, asks_first: socket.socket | None = None) -> None:
        self.inner = reader
        self.asks_first = asks_first  # its socket; None where it does not, or once an answer was made
        self.failure: BodyFailed | None = None

    def read(self, size: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        try:
            if self.asks_first is not None:
                self.asks_first.send(CONTINUE)
                self.asks_first = None
            return self._read(size)
        except Exception as error:
            self.failure = BodyFailed()
            raise self.failure from error

    def _read(self, size: int) -> bytes:
        due = min(self.inner.length, size) if isinstance(self.inner, LengthReader) else 0
        data = self.inner.read(size)
        # gunicorn hands a cut-off body to the application as if it were whole.
        if len(data) < due:
            raise http_errors.NoMoreData(data)
        return data


class RequestOfAnybody(Request):
    """No client is a proxy whose headers say who asks, or how: that is known without comparing addresses."""

    def _peer_is_trusted_proxy(self) -> bool:
        return False


class Parser(RequestParser):
    """gunicorn's, without its care for the rest of a body and for how the last request ended: `is_taken` knows."""

    mesg_class = RequestOfAnybody

    def __init__(self, cfg: Any, unreader: PacedUnreader, client: Any) -> None:
        super().__init__(cfg, unreader.sock, client)
        self.unreader = unreader

    def __next__(self) -> Any:
        self.req_count += 1
        self.mesg = self.mesg_class(self.cfg, self.unreader, self.source_addr, self.req_count)
        if any(name == "TRANSFER-ENCODING" and value.lower() != "chunked" for name, value in self.mesg.headers):
            raise http_errors.UnsupportedTransferCoding("it is `chunked` alone that is read here")
        options = (value.lower() for name, value in self.mesg.headers if name == "CONNECTION")
        if "close" in {each.strip(" \t") for value in options for each in value.split(",")}:
            self.mesg.force_close()  # gunicorn sees it alone in the first such header
        return self.mesg


class Connection(TConn):
    """A client's connection; its socket stays blocking, the main loop asks with MSG_DONTWAIT.

    `timeout` is the monotonic time at which the phase it is in ends: head, idle or lingering.
    """

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, receive_timeout_seconds: float) -> None:
        super().__init__(cfg, sock, client, server)
        sock.setblocking(True)
        self.unreader = PacedUnreader(sock, receive_timeout_seconds)
        self.parser = Parser(cfg, self.unreader, client)
        self.initialized = self.data_ready = True
        self.lingered_bytes = 0
        self.is_cut = False  # in mid-answer: a client must not take the end of the connection for the answer's
        self.was_kept = False  # KeptConnections knows it


def guarded(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The application, except that a failed body ends its call whatever it made of the failure, and that a request
    whose answer could not even begin (a header gunicorn refuses, say) still gives back what it holds."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reader = environ["wsgi.input"].reader
        environ[DIRECT] = direct_answer(environ, start_response)
        try:
            chunks = application(environ, start_response)
        except BaseException as error:
            environ.get(END, _nothing)(500)
            if isinstance(error, BodyFailed):
                error.answerable = True
            raise
        if reader.failure is None:
            return chunks
        getattr(chunks, "close", bool)()
        reader.failure.answerable = True
        raise reader.failure

    return call


def _nothing(status: int) -> None:
    pass


def is_taken(body: Any, unreader: PacedUnreader) -> bool:
    """Whether a request's body is here to its end, so that discarding the rest of it waits for nobody."""
    reader = body.reader
    inner = reader.inner if isinstance(reader, BodyReader) else reader
    if isinstance(inner, LengthReader):
        return bool(inner.length <= unreader.buf.getbuffer().nbytes)
    return getattr(inner, "parser", True) is None  # chunked: gone once the last chunk is read

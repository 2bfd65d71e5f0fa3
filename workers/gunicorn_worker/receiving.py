"""ClientConnection: one client's socket, and its next request's head, which the main loop collects without a thread."""

from __future__ import annotations

import contextlib
import enum
import math
import re
import select
import socket
import struct
import time
from typing import Any

from app.entities.client_address import network_of
from app.errors import HeadTooLarge, InvalidRequest

RECEIVE_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024  # in addition to gunicorn's limits on the request line and fields
MAX_DISCARDED_BYTES = 16 * 1024 * 1024  # of a client that sends on after the answer

_TLS_HANDSHAKE = b"\x16\x03"  # RFC 8446, 5.1
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"  # RFC 9113, 3.4
_OTHER_PROTOCOLS = (_TLS_HANDSHAKE, _HTTP2_PREFACE)
_HEAD_END = re.compile(rb"\r\n\r\n|(?<!\r)\n")


class Phase(enum.Enum):
    """The state of a connection: what it is waiting for."""

    HEAD = enum.auto()  # the rest of a request's head
    UNREAD = enum.auto()  # the client's reading of earlier answers, before its next request is served
    QUEUED = enum.auto()  # a request thread, while all are busy
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
        self.address = network_of(client[0]) if isinstance(client, tuple) else ""  # none for a Unix socket
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

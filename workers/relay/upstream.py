"""HTTP/1.1 to a llama-server on this machine: connections that are kept, requests, and the heads of answers.

Small and strict: one peer, which we have started ourselves. What it sends that is not HTTP/1.1 as RFC 9112 has it is
BadAnswer, never a guess.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from workers.relay.framing import BadFraming, Chunked, Counted, FramedBody, UntilClosed

RECEIVE_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024
KEPT_SECONDS = 3.0  # llama-server closes a connection that was idle for 5 s
MOST_KEPT = 64  # for each server
CONNECT_SECONDS = 10.0  # to a listening socket of this machine
MOMENT_SECONDS = 0.004  # small answers of small models take no longer
SEND_SECONDS = 300  # a server that is there reads its requests
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_BARE_LF = re.compile(rb"(?<!\r)\n")


class BadAnswer(Exception):
    """The server sent something that is not HTTP/1.1."""


class NoAnswer(ConnectionError):
    """The server closed the connection before it had sent the head of an answer."""


@dataclass(slots=True)
class Reply:
    """An answer whose head is here. `rest` is what came of its body with it."""

    status: int
    headers: list[tuple[str, str]]
    body: FramedBody
    rest: bytes
    connection: UpstreamConnection
    is_kept: bool  # the connection may carry another request once the body is over

    def header(self, name: str) -> str:
        return next((value for each, value in self.headers if each.lower() == name), "")

    def is_small(self, most_bytes: int) -> bool:
        """Whether its body has a length that was announced, and of no more."""
        return isinstance(self.body, Counted) and self.body.left <= most_bytes

    def complete(self) -> None:
        """Wait for all of a body whose length was announced. Raises NoAnswer, BadFraming, TimeoutError."""
        assert isinstance(self.body, Counted)
        while len(self.rest) < self.body.left:
            piece = self.connection.receive()
            if not piece:
                raise NoAnswer("the connection was closed in mid-answer")
            self.rest += piece
        if len(self.rest) > self.body.left:
            raise BadFraming("more bytes than were announced")

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes, without its framing. Raises NoAnswer if it ends too early, BadFraming, TimeoutError."""
        data = self.rest
        while True:
            piece = self.body.payload(data) if data else b""
            if piece:
                yield piece
            if self.body.is_over:
                return
            data = self.connection.receive()
            if not data:
                if not self.body.closed():
                    raise NoAnswer("the connection was closed in mid-answer")
                return


@dataclass(slots=True)
class UpstreamConnection:
    """One connection to a server. Its socket waits by itself for a moment only; what takes longer is said, then waited
    for with poll: few calls where an answer is there at once, and each call is one more turn for the other threads."""

    socket: socket.socket
    port: int
    is_reused: bool = False
    idle_since: float = field(default=0.0)
    patience_seconds: float = 0.0
    on_silence: Callable[[], object] = bool  # called before a wait that is longer than a moment

    def send(self, data: bytes) -> None:
        """Raises TimeoutError, OSError."""
        try:
            self.socket.sendall(data)
        except BlockingIOError as error:
            raise TimeoutError("the server does not read its request") from error

    def receive(self) -> bytes:
        """What has come; empty at its end. Raises TimeoutError, OSError."""
        try:
            return self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self.on_silence()
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        if not poll.poll(1000 * self.patience_seconds):
            raise TimeoutError("the server sends nothing")
        return self.socket.recv(RECEIVE_BYTES)

    def shut(self) -> None:
        """Have whoever waits on it wake up: from any thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()


class UpstreamConnections:
    """Connections that wait for their next request, by port. Any thread."""

    def __init__(self) -> None:
        self._idle: dict[int, list[UpstreamConnection]] = defaultdict(list)  # the last used at the end
        self._look_at = 0.0  # when those that were idle for long are closed next; under the lock
        self._lock = threading.Lock()

    def take(self, port: int) -> UpstreamConnection:
        """One that is there and still good, else a new one. Raises OSError."""
        while (kept := self._pop(port)) is not None:
            if time.monotonic() - kept.idle_since < KEPT_SECONDS and not _has_something(kept.socket):
                kept.is_reused = True
                return kept
            kept.close()
        return self.new(port)

    def new(self, port: int) -> UpstreamConnection:
        made = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
        made.setblocking(True)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, round(MOMENT_SECONDS * 1e6)))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))
        return UpstreamConnection(made, port)

    def give_back(self, connection: UpstreamConnection) -> None:
        """For the next request: its answer is over, and nothing came after it."""
        connection.idle_since = now = time.monotonic()
        connection.on_silence = bool
        with self._lock:
            idle = self._idle[connection.port]
            idle.append(connection)
            old = idle[:-MOST_KEPT]
            del idle[: len(old)]
            if now >= self._look_at:
                self._look_at = now + KEPT_SECONDS
                old += self._idle_for_long(now)
        for each in old:
            each.close()

    def forget(self, port: int) -> None:
        """Nobody listens there any more: the server's end alone would leave our ends open."""
        with self._lock:
            idle = self._idle.pop(port, [])
        for each in idle:
            each.close()

    def _idle_for_long(self, now: float) -> list[UpstreamConnection]:
        """Taken out, whichever server they lead to."""
        old = []
        for port, idle in list(self._idle.items()):
            count = sum(each.idle_since < now - KEPT_SECONDS for each in idle)
            old += idle[:count]
            del idle[:count]
            if not idle:
                del self._idle[port]
        return old

    def close(self) -> None:
        """Those that wait."""
        with self._lock:
            idle = [each for kept in self._idle.values() for each in kept]
            self._idle.clear()
        for each in idle:
            each.close()

    def _pop(self, port: int) -> UpstreamConnection | None:
        with self._lock:
            idle = self._idle.get(port)
            return idle.pop() if idle else None


def request_bytes(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request. Nothing in `headers` may hold a line end: they are checked, whoever made them."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a line end in the head of a request")
    return head.encode("latin-1") + b"\r\n\r\n" + body


def read_reply(connection: UpstreamConnection, method: str) -> Reply:
    """The head of the answer to a request of this method; answers that are merely informational are read over.

    Raises NoAnswer, BadAnswer, OSError (TimeoutError among them).
    """
    data, read_over_bytes = b"", 0
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            data += _more(connection, data)
            continue
        version, status, headers = _parsed(data[:end])
        data = data[end + 4 :]
        if status >= 200:
            break
        if status == 101:
            raise BadAnswer("it switches protocols, unasked")
        read_over_bytes += end
        if read_over_bytes > MAX_HEAD_BYTES:
            raise BadAnswer("its answer never begins")
    body, has_end = _body(method, version, status, headers)
    said = connection_options(headers)
    is_kept = has_end and "close" not in said and (version == 1 or "keep-alive" in said)
    rest = b"" if body.is_over and not has_end else data
    return Reply(status, headers, body, rest, connection, is_kept)


def connection_options(headers: Iterable[tuple[str, str]]) -> set[str]:
    """What all Connection headers name, in lower case: options, and headers that end here (RFC 9110, 7.6.1)."""
    return {
        option.strip(" \t").lower()
        for name, value in headers
        if name.lower() == "connection"
        for option in value.split(",")
    }


def _more(connection: UpstreamConnection, data: bytes) -> bytes:
    """More of a head of which this is here."""
    if len(data) > MAX_HEAD_BYTES:
        raise BadAnswer("the head of its answer is too long")
    if _BARE_LF.search(data):  # it will never end
        raise BadAnswer("a line of its answer's head ends without a carriage return")
    piece = connection.receive()
    if not piece:
        raise BadAnswer("the head of its answer ends too early") if data else NoAnswer("it closed the connection")
    return piece


def _parsed(head: bytes) -> tuple[int, int, list[tuple[str, str]]]:
    """HTTP's minor version, the status, the headers."""
    first, *rest = head.split(b"\r\n")
    found = _STATUS.fullmatch(first)
    if not found:
        raise BadAnswer("its answer begins with no status line")
    headers = []
    for line in rest:
        field_ = _FIELD.fullmatch(line)
        if not field_:
            raise BadAnswer("a header of its answer cannot be read")
        headers.append((field_[1].decode(), field_[2].strip(b" \t").decode("latin-1")))
    return int(found[1]), int(found[2]), headers


def _body(method: str, version: int, status: int, headers: list[tuple[str, str]]) -> tuple[FramedBody, bool]:
    """The framing of the body (RFC 9112, 6.3), and whether it ends before the connection does."""
    codings = [value.lower() for name, value in headers if name.lower() == "transfer-encoding"]
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    if codings and (codings != ["chunked"] or lengths or version == 0):
        raise BadAnswer("the framing of its answer is ambiguous")
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadAnswer("the length of its answer cannot be read")
    if method == "HEAD" or status in (204, 304):
        # Some servers send a body all the same: it is nobody's, and must not be the next request's answer.
        return Counted(0), False
    if codings:
        return Chunked(), True
    return (Counted(int(lengths.pop())), True) if lengths else (UntilClosed(), False)


def _has_something(sock: socket.socket) -> bool:
    """Bytes, or an end, that nobody asked for: not to be used again."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True

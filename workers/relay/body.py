"""Bodies of HTTP/1.1 answers: decoded from the engine's framing, and framed again for the client.

A body arrives in chunks, with an announced length, or until the connection ends (RFC 9112, 6 and 7). It is written to a
sink: the client's own socket, or WSGI's `write`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from app.ports import ClientSocket

MAX_LINE_BYTES = 4096  # of a chunk's size and extensions, or of a trailer
MAX_TRAILER_BYTES = 16 * 1024
LAST_CHUNK = b"0\r\n\r\n"
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class BadFraming(Exception):
    """The bytes do not match the announced framing."""


class SendFailed(ConnectionError):
    """The client disconnected, or read nothing for too long."""


# --- from the engine -----------------------------------------------------------------------------------


class FramedBody(Protocol):
    """Decodes one body. `is_over`: it is complete; bytes that follow do not belong to it."""

    is_over: bool

    def payload(self, data: bytes) -> bytes:
        """The bytes of the body in the next bytes from the connection. Raises BadFraming."""

    def ends_with_connection(self) -> bool:
        """The connection was closed: whether the body is complete."""


class Counted:
    """A body of a length that was announced."""

    def __init__(self, length: int) -> None:
        self.length = self.missing_bytes = length
        self.is_over = length == 0

    def payload(self, data: bytes) -> bytes:
        if len(data) > self.missing_bytes:
            raise BadFraming("more bytes than were announced")
        self.missing_bytes -= len(data)
        self.is_over = self.missing_bytes == 0
        return data

    def ends_with_connection(self) -> bool:
        return self.is_over


class UntilClosed:
    """A body that ends with the connection."""

    is_over = False

    def payload(self, data: bytes) -> bytes:
        return data

    def ends_with_connection(self) -> bool:
        self.is_over = True
        return True


class Chunked:
    """A body in chunks. Extensions and trailers are skipped."""

    def __init__(self) -> None:
        self.is_over = False
        self._missing_bytes = 0  # of the current chunk, its line end included
        self._line = b""  # a line whose end has not arrived
        self._is_in_trailers = False
        self._trailer_bytes = 0

    def is_one_chunk(self, data: bytes) -> bool:
        """Whether the next bytes are exactly one whole chunk, so that they can be forwarded as they are.

        An engine writes each event as one chunk, and most reads return just one: this is asked for every token.
        """
        if self._missing_bytes or self._line or self._is_in_trailers:
            return False
        end = data.find(b"\r\n", 0, 20)
        size = len(data) - end - 4
        return end > 0 and size > 0 and data.startswith(b"%x\r\n" % size) and data.endswith(b"\r\n")

    def payload(self, data: bytes) -> bytes:
        if self.is_one_chunk(data):
            return data[data.find(b"\n") + 1 : -2]
        pieces: list[bytes] = []
        at = 0
        while at < len(data):
            if self.is_over:
                raise BadFraming("bytes after the last chunk")
            at = self._take_content(data, at, pieces) if self._missing_bytes else self._take_line(data, at)
        return b"".join(pieces)

    def ends_with_connection(self) -> bool:
        return self.is_over

    def _take_content(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        if self._missing_bytes > 2:
            piece = data[at : at + self._missing_bytes - 2]
            pieces.append(piece)
        else:
            piece = data[at : at + self._missing_bytes]
            if piece != b"\r\n"[2 - self._missing_bytes :][: len(piece)]:
                raise BadFraming("a chunk is longer than its size")
        self._missing_bytes -= len(piece)
        return at + len(piece)

    def _take_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        self._line += data[at:] if end < 0 else data[at : end + 1]
        if len(self._line) > MAX_LINE_BYTES:
            raise BadFraming("a line of the framing is too long")
        if end < 0:
            return len(data)
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n"):
            raise BadFraming("a line of the framing ends without a carriage return")
        if self._is_in_trailers:
            self._take_trailer(line)
        else:
            self._take_size(line[:-2])
        return end + 1

    def _take_size(self, line: bytes) -> None:
        digits = line.split(b";", 1)[0].rstrip(b" \t")
        if not _SIZE.fullmatch(digits):
            raise BadFraming("the size of a chunk is not a number")
        size = int(digits, 16)
        self._missing_bytes = size + 2 if size else 0
        self._is_in_trailers = not size

    def _take_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise BadFraming("the trailers are too long")
        self.is_over = line == b"\r\n"


# --- to the client -------------------------------------------------------------------------------------


class Sink(Protocol):
    """Where the payload of one body is written."""

    def write(self, payload: bytes, is_last: bool) -> None:
        """Send a piece of the body. The first one sends the head of the answer too, and may be empty. Raises
        SendFailed."""

    def end_with(self, event: bytes) -> None:
        """End an incomplete body with these bytes. Raises SendFailed."""

    def finish(self) -> None:
        """The whole body was sent."""


class WsgiSink:
    """WSGI's `write` (PEP 3333): the server behind it frames what it is given."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, payload: bytes, is_last: bool) -> None:
        try:
            self._write(payload)
        except OSError as error:
            raise SendFailed(error.errno, "the client closed its connection") from error

    def end_with(self, event: bytes) -> None:
        self.write(event, is_last=True)

    def finish(self) -> None:
        pass


class SocketSink:
    """The client's own socket. Without `is_chunked` the head of the answer announces a length."""

    def __init__(self, client: ClientSocket, is_chunked: bool) -> None:
        self.client = client
        self.is_chunked = is_chunked

    def framed(self, payload: bytes, is_last: bool) -> bytes:
        """The payload as the client expects it."""
        if not self.is_chunked:
            return payload
        chunk = b"%x\r\n%s\r\n" % (len(payload), payload) if payload else b""
        return chunk + LAST_CHUNK if is_last else chunk

    def write(self, payload: bytes, is_last: bool) -> None:
        data = self.client.head() + self.framed(payload, is_last)
        try:
            self.client.socket.sendall(data)
        except OSError as error:
            raise SendFailed(error.errno, "the client closed its connection") from error

    def end_with(self, event: bytes) -> None:
        self.write(event, is_last=True)

    def finish(self) -> None:
        self.client.mark_sent()

"""How the body of an HTTP/1.1 answer is framed: chunked, counted, or ended by the connection (RFC 9112, 6 and 7).

Each kind takes the bytes as they come and gives back those that may go on, either in the very framing they came in
(`raw`, for a client that is told the same framing) or without it (`payload`). One body is asked for one of the two.
"""

from __future__ import annotations

import re
from typing import Protocol

MAX_LINE_BYTES = 4096  # of a chunk's size and extensions, or of a trailer
MAX_TRAILER_BYTES = 16 * 1024
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """The data as one chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class BadFraming(Exception):
    """What came is not the framing that was announced."""


class FramedBody(Protocol):
    """A body on its way. `is_over`: it has come to its end; nothing that follows belongs to it."""

    is_over: bool

    def raw(self, data: bytes) -> bytes:
        """What of it may go on as it is; the end that the framing itself may have is left out. Raises BadFraming."""

    def payload(self, data: bytes) -> bytes:
        """The same without its framing."""

    def closed(self) -> bool:
        """The connection has ended: whether the body is whole."""


class Counted:
    """A body of so many bytes."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.is_over = length == 0

    def raw(self, data: bytes) -> bytes:
        if len(data) > self.left:
            raise BadFraming("more bytes than were announced")
        self.left -= len(data)
        self.is_over = self.left == 0
        return data

    payload = raw

    def closed(self) -> bool:
        return self.is_over


class UntilClosed:
    """A body that ends with the connection."""

    is_over = False

    def raw(self, data: bytes) -> bytes:
        return data

    payload = raw

    def closed(self) -> bool:
        self.is_over = True
        return True


class Chunked:
    """A body in chunks. Extensions and trailers are read over and never passed on."""

    def __init__(self) -> None:
        self.is_over = False
        self.left = 0  # bytes of the present chunk that have not come, its line end included
        self._line = b""  # the beginning of a line whose end has not come
        self._is_in_trailers = False
        self._trailer_bytes = 0

    def raw(self, data: bytes) -> bytes:
        """Sizes written anew but where a read brings just one chunk; the last chunk is left out. Raises BadFraming."""
        # An engine writes each event as one chunk, and most reads bring one.
        if not self.left and not self._line and not self._is_in_trailers:
            end = data.find(b"\r\n", 0, 20)
            if end > 0 and data.endswith(b"\r\n") and _SIZE.fullmatch(data, 0, end):
                size = int(data[:end], 16)
                if size and len(data) == end + 4 + size:
                    return data
        left = self.left
        try:
            return b"".join(piece for piece, _ in self._pieces(data))
        except BadFraming:
            self.left = left  # nothing of this read goes on: that much of a chunk is owed to the client
            raise

    def payload(self, data: bytes) -> bytes:
        return b"".join(piece for piece, is_content in self._pieces(data) if is_content)

    def closed(self) -> bool:
        return self.is_over

    def _pieces(self, data: bytes) -> list[tuple[bytes, bool]]:
        """What goes on, and whether it is content; sizes are written anew."""
        pieces: list[tuple[bytes, bool]] = []
        at = 0
        while at < len(data):
            if self.is_over:
                raise BadFraming("bytes after the last chunk")
            take = self._take_content if self.left else self._take_line
            at = take(data, at, pieces)
        return pieces

    def _take_content(self, data: bytes, at: int, pieces: list[tuple[bytes, bool]]) -> int:
        if self.left > 2:
            piece = data[at : at + self.left - 2]
            pieces.append((piece, True))
        else:
            piece = data[at : at + self.left]
            if piece != b"\r\n"[2 - self.left :][: len(piece)]:
                raise BadFraming("a chunk is longer than its size")
            pieces.append((piece, False))
        self.left -= len(piece)
        return at + len(piece)

    def _take_line(self, data: bytes, at: int, pieces: list[tuple[bytes, bool]]) -> int:
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
            self._trailer(line)
        else:
            self._size(line[:-2], pieces)
        return end + 1

    def _size(self, line: bytes, pieces: list[tuple[bytes, bool]]) -> None:
        digits = line.split(b";", 1)[0].rstrip(b" \t")
        if not _SIZE.fullmatch(digits):
            raise BadFraming("a chunk's size is no number")
        if size := int(digits, 16):
            self.left = size + 2
            pieces.append((b"%x\r\n" % size, False))
        else:
            self._is_in_trailers = True

    def _trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise BadFraming("the trailers are too long")
        self.is_over = line == b"\r\n"

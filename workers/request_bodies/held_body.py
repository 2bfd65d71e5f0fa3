"""HeldBody: the body of one request, from its first byte until the engine has it."""

from __future__ import annotations

import hashlib
import os
from codecs import BOM_UTF8
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from app.errors import Overloaded, RequestTooLarge
from app.ports import BodyFile
from app.request_body.buffer import Buffer
from app.request_body.content import BodyContent, BodyFormat, read_content
from app.request_body.content_coding import decoded
from app.request_body.json_body import values_bound
from workers.request_bodies.budget import BodyBudget
from workers.request_bodies.reader import LargeBodyReader

PIECE_BYTES = 256 * 1024  # copying one takes some 0.1 ms, with Python's lock
# More values in a body that is no file are read elsewhere, too: this many hold the lock for 5 ms.
INLINE_VALUES = 20_000

T = TypeVar("T")


class RequestBodies:
    """Receives bodies, within the limits of one body and of all together."""

    def __init__(self, max_body_bytes: int, max_bodies_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self.budget = BodyBudget(max_bodies_bytes, max_body_bytes)
        self._reader = LargeBodyReader(max_body_bytes)

    def receive(
        self, read: Callable[[int], bytes], announced_bytes: int, client: str, codings: tuple[str, ...] = ()
    ) -> HeldBody:
        """The body, which `read` returns piece by piece; 0 announced: chunks, or none. Close it. `client`: an API key's
        name, or an address, whose share it takes. `codings`: of what `read` returns; the decoded body has the limits.

        Raises RequestTooLarge and Overloaded, if the length is announced before anything is read, and InvalidRequest
        for a body without these codings.
        """
        if codings:
            _check_size(announced_bytes, self._max_body_bytes)
            for coding in reversed(codings):
                read, announced_bytes = decoded(self._limited(read), coding), 0
        held = HeldBody(self.budget, client, self._reader, self._max_body_bytes)
        try:
            held.receive(read, announced_bytes)
        except BaseException:
            held.close()
            raise
        return held

    def _limited(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """Encoded bytes count too, those of each coding: they may decode to nothing for ever."""
        total = 0

        def read_counted(size: int) -> bytes:
            nonlocal total
            total += len(piece := read(size))
            _check_size(total, self._max_body_bytes)
            return piece

        return read_counted

    def close(self) -> None:
        """End the process that reads large bodies."""
        self._reader.close()


class HeldBody:
    """Used by the request's own thread alone."""

    def __init__(self, budget: BodyBudget, client: str, reader: LargeBodyReader, max_bytes: int) -> None:
        self.data: bytes | BodyFile = b""
        self._budget = budget
        self._client = client
        self._reader = reader
        self._max_bytes = max_bytes
        self._taken_bytes = 0
        self._fd = -1

    def __len__(self) -> int:
        return len(self.data)

    def receive(self, read: Callable[[int], bytes], announced_bytes: int) -> None:
        """Fill it. Raises RequestTooLarge, Overloaded."""
        _check_size(announced_bytes, self._max_bytes)
        self._take(announced_bytes or PIECE_BYTES)
        piece = read(PIECE_BYTES)
        text = piece.removeprefix(BOM_UTF8)  # the engine skips it, Python's decoder does not
        if len(piece) < PIECE_BYTES or len(piece) == announced_bytes:
            self.data, size = text, len(text)
            _check_size(size, self._max_bytes)
        else:
            self._fd = _memory_file()
            size = self._store(text, read, announced_bytes)
            self.data = BodyFile(self._fd, size)
        self._give_back_all_but(size)

    def _store(self, piece: bytes, read: Callable[[int], bytes], announced_bytes: int) -> int:
        """Write this piece and those that follow; returns the bytes in all."""
        size = 0
        while piece:
            _write(self._fd, piece)
            size += len(piece)
            if size == announced_bytes:
                break
            _check_size(size, self._max_bytes)
            if size + PIECE_BYTES > self._taken_bytes and not announced_bytes:
                self._take(PIECE_BYTES)
            piece = read(PIECE_BYTES)
        return size

    def _take(self, count: int) -> None:
        count = min(count, self._max_bytes - self._taken_bytes)  # no body has more, and max_bodies may be max_body
        # Four large bodies, or their announcements, fill the budget: nearly all others are small, and go on.
        self._budget.take(self._client, count, may_exceed=self._taken_bytes + count <= PIECE_BYTES)
        self._taken_bytes += count

    def _give_back_all_but(self, count: int) -> None:
        self._budget.release(self._client, self._taken_bytes - count)
        self._taken_bytes = count

    def content(self, form: BodyFormat) -> BodyContent:
        """What it says. Raises InvalidRequest."""
        return self.read(partial(read_content, form=form))

    def read(self, reading: Callable[[Buffer], T]) -> T:
        """What `reading` finds in it. Raises its ProxyError."""
        data = self._data_to_read()
        return reading(data) if isinstance(data, bytes) else self._reader.read(data, reading)

    def rewrite(self, rewriting: Callable[[Buffer], tuple[bytes, T]]) -> T:
        """Replace it by what `rewriting` makes of it; returns what `rewriting` says. Raises its ProxyError, and
        Overloaded."""
        if isinstance(data := self._data_to_read(), bytes):
            new, result = rewriting(data)
            self._resize(len(new))
            self.data = new
            return result
        fd = _memory_file()
        try:
            result = self._reader.rewrite(data, rewriting, fd)
            self._resize(size := os.fstat(fd).st_size)
        except BaseException:
            os.close(fd)
            raise
        self._replace_file(fd, size)
        return result

    def _data_to_read(self) -> bytes | BodyFile:
        """The body; in a file if it is read elsewhere."""
        data = self.data
        if isinstance(data, bytes) and len(data) > INLINE_VALUES and values_bound(data) > INLINE_VALUES:
            fd = _memory_file()
            self._replace_file(fd, len(data))
            _write(fd, data)
        return self.data

    def _resize(self, size: int) -> None:
        """Take this many bytes of the budget instead. Raises Overloaded."""
        if size > self._taken_bytes:
            self._budget.take(self._client, size - self._taken_bytes, may_exceed=size <= PIECE_BYTES)
            self._taken_bytes = size
        self._give_back_all_but(size)

    def _replace_file(self, fd: int, size: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.data = fd, BodyFile(fd, size)

    def hash(self, *labels: str) -> str:
        """A cryptographic hash of these labels and the body."""
        result = hashlib.blake2b("\0".join(labels).encode(errors="surrogatepass") + b"\0", digest_size=16)
        if isinstance(self.data, BodyFile):
            for offset in range(0, len(self.data), PIECE_BYTES):
                result.update(os.pread(self._fd, PIECE_BYTES, offset))
        else:
            result.update(self.data)
        return result.hexdigest()

    def close(self) -> None:
        """Give its memory back. More than once does no harm."""
        self.data = b""
        self._give_back_all_but(0)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _check_size(count: int, max_bytes: int) -> None:
    """Raises RequestTooLarge."""
    if count > max_bytes:
        raise RequestTooLarge(f"the body is larger than {max_bytes} bytes; server.max_body sets the limit")


def _memory_file() -> int:
    try:
        return os.memfd_create("request-body", os.MFD_CLOEXEC)
    except OSError as error:
        raise Overloaded(f"the body cannot be stored: {error.strerror}; try again") from error


def _write(fd: int, piece: bytes) -> None:
    try:
        while piece:
            piece = piece[os.write(fd, piece) :]
    except OSError as error:
        raise Overloaded(f"the body cannot be stored: {error.strerror}; try again") from error

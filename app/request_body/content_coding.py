"""Decodes a body that its client has compressed (Content-Encoding), as it arrives.

zlib and zstd release Python's lock while they decode. No piece is longer than what is asked for, so whoever reads
decides how much memory a body may take.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from app.errors import InvalidRequest, UnsupportedEncoding

MAX_CODINGS = 2  # one upon the other
ENCODED_BYTES = 64 * 1024  # read at once
MAX_MEMBERS = 10_000  # gzip in blocks of 64 KiB has 4,096 in the largest body by default; empty ones have no end
MAX_ZSTD_WINDOW_LOG = 23  # 8 MiB, beside the body: RFC 9659 permits no more

Read = Callable[[int], bytes]  # up to so many bytes; fewer, or none, at the end only


class _Decoder(Protocol):
    """That of zstd, which is the newer kind of the standard library; zlib's is made to look like it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    """gzip or deflate."""

    def __init__(self, window_bits: int) -> None:
        self._object = zlib.decompressobj(window_bits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._object.decompress(self._object.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length
        return piece


MakeDecoder = Callable[[bytes], tuple[_Decoder, type[Exception]]]  # from the first two bytes, with what it raises


def _gzip(beginning: bytes) -> tuple[_Decoder, type[Exception]]:
    return _Inflate(16 + zlib.MAX_WBITS), zlib.error


def _deflate(beginning: bytes) -> tuple[_Decoder, type[Exception]]:
    """RFC 9110 means zlib's format; some clients send it without its header."""
    has_header = beginning[0] & 0x0F == 8 and int.from_bytes(beginning[:2], "big") % 31 == 0
    return _Inflate(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS), zlib.error


def _zstd(beginning: bytes) -> tuple[_Decoder, type[Exception]]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options = {int(zstd.DecompressionParameter.window_log_max): MAX_ZSTD_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options), zstd.ZstdError


_CODINGS: dict[str, MakeDecoder] = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd}
_MAY_REPEAT = ("gzip", "zstd")  # members, or frames, one after the other


def content_codings(header: str) -> tuple[str, ...]:
    """The codings of a Content-Encoding header, in the order they were applied. Raises UnsupportedEncoding."""
    given = [coding.strip().lower() for coding in header.split(",")]
    codings = tuple("gzip" if each == "x-gzip" else each for each in given if each not in ("", "identity"))
    if len(codings) > MAX_CODINGS or not set(codings) <= _CODINGS.keys():
        raise UnsupportedEncoding(header[:200], tuple(_CODINGS))
    return codings


def decoded(read: Read, coding: str) -> Read:
    """Reads the decoded body. Raises InvalidRequest where it is not what its header says."""
    return _DecodedBody(read, coding).read


class _DecodedBody:
    """One coding of one body. Used by the request's own thread alone."""

    def __init__(self, read: Read, coding: str) -> None:
        self._read_encoded = read
        self._coding = coding
        self._input = b""  # read, but not given to a decoder
        self._decoder: _Decoder | None = None  # None between two members
        self._error: type[Exception] = zlib.error  # of the decoder
        self._members = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end."""
        pieces: list[bytes] = []
        while size > 0 and (decoder := self._decoder or self._next_member()) is not None:
            pieces.append(piece := self._decode(decoder, size))
            size -= len(piece)
        return b"".join(pieces)

    def _decode(self, decoder: _Decoder, size: int) -> bytes:
        """Up to `size` bytes; none means only that there is more to decode."""
        data = self._take_input() if decoder.needs_input else b""
        is_cut = decoder.needs_input and not data
        try:
            piece = decoder.decompress(data, size)
        except self._error as error:
            raise InvalidRequest(f"the body cannot be decoded as {self._coding}: {error}") from error
        if decoder.eof:
            self._input, self._decoder = decoder.unused_data, None
        elif is_cut and not piece:
            raise InvalidRequest(f"the body cannot be decoded as {self._coding}: it is truncated")
        return piece

    def _take_input(self) -> bytes:
        data, self._input = self._input or self._read_encoded(ENCODED_BYTES), b""
        return data

    def _next_member(self) -> _Decoder | None:
        """The decoder of what comes now; None at the end of the body."""
        while len(self._input) < 2 and (more := self._read_encoded(ENCODED_BYTES)):
            self._input += more
        if not self._input:
            return None
        self._members += 1
        if self._members > (MAX_MEMBERS if self._coding in _MAY_REPEAT else 1):
            raise InvalidRequest(f"the body cannot be decoded as {self._coding}: there is data after its end")
        self._decoder, self._error = _CODINGS[self._coding](self._input)
        return self._decoder

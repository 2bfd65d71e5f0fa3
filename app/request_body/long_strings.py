"""Shortens the long strings of a JSON text before it is decoded: a picture of 200 MiB would be copied twice.

Nothing is accepted because of it: what is cut off was checked by the rules of JSON and UTF-8, and a string that breaks
them stays whole, for the decoder to reject.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from app.request_body.buffer import Buffer

LONG_BYTES = 800 * 1024  # between its quotes: at least 68,266 characters, more than any limit on a string
SLICE_BYTES = 1024 * 1024

# Matches at every quote that begins a string, even one without an end: a search that failed would begin anew at the
# next quote, in quadratic time.
# Classes of what is allowed, because those of what is not take twice the time.
_STRING = re.compile(rb'"(?:[\x00-!#-\[\]-\xff]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_CHARACTERS = re.compile(rb'(?:[ !#-\[\]-\xff]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+')


def shortened(text: Buffer) -> bytes:
    """The text, each valid string of more than LONG_BYTES cut to whole characters of at most LONG_BYTES."""
    pieces, copied_to = [], 0
    for first, end in _long_strings(text):
        if _is_valid(text, first, end):
            pieces.append(text[copied_to : _cut(text, first)])
            copied_to = end
    return b"".join([*pieces, text[copied_to : len(text)]])


def _long_strings(text: Buffer) -> Iterator[tuple[int, int]]:
    """From behind its first quote to before its last one."""
    for match in _STRING.finditer(text):
        if match.end() - match.start() > LONG_BYTES + 2:
            yield match.start() + 1, match.end() - 1


def _is_valid(text: Buffer, first: int, end: int) -> bool:
    match = _CHARACTERS.match(text, first, end)
    return text[end : end + 1] == b'"' and match is not None and match.end() == end and _is_utf8(text, first, end)


def _is_utf8(text: Buffer, first: int, end: int) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(first, end, SLICE_BYTES):
            piece = text[start : min(start + SLICE_BYTES, end)]
            if not piece.isascii() or decoder.getstate()[0]:
                decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _cut(text: Buffer, first: int) -> int:
    """Where the last whole character of the string's first LONG_BYTES ends."""
    match = _CHARACTERS.match(text, first, first + LONG_BYTES)
    assert match is not None
    end = match.end()
    while text[end] & 0xC0 == 0x80:  # in the middle of a UTF-8 sequence
        end -= 1
    return end

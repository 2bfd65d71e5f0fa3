"""A file read forwards, in pieces of bounded size.

Not mapped: a page of a mapped file that somebody cuts off meanwhile kills the process with SIGBUS.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISDIR, S_ISREG
from typing import Any

WINDOW_BYTES = 1 << 18  # larger ones are not faster
LENGTH = struct.Struct("<Q")


class Unreadable(Exception):
    """A file is not what it should be; the text is read after its name."""


class FileWindow:
    """A position `at` in a file, and a buffer of the bytes around it. Reading beyond the end raises Unreadable."""

    def __init__(self, number: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes  # bytes appended later are ignored
        self.at = 0
        self._number = number
        self._bytes = b""  # those from `_start` on
        self._start = 0

    def take(self, count: int) -> bytes:
        """The next bytes. The caller bounds how many."""
        begin = self.at - self._start
        if begin + count > len(self._bytes):
            self._fill(count)
            begin = 0
        self.at += count
        return self._bytes[begin : begin + count]

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))

    def skip(self, count: int) -> None:
        """Pass over bytes without reading them."""
        if count > self.size_bytes - self.at:
            raise self._cut_off()
        self.at += count

    def skip_strings(self, count: int) -> None:
        """Pass over strings, each with its length before it; only the lengths are looked at.

        This loop is most of what a header costs: 50 ns a string, of which Gemma 3 has 780,000.
        """
        unpack, left = LENGTH.unpack_from, count
        while left:
            self._fill(LENGTH.size)
            window, at = self._bytes, 0
            try:
                for left in range(left - 1, -1, -1):  # noqa: B007, B020
                    (length,) = unpack(window, at)
                    at += LENGTH.size + length
            except (struct.error, OverflowError):  # this one's length is not, or not whole, in the window
                left += 1
            self.skip(at)

    def _fill(self, count: int) -> None:
        """Have the window begin at `at`, with at least so many bytes."""
        self._bytes, self._start = os.pread(self._number, max(count, WINDOW_BYTES), self.at), self.at
        if len(self._bytes) < count:
            raise self._cut_off()

    def _cut_off(self) -> Unreadable:
        return Unreadable(f"is cut off, or still being written: it ends in its header, after {self.size_bytes} bytes")


@contextmanager
def opened(path: str) -> Iterator[FileWindow]:
    """A regular file, to be read once. Raises Unreadable if it is something else, and OSError."""
    # Not blocking: a pipe would wait for its writer.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        stat = os.fstat(number)
        if not S_ISREG(stat.st_mode):
            raise Unreadable("is a folder, not a file" if S_ISDIR(stat.st_mode) else "is not a regular file")
        yield FileWindow(number, stat.st_size)
    finally:
        os.close(number)

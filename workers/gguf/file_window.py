"""Reads a file sequentially through a buffer of bounded size.

Not memory-mapped: if a mapped file is truncated, access to a lost page kills the process with SIGBUS.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from stat import S_ISDIR, S_ISREG
from typing import Any

WINDOW_BYTES = 1 << 18  # larger windows are not faster
LENGTH = struct.Struct("<Q")


class InvalidGguf(Exception):
    """A file is not a valid GGUF file; the message is a predicate, to follow the file's name."""


Read = Callable[[int, int], bytes]  # (count, offset): so many bytes from there, fewer at the end of the file


class FileWindow:
    """A read position `at` in a file, and a buffer of the bytes near it. Reading past the end raises InvalidGguf."""

    def __init__(self, read: Read, size_bytes: int, window_bytes: int = WINDOW_BYTES) -> None:
        self.size_bytes = size_bytes  # bytes appended later are ignored
        self.at = 0
        self._window_bytes = window_bytes
        self._read = read
        self._bytes = b""  # the file from offset `_start`
        self._start = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes; the caller limits `count`."""
        begin = self.at - self._start
        if begin + count > len(self._bytes):
            self._fill(count)
            begin = 0
        self.at += count
        return self._bytes[begin : begin + count]

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))

    def skip(self, count: int) -> None:
        """Skip `count` bytes without reading them."""
        if count > self.size_bytes - self.at:
            raise self._truncated()
        self.at += count

    def skip_strings(self, count: int, wanted: Mapping[bytes, Sequence[bytes]]) -> list[bytes]:
        """Skip `count` length-prefixed strings, reading only the lengths. Returns which of `wanted` were among them,
        by a part of them that is searched first.

        Most of the time spent on a header goes into this loop: 50 ns per string; Gemma 3 has 780,000.
        """
        unpack, left, found = LENGTH.unpack_from, count, list[bytes]()
        while left:
            self._fill(LENGTH.size)
            window, at = self._bytes, 0
            try:
                for left in range(left - 1, -1, -1):  # noqa: B007, B020
                    (length,) = unpack(window, at)
                    at += LENGTH.size + length
            except (struct.error, OverflowError):  # the length is not entirely in the window
                left += 1
            if len(window) < at and (start := at - LENGTH.size - length) > 0:
                at, left = start, left + 1  # read the last string again, which is cut
            parts = [part for part in wanted if window.find(part, 0, at) >= 0]
            found += [each for part in parts for each in wanted[part] if LENGTH.pack(len(each)) + each in window[:at]]
            self.skip(at)
        return found

    def _fill(self, count: int) -> None:
        """Refill the window from `at`, with at least `count` bytes."""
        self._bytes, self._start = self._read(max(count, self._window_bytes), self.at), self.at
        if len(self._bytes) < count:
            raise self._truncated()

    def _truncated(self) -> InvalidGguf:
        return InvalidGguf(f"is truncated or still being written: it ends in its header, after {self.size_bytes} bytes")


@contextmanager
def open_window(path: str, window_bytes: int = WINDOW_BYTES) -> Iterator[FileWindow]:
    """Open a regular file for reading, `window_bytes` at a time. Raises InvalidGguf if it is not one, and OSError."""
    # Non-blocking: opening a pipe would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        stat = os.fstat(fd)
        if not S_ISREG(stat.st_mode):
            raise InvalidGguf("is a directory, not a file" if S_ISDIR(stat.st_mode) else "is not a regular file")
        yield FileWindow(partial(os.pread, fd), stat.st_size, window_bytes)
    finally:
        os.close(fd)

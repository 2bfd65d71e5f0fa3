"""Reports which files were opened, by inotify, to check that a request does not touch files."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

IN_ACCESS, IN_OPEN, IN_NONBLOCK = 0x1, 0x20, 0o4000  # sys/inotify.h
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name


class OpenedFiles:
    """Watches the files in some folders; `names` returns those opened since its last call."""

    def __init__(self, *folders: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(IN_NONBLOCK)
        assert self._fd >= 0
        for folder in folders:
            watch = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_ACCESS | IN_OPEN)
            assert watch >= 0, os.strerror(ctypes.get_errno())

    def names(self) -> set[str]:
        found = set()
        try:
            events = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            events = b""
        while events:
            *_, length = _HEAD.unpack_from(events)
            found.add(events[_HEAD.size : _HEAD.size + length].rstrip(b"\0").decode())
            events = events[_HEAD.size + length :]
        return found - {""}

    def close(self) -> None:
        os.close(self._fd)

"""ReadAhead: reads files of waiting loads into the page cache, slice by slice, with idle priority on the disk.

One thread, which waits until something has changed. Before each slice the decision is made anew: a load that waits no
longer, or RAM that is wanted, ends the reading within one slice.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import threading
from collections.abc import Callable

from app.use_cases.scheduling.read_ahead import FileAhead
from workers.model_files.parts import parts_of

log = logging.getLogger(__name__)

SLICE_BYTES = 8 * 1024**2
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # the number of the system call
_THIS_THREAD, _IDLE = (1, 0), 3 << 13  # IOPRIO_WHO_PROCESS; IOPRIO_CLASS_IDLE


class ReadAhead:
    """`wanted`: the file now; any thread may `wake`."""

    def __init__(self, wanted: Callable[[], FileAhead | None]) -> None:
        self._wanted = wanted
        self._changed = threading.Event()
        self._path, self._done = "", 0  # of its own thread: what was read of which file
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something has changed: the file may be another one, or none."""
        self._changed.set()

    def _run(self) -> None:
        _set_idle_priority()
        while True:
            self._changed.wait()
            self._changed.clear()
            try:
                self._read_while_wanted()
            except Exception:
                log.exception("read-ahead")

    def _read_while_wanted(self) -> None:
        while (file := self._wanted()) and self._read_slice(file):
            pass
        if not file and self._path:
            log.info("read ahead path=%s mib=%d", self._path, self._done >> 20)
            self._path, self._done = "", 0

    def _read_slice(self, file: FileAhead) -> bool:
        """False if nothing is left to read."""
        if file.path != self._path:
            self._path, self._done = file.path, 0
        left = file.size_bytes - self._done
        size = _read_at(file.path, self._done, min(SLICE_BYTES, left)) if left > 0 else 0
        self._done += size
        return size > 0


def _read_at(path: str, offset: int, size: int) -> int:
    """Bytes read of the parts together from `offset` on; 0 at their end, or if they cannot be read."""
    for part in parts_of(path):
        try:
            length = os.stat(part).st_size
            if offset < length:
                return _read(part, offset, min(size, length - offset))
        except OSError:
            return 0
        offset -= length
    return 0


def _read(path: str, offset: int, size: int) -> int:
    """Read, not only asked for: what was asked for would pile up before a slow disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.preadv(fd, [bytearray(size)], offset)
    finally:
        os.close(fd)


def _set_idle_priority() -> None:
    if number := _IOPRIO_SET.get(platform.machine()):
        ctypes.CDLL(None).syscall(number, *_THIS_THREAD, _IDLE)

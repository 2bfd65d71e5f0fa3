"""How much of a file is in the page cache: what of it is read from RAM.

By cachestat (Linux 6.5), which counts without looking at every page; else by mincore on samples of the file. Both tell
it only to those who may write the file or own it: mincore then reports every page as present, so it is not asked.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable

_CACHESTAT = 451  # the number of the system call, on all architectures
_SAMPLES, _SAMPLE_BYTES = 256, 1024**2  # of large files: 256 MiB in all

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recent"))


def cached_share(paths: Iterable[str]) -> float | None:
    """Of these files together, 0 to 1; None where the kernel does not tell."""
    total = cached = 0
    for path in paths:
        try:
            found = _cached_bytes(path)
        except OSError:
            return None
        if found is None:
            return None
        total, cached = total + os.stat(path).st_size, cached + found
    return min(1.0, cached / total) if total else None


def _cached_bytes(path: str) -> int | None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        counted = counted_bytes(fd)
        if counted is None and _may_ask(path, fd):
            counted = sampled_bytes(fd)
        return counted
    finally:
        os.close(fd)


def counted_bytes(fd: int) -> int | None:
    """By cachestat; None if the kernel has none, or does not tell."""
    counts = _Counts()
    failed = _libc.syscall(_CACHESTAT, fd, ctypes.byref(_Range(0, 0)), ctypes.byref(counts), 0)
    return None if failed else counts.cached * mmap.PAGESIZE


def sampled_bytes(fd: int) -> int:
    """By mincore, on samples at equal distances. Raises OSError."""
    size = os.fstat(fd).st_size
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return _present_bytes(fd, 0, size)
    distance = size // _SAMPLES // mmap.PAGESIZE * mmap.PAGESIZE
    seen = sum(_present_bytes(fd, number * distance, _SAMPLE_BYTES) for number in range(_SAMPLES))
    return seen * size // (_SAMPLES * _SAMPLE_BYTES)


def _may_ask(path: str, fd: int) -> bool:
    return os.fstat(fd).st_uid == os.geteuid() or os.access(path, os.W_OK)


def _present_bytes(fd: int, offset: int, size: int) -> int:
    if not size:
        return 0
    pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        if _libc.mincore(address, size, pages):
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        _libc.munmap(address, size)
    return sum(page & 1 for page in pages.raw) * mmap.PAGESIZE

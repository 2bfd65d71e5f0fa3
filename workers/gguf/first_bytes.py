"""The first 24 bytes of a GGUF file: enough to say that llama.cpp would not read on.

Meant to catch what is wrong with a file as a whole (not GGUF, cut off, another byte order), at the price of one read.
The rest (keys, tensors, whether the data is complete) is checked by header.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from workers.gguf.constants import MAGIC, NEWEST_VERSION

HEADER = struct.Struct("<4sIQQ")  # magic, version, tensors, key-value pairs (ggml/src/gguf.cpp; 2 and 3 are alike)
TENSOR_INFO_BYTES = 24  # the least one takes: length of the name, dimensions, type, offset
KEY_VALUE_BYTES = 14  # the least one takes: length of the key, a letter, type, one byte

Verdicts = Mapping[tuple[str, int, int], str]  # (path, size, mtime_ns): what is wrong, empty for nothing


class FirstBytes:
    """What is wrong with files, of one scan. A file that has not changed since the last one is not read again."""

    def __init__(self, last: Verdicts | None = None) -> None:
        self._last = last or {}
        self.verdicts: dict[tuple[str, int, int], str] = {}

    def problem(self, path: str, stat: os.stat_result, may_lack_tensors: bool = False) -> str:
        """What is wrong with a regular file, to be read after its name; empty for nothing."""
        key = (path, stat.st_size, stat.st_mtime_ns)
        verdict = self._last.get(key)
        if verdict is None:
            try:
                verdict = first_bytes_problem(_read_head(path), stat.st_size, may_lack_tensors)
            except OSError as error:  # not kept: a right to read comes without a new mtime
                return f"cannot be read: {error.strerror}"
        self.verdicts[key] = verdict
        return verdict


def first_bytes_problem(head: bytes, size_bytes: int, may_lack_tensors: bool = False) -> str:
    """What is wrong with a file that begins with `head`; empty for nothing. A split model's first part may hold
    metadata alone (llama-gguf-split --no-tensor-first-split)."""
    if not size_bytes:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the file itself: git lfs pull fetches it"
    if head.lstrip().startswith((b"<", b"{")):
        return "is a page or a message of some web site, not a model: fetch it again, logged in where that is needed"
    if not head.startswith(MAGIC):
        return "is not a GGUF file"
    if len(head) < HEADER.size:
        return f"is {size_bytes} bytes long, shorter than a GGUF header"
    _, version, tensors, pairs = HEADER.unpack(head)
    return _version_problem(version) or _count_problem(tensors, pairs, size_bytes, may_lack_tensors)


def _version_problem(version: int) -> str:
    if version and not version & 0xFFFF:  # as llama.cpp tells it: 3 read from the other end is 0x03000000
        return "is a big-endian GGUF file, which cannot be read here"
    if version == 1:
        return "is of GGUF version 1, which llama.cpp no longer reads: convert the model anew"
    if not 2 <= version <= NEWEST_VERSION:
        return f"is of GGUF version {version}; 2 and 3 can be read"
    return ""


def _count_problem(tensors: int, pairs: int, size_bytes: int, may_lack_tensors: bool) -> str:
    # llama.cpp's own limits are far above what any file holds; a negative count is a huge one here.
    if HEADER.size + tensors * TENSOR_INFO_BYTES + pairs * KEY_VALUE_BYTES > size_bytes:
        return f"says it has {tensors} tensors and {pairs} metadata keys, more than its {size_bytes} bytes can hold"
    if not pairs:
        return "has no metadata"
    if not tensors and not may_lack_tensors:
        return "has no tensors"
    return ""


def _read_head(path: str) -> bytes:
    # Not blocking: the file may have become a pipe since it was looked at.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(number, HEADER.size)
    finally:
        os.close(number)

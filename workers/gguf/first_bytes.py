"""Checks the first 24 bytes of a GGUF file.

Detects files that llama.cpp would reject as a whole: not GGUF, cut within the header, wrong byte order.
Keys, tensors and completeness of the data are checked by header.py.
"""

from __future__ import annotations

import struct

from workers.gguf.constants import MAGIC, NEWEST_VERSION

HEADER = struct.Struct("<4sIQQ")  # magic, version, tensors, key-value pairs (ggml/src/gguf.cpp; same in 2 and 3)
TENSOR_INFO_BYTES = 24  # minimum: length of the name, dimensions, type, offset
KEY_VALUE_BYTES = 14  # minimum: length of the key, one letter, type, one byte


def first_bytes_problem(head: bytes, size_bytes: int, may_lack_tensors: bool = False) -> str:
    """What is wrong with a file that begins with `head`; "" if nothing.

    `may_lack_tensors`: the first part of a split model may contain metadata only (llama-gguf-split
    --no-tensor-first-split).
    """
    if not size_bytes:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run git lfs pull"
    if head.lstrip().startswith((b"<", b"{")):
        return "is a web page or a JSON message, not a model: download it again, logged in if required"
    if not head.startswith(MAGIC):
        return "is not a GGUF file"
    if len(head) < HEADER.size:
        return f"is {size_bytes} bytes long, shorter than a GGUF header"
    _, version, tensors, pairs = HEADER.unpack(head)
    return _version_problem(version) or _count_problem(tensors, pairs, size_bytes, may_lack_tensors)


def _version_problem(version: int) -> str:
    if version and not version & 0xFFFF:  # the test llama.cpp uses: a byte-swapped 3 is 0x03000000
        return "is a big-endian GGUF file, which is not supported"
    if version == 1:
        return "is GGUF version 1, which llama.cpp no longer supports: convert the model again"
    if not 2 <= version <= NEWEST_VERSION:
        return f"is GGUF version {version}; versions 2 and 3 are supported"
    return ""


def _count_problem(tensors: int, pairs: int, size_bytes: int, may_lack_tensors: bool) -> str:
    # llama.cpp's limits are far above what any file holds. Counts are unsigned here, so a negative one is huge.
    if HEADER.size + tensors * TENSOR_INFO_BYTES + pairs * KEY_VALUE_BYTES > size_bytes:
        counts = f"declares {tensors} tensors and {pairs} metadata keys"
        return f"{counts}, more than its {size_bytes} bytes can hold: download it again"
    if not pairs:
        return "has no metadata"
    if not tensors and not may_lack_tensors:
        return "has no tensors"
    return ""

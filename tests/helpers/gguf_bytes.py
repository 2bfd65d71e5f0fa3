"""Builds GGUF files byte by byte, including invalid ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.gguf.constants import TENSOR_TYPES, ValueType
from workers.gguf.metadata import STRUCT_CODES

F32, F16, Q4_0 = 0, 1, 2
TINY = {"general.architecture": "llama", "llama.block_count": 1}
PROJECTOR = {"general.architecture": "clip"}


@dataclass(frozen=True)
class Typed:
    """A metadata value with an explicit GGUF type."""

    type: int
    value: Any


@dataclass(frozen=True)
class Info:
    """A tensor info; without an offset the tensor follows the previous one."""

    name: str = "t"
    shape: Sequence[int] = (8,)
    type: int = F32
    offset: int | None = None

    @property
    def size_bytes(self) -> int:
        _, block, block_bytes = TENSOR_TYPES.get(self.type, ("", 1, 1))
        count = 1
        for each in self.shape:
            count *= each
        return count // block * block_bytes


def a_header(
    metadata: Mapping[Any, Any] = TINY, tensors: Sequence[Info] = (Info(),), version: int = 3, alignment: int = 32
) -> bytes:
    """Magic, metadata and tensor infos, padded to the start of the data."""
    body = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    body += b"".join(text(key) + value(each) for key, each in metadata.items())
    free = 0
    for each in tensors:
        offset = free if each.offset is None else each.offset
        body += text(each.name) + struct.pack(f"<I{len(each.shape)}q", len(each.shape), *each.shape)
        body += struct.pack("<IQ", each.type, offset)
        free = padded(offset + each.size_bytes, alignment)
    return body.ljust(padded(len(body), alignment), b"\0")


def a_file(*arguments: Any, **options: Any) -> bytes:
    """A header as built by `a_header`, followed by zeros as tensor data."""
    tensors = options.get("tensors", arguments[1] if len(arguments) > 1 else (Info(),))
    alignment = options.get("alignment", 32)
    return a_header(*arguments, **options) + bytes(sum(padded(each.size_bytes, alignment) for each in tensors))


def text(content: str | bytes) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(raw)) + raw


def value(given: Any) -> bytes:
    """An encoded metadata value: its type and its bytes."""
    typed = _typed(given)
    if isinstance(typed.value, list):
        return struct.pack("<IIQ", ValueType.ARRAY, typed.type, len(typed.value)) + b"".join(
            _plain(typed.type, each) for each in typed.value
        )
    return struct.pack("<I", typed.type) + _plain(typed.type, typed.value)


def _typed(given: Any) -> Typed:
    if isinstance(given, Typed):
        return given
    if isinstance(given, list):
        return Typed(_typed(given[0]).type, given)
    kinds = {
        str: ValueType.STRING,
        bytes: ValueType.STRING,
        bool: ValueType.BOOL,
        int: ValueType.UINT32,
        float: ValueType.FLOAT32,
    }
    return Typed(kinds[type(given)], given)


def _plain(kind: int, each: Any) -> bytes:
    if kind == ValueType.STRING:
        return text(each)
    return each if isinstance(each, bytes) else struct.pack("<" + STRUCT_CODES[kind], each)


def padded(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment

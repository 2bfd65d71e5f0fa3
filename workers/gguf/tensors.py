"""The tensor infos of a GGUF file: names, shapes and types, and whether the file is as long as they need it.

Checked as in llama.cpp (b11434, ggml/src/gguf.cpp and src/llama-model-loader.h).
"""

from __future__ import annotations

import math
import struct

from app.entities.gguf import Tensor
from workers.gguf.constants import TENSOR_TYPES
from workers.gguf.file_window import LENGTH, FileWindow, Unreadable
from workers.gguf.metadata import NUMBER, quoted

MOST_TENSORS = 1 << 16  # llama.cpp has no bound; models have some 2,000 at most
LONGEST_NAME = 63
MOST_ELEMENTS = 2**63 - 1
SHAPES = [struct.Struct(f"<{dimensions}q") for dimensions in range(5)]
TAIL = struct.Struct("<IQ")  # type, offset


def read_tensors(window: FileWindow, count: int, alignment: int) -> list[Tensor]:
    """The next `count` tensors. Raises Unreadable, also when the file ends before their data does."""
    if count > MOST_TENSORS:
        raise Unreadable(f"is damaged: it says that it has {count} tensors")
    tensors: dict[str, Tensor] = {}
    free = end = 0  # in the data: where the next tensor has to begin, and where the last one ends
    for _ in range(count):
        tensor, offset = _read_tensor(window)
        if tensor.name in tensors:
            raise Unreadable(f"is damaged: it has the tensor {quoted(tensor.name)} twice")
        if offset != free:
            raise Unreadable(f"is damaged: tensor {quoted(tensor.name)} is at {offset}, and should be at {free}")
        tensors[tensor.name] = tensor
        end = offset + tensor.size_bytes
        free = _padded(end, alignment)
    needed = _padded(window.at, alignment) + end if count else 0
    if needed > window.size_bytes:
        raise Unreadable(f"is cut off, or still being written: it has {window.size_bytes} bytes of {needed}")
    return list(tensors.values())


def _read_tensor(window: FileWindow) -> tuple[Tensor, int]:
    """A tensor, and where its data begins."""
    (length,) = window.unpack(LENGTH)
    if length > LONGEST_NAME:
        raise Unreadable(f"is damaged: the name of a tensor has {length} bytes")
    name = window.take(length).decode(errors="backslashreplace")
    shape = _read_shape(window, name)
    kind, offset = window.unpack(TAIL)
    if kind not in TENSOR_TYPES:
        raise Unreadable(f"is damaged, or newer than the gguf package here: tensor {quoted(name)} is of type {kind}")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    row = shape[0] if shape else 1
    if row % block:
        raise Unreadable(f"is damaged: tensor {quoted(name)} has rows of {row}, and {type_name} blocks of {block}")
    return Tensor(name, shape, type_name, math.prod(shape) // block * block_bytes), offset


def _read_shape(window: FileWindow, name: str) -> tuple[int, ...]:
    (dimensions,) = window.unpack(NUMBER)
    if dimensions >= len(SHAPES):
        raise Unreadable(f"is damaged: tensor {quoted(name)} has {dimensions} dimensions")
    shape = window.unpack(SHAPES[dimensions])
    if any(each < 0 for each in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise Unreadable(f"is damaged: tensor {quoted(name)} has the shape {shape}")
    return shape


def _padded(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment

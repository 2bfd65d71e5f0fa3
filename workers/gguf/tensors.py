"""Reads the tensor infos of a GGUF file (names, shapes, types) and checks that the file contains all their data.

The checks are those of llama.cpp (b11434, ggml/src/gguf.cpp and src/llama-model-loader.h).
"""

from __future__ import annotations

import math
import struct

from app.entities.gguf import Tensor
from workers.gguf.constants import TENSOR_TYPES
from workers.gguf.file_window import LENGTH, FileWindow, InvalidGguf
from workers.gguf.metadata import NUMBER, quote_name

MAX_TENSORS = 1 << 16  # llama.cpp has no limit; the largest models have some 2,000
MAX_NAME_BYTES = 63
MAX_ELEMENTS = 2**63 - 1
SHAPES = [struct.Struct(f"<{dimensions}q") for dimensions in range(5)]
TAIL = struct.Struct("<IQ")  # type, offset


def read_tensors(window: FileWindow, count: int, alignment: int) -> list[Tensor]:
    """Read the next `count` tensor infos. Raises InvalidGguf, also if the file ends before the tensor data."""
    if count > MAX_TENSORS:
        raise InvalidGguf(f"is damaged: it declares {count} tensors")
    tensors: dict[str, Tensor] = {}
    expected = end = 0  # offsets in the data: where the next tensor must begin, where the last one ends
    for _ in range(count):
        tensor, offset = _read_tensor(window)
        if tensor.name in tensors:
            raise InvalidGguf(f"is damaged: tensor {quote_name(tensor.name)} occurs twice")
        if offset != expected:
            raise InvalidGguf(f"is damaged: tensor {quote_name(tensor.name)} is at offset {offset}, not {expected}")
        tensors[tensor.name] = tensor
        end = offset + tensor.size_bytes
        expected = _align_up(end, alignment)
    needed = _align_up(window.at, alignment) + end if count else 0
    if needed > window.size_bytes:
        raise InvalidGguf(f"is truncated or still being written: it has {window.size_bytes} of {needed} bytes")
    return list(tensors.values())


def _read_tensor(window: FileWindow) -> tuple[Tensor, int]:
    """A tensor and the offset of its data."""
    (length,) = window.unpack(LENGTH)
    if length > MAX_NAME_BYTES:
        raise InvalidGguf(f"is damaged: a tensor has a name of {length} bytes")
    name = window.take(length).decode(errors="backslashreplace")
    shape = _read_shape(window, name)
    kind, offset = window.unpack(TAIL)
    if kind not in TENSOR_TYPES:
        raise InvalidGguf(f"is damaged or too new: tensor {quote_name(name)} has the unknown type {kind}")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    row = shape[0] if shape else 1
    if row % block:
        raise InvalidGguf(f"is damaged: tensor {quote_name(name)} has rows of {row}, but {type_name} blocks of {block}")
    return Tensor(name, shape, type_name, math.prod(shape) // block * block_bytes), offset


def _read_shape(window: FileWindow, name: str) -> tuple[int, ...]:
    (dimensions,) = window.unpack(NUMBER)
    if dimensions >= len(SHAPES):
        raise InvalidGguf(f"is damaged: tensor {quote_name(name)} has {dimensions} dimensions")
    shape = window.unpack(SHAPES[dimensions])
    if any(extent < 0 for extent in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise InvalidGguf(f"is damaged: tensor {quote_name(name)} has an invalid shape: {shape}")
    return shape


def _align_up(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment

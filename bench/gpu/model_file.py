"""Writes a runnable model file: the shape and vocabulary size of a real model, with random weights.

The weights are never in memory as a whole: the `gguf` package writes the header, followed by a few MiB of random data
repeated as often as needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.entities.gguf import GgufHeader, Value
from app.errors import InvalidModelFile
from bench.gpu.random_weights import pieces
from bench.gpu.shapes import MAX_ALIGNED, VOCABULARY, Shape
from workers.engine_builds.stopping import Deadline
from workers.gguf.constants import TENSOR_TYPES
from workers.gguf.header import read_header

if TYPE_CHECKING:
    import gguf

_FINGERPRINT = "general.version"
_ALPHABET = 33  # single characters, so that any text can be tokenized
_MERGES = 1000


def is_written(shape: Shape, path: Path) -> bool:
    """Whether the file exists, is complete, and matches the shape."""
    try:
        header = read_header(str(path))  # raises if the file is too short for its tensors
    except InvalidModelFile:
        return False
    return header.metadata.get(_FINGERPRINT) == shape.fingerprint


def write_model(shape: Shape, path: Path, deadline: Deadline) -> None:
    """Write the model, under its final name only when complete. Raises OutOfTime, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        _write_header(shape, partial)
        with open(partial, "ab", buffering=0) as file:
            for tensor in shape.header.tensors:
                deadline.check()
                _write_tensor(file, tensor.name, tensor.type, tensor.size_bytes)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def write_sparse_model(shape: Shape, path: Path) -> None:
    """Write the model without its weights: they are a hole in the file, which takes a few MiB of the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    _write_header(shape, partial)
    os.truncate(partial, partial.stat().st_size + shape.data_bytes)
    os.replace(partial, path)


def _write_tensor(file: Any, name: str, type_: str, size_bytes: int) -> None:
    for piece in pieces(name, type_, size_bytes):
        done = 0
        while done < len(piece):  # unbuffered: a write may be partial
            done += file.write(piece[done:])
    file.write(bytes(-size_bytes % MAX_ALIGNED))


def _write_header(shape: Shape, path: Path) -> None:
    import gguf  # 170 ms with numpy

    header = shape.header
    writer = gguf.GGUFWriter(path, header.architecture)
    _add_metadata(writer, {**header.metadata, _FINGERPRINT: shape.fingerprint})
    if header.lengths[VOCABULARY]:  # projectors and adapters have none
        _add_vocabulary(writer, header)
    numbers = {name: gguf.GGMLQuantizationType(number) for number, (name, *_) in TENSOR_TYPES.items() if number < 42}
    for tensor in header.tensors:
        # Slowest dimension first, as in numpy; raw_dtype overrides the dtype of the array.
        writer.add_tensor_info(
            tensor.name, tensor.shape[::-1], _float32(), tensor.size_bytes, raw_dtype=numbers[tensor.type]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    size = path.stat().st_size
    os.truncate(path, size + -size % MAX_ALIGNED)


def _float32() -> Any:
    import numpy as np

    return np.dtype(np.float32)


def _add_metadata(writer: gguf.GGUFWriter, metadata: Mapping[str, Value]) -> None:
    for key, value in metadata.items():
        if key == "general.architecture":  # the writer adds it
            continue
        if isinstance(value, tuple):
            writer.add_array(key, list(value))
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, header: GgufHeader) -> None:
    """Add a vocabulary of the right length. The text of its tokens is irrelevant: prompts are token ids."""
    count = header.lengths[VOCABULARY]
    words = count - _ALPHABET
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([chr(0x100 + n) for n in range(_ALPHABET)] + [f"tok{n:06d}" for n in range(words)])
    writer.add_token_types([1] * count)
    writer.add_token_merges([f"tok{n % words:06d} tok{n * 7 % words:06d}" for n in range(_MERGES)])
    writer.add_bos_token_id(count - 2)
    writer.add_eos_token_id(count - 1)
    for tensor in header.tensors:
        if tensor.name == "token_types.weight":
            writer.add_token_type_count(dict(enumerate(tensor.shape)).get(1, 1))

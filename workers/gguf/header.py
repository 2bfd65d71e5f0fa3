"""Reads the header of a GGUF model: metadata and tensor infos of all its parts, not the tensor data.

Accepts what llama.cpp accepts (b11434) and rejects the rest. Additional limits bound the cost for any file to one
second and some tens of megabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from app.entities.gguf import GgufHeader, Tensor
from app.entities.gguf_names import all_part_paths
from app.errors import InvalidModelFile
from workers.gguf.constants import Keys
from workers.gguf.file_window import FileWindow, InvalidGguf, open_window
from workers.gguf.first_bytes import HEADER, first_bytes_problem
from workers.gguf.metadata import Metadata, read_metadata
from workers.gguf.tensors import MAX_TENSORS, read_tensors

OpenPart = Callable[[int], AbstractContextManager[FileWindow]]  # the part of this number, from 1


def read_header(path: str) -> GgufHeader:
    """The header of the model in this file, or of the split model of which it is the first part.

    Raises InvalidModelFile; its `__cause__` is an OSError if a file could not be read.
    """
    paths = all_part_paths(path)
    return read_parts([os.path.basename(each) for each in paths], lambda number: _open_part(paths, number))


def read_parts(names: Sequence[str], open_part: OpenPart) -> GgufHeader:
    """The header of the model in the parts of these names, wherever they are. Raises InvalidModelFile, and what
    `open_part` raises."""
    metadata, tensors = _read_part(names, 1, open_part)
    for number in range(2, len(names) + 1):
        tensors += _read_part(names, number, open_part)[1]
        if len(tensors) > MAX_TENSORS:
            break
    if problem := _problem_of_parts(metadata, tensors, len(names)):
        raise InvalidModelFile(names[0], f"{names[0]} {problem}")
    return GgufHeader(metadata.values, metadata.lengths, tuple(tensors), metadata.has_infill_tokens)


def _problem_of_parts(metadata: Metadata, tensors: list[Tensor], parts: int) -> str:
    """What is wrong with the parts taken together; "" if nothing."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        return "is damaged: two of its parts contain the same tensor"
    declared = metadata.values.get(Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
    if parts > 1 and declared != len(tensors):
        return f"is damaged: its parts contain {len(tensors)} tensors, its header declares {declared}"
    return ""


def _read_part(names: Sequence[str], number: int, open_part: OpenPart) -> tuple[Metadata, list[Tensor]]:
    try:
        with open_part(number) as window:
            return _read(window, number, len(names))
    except InvalidGguf as error:
        raise InvalidModelFile(names[0], f"{names[number - 1]} {error}") from error


@contextmanager
def _open_part(paths: Sequence[str], number: int) -> Iterator[FileWindow]:
    """Raises InvalidModelFile for a file that cannot be read."""
    model, name = os.path.basename(paths[0]), os.path.basename(paths[number - 1])
    try:
        with open_window(paths[number - 1]) as window:
            yield window
    except OSError as error:
        if isinstance(error, FileNotFoundError) and number > 1:
            raise InvalidModelFile(model, f"part {number} of {len(paths)} is missing: {name}") from error
        raise InvalidModelFile(model, f"{name} cannot be read: {error.strerror}") from error


def _read(window: FileWindow, number: int, parts: int) -> tuple[Metadata, list[Tensor]]:
    head = window.take(min(HEADER.size, window.size_bytes))
    if problem := first_bytes_problem(head, window.size_bytes, may_lack_tensors=number == 1 < parts):
        raise InvalidGguf(problem)
    _, _, tensors, pairs = HEADER.unpack(head)
    metadata = read_metadata(window, pairs)
    if problem := _split_problem(metadata, number, parts):
        raise InvalidGguf(problem)
    return metadata, read_tensors(window, tensors, metadata.alignment)


def _split_problem(metadata: Metadata, number: int, parts: int) -> str:
    """How the header contradicts the file name, from which llama.cpp derives the names of the other parts."""
    count = metadata.values.get(Keys.Split.LLM_KV_SPLIT_COUNT, 1)
    index = metadata.values.get(Keys.Split.LLM_KV_SPLIT_NO)
    if number == 1 and count != parts and (parts, count) != (1, 0):
        return f"has a mismatched part count: {parts} by its name, {count!r} by its header (split.count)"
    if parts > 1 and index != number - 1:
        return f"has a mismatched part number: {number} by its name, {index!r} by its header (split.no, from 0)"
    return ""

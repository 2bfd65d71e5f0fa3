"""The header of a GGUF model: metadata and tensor infos of all its parts, never the tensors' data.

Takes what llama.cpp takes (b11434) and refuses the rest, with bounds of its own: whatever a file says, reading it
takes a second at most and some tens of megabytes.
"""

from __future__ import annotations

import os

from app.entities.gguf import GgufHeader, Tensor
from app.errors import InvalidModelFile
from workers.gguf.constants import Keys
from workers.gguf.file_names import all_parts
from workers.gguf.file_window import FileWindow, Unreadable, opened
from workers.gguf.first_bytes import HEADER, first_bytes_problem
from workers.gguf.metadata import Metadata, read_metadata
from workers.gguf.tensors import MOST_TENSORS, read_tensors


def read_header(path: str) -> GgufHeader:
    """The header of the model that this file is, or that it is the first part of.

    Raises InvalidModelFile, which an OSError is the cause of if the file could not be read.
    """
    paths = all_parts(path)
    metadata, tensors = _read_part(paths, 1)
    for number in range(2, len(paths) + 1):
        tensors += _read_part(paths, number)[1]
        if len(tensors) > MOST_TENSORS:
            break
    if problem := _problem_of_all(metadata, tensors, len(paths)):
        name = os.path.basename(path)
        raise InvalidModelFile(name, f"{name} {problem}")
    return GgufHeader(metadata.values, metadata.lengths, tuple(tensors))


def _problem_of_all(metadata: Metadata, tensors: list[Tensor], parts: int) -> str:
    """What is wrong with the parts together."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        return "is damaged: two of its parts have the same tensor"
    said = metadata.values.get(Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
    if parts > 1 and said != len(tensors):
        return f"is damaged: its parts have {len(tensors)} tensors, and it says {said}"
    return ""


def _read_part(paths: list[str], number: int) -> tuple[Metadata, list[Tensor]]:
    path, model = paths[number - 1], os.path.basename(paths[0])
    name = os.path.basename(path)
    try:
        with opened(path) as window:
            return _read(window, number, len(paths))
    except Unreadable as error:
        raise InvalidModelFile(model, f"{name} {error}") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and number > 1:
            raise InvalidModelFile(model, f"part {number} of {len(paths)} is missing: {name}") from error
        raise InvalidModelFile(model, f"{name} cannot be read: {error.strerror}") from error


def _read(window: FileWindow, number: int, parts: int) -> tuple[Metadata, list[Tensor]]:
    head = window.take(min(HEADER.size, window.size_bytes))
    if problem := first_bytes_problem(head, window.size_bytes, may_lack_tensors=number == 1 < parts):
        raise Unreadable(problem)
    _, _, tensors, pairs = HEADER.unpack(head)
    metadata = read_metadata(window, pairs)
    if problem := _split_problem(metadata, number, parts):
        raise Unreadable(problem)
    return metadata, read_tensors(window, tensors, metadata.alignment)


def _split_problem(metadata: Metadata, number: int, parts: int) -> str:
    """What its header says against its name, by which llama.cpp finds the other parts."""
    count = metadata.values.get(Keys.Split.LLM_KV_SPLIT_COUNT, 1)
    index = metadata.values.get(Keys.Split.LLM_KV_SPLIT_NO)
    if number == 1 and count != parts and (parts, count) != (1, 0):
        return f"has {parts} in its name for the number of its parts, and {count!r} in its header (split.count)"
    if parts > 1 and index != number - 1:
        return f"has {number} in its name for the number of the part, and its header says {index!r} (split.no, from 0)"
    return ""

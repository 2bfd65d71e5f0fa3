"""What a scan learns from the beginning of every GGUF file: whether it is one, what it is for, how wide it is, and
what a projector takes.

A few kilobytes are read, up to the tokenizer. Projectors, which have none, and files with few tensors for a model with
multi-token prediction are read to the end of their header. header.py checks that the data are complete, before a load.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from app.entities.capabilities import Media
from app.entities.gguf import FileKind, GgufHeader
from app.entities.gguf_names import kind_by_name
from app.errors import InvalidModelFile
from app.use_cases.model_shape.embedding_width import model_width, projector_width
from app.use_cases.model_shape.file_kind import file_kind, may_have_only_mtp_layers
from app.use_cases.model_shape.header_facts import projector_media
from workers.gguf.file_window import FileWindow, InvalidGguf, open_window
from workers.gguf.first_bytes import HEADER, first_bytes_problem
from workers.gguf.header import read_header
from workers.gguf.metadata import read_leading_metadata

WINDOW_BYTES = 1 << 13  # the keys before the tokenizer take one to four kilobytes


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What the beginning of a file says."""

    kind: FileKind = FileKind.MODEL
    problem: str = ""  # a predicate, to follow the file's name; "" for none
    width: int | None = None  # of the embeddings that a model takes or a projector produces; None: unknown
    media: frozenset[Media] = frozenset()  # that a projector takes


Summaries = Mapping[tuple[str, int, int], FileSummary]  # by path, size and mtime_ns


class FileSummaries:
    """Summarizes the files of one scan; files unchanged since the previous scan are not read again."""

    def __init__(self, previous: Summaries | None = None) -> None:
        self._previous = previous or {}
        self.summaries: dict[tuple[str, int, int], FileSummary] = {}

    def of(self, path: str, stat: os.stat_result, may_lack_tensors: bool = False) -> FileSummary:
        """The summary of a regular file."""
        key = (path, stat.st_size, stat.st_mtime_ns)
        summary = self._previous.get(key)
        if summary is None:
            try:
                summary = _read_summary(path, may_lack_tensors)
            except OSError as error:  # not cached: permissions change without a new mtime
                return FileSummary(kind_by_name(path), f"cannot be read: {error.strerror}")
        self.summaries[key] = summary
        return summary


def _read_summary(path: str, may_lack_tensors: bool) -> FileSummary:
    """Raises OSError. A header that is damaged behind its first bytes is left to header.py."""
    with open_window(path, WINDOW_BYTES) as window:
        head = window.take(min(HEADER.size, window.size_bytes))
        if problem := first_bytes_problem(head, window.size_bytes, may_lack_tensors):
            return FileSummary(kind_by_name(path), problem)
        try:
            return _summary(_whole_or_leading(path, head, window))
        except (InvalidGguf, InvalidModelFile):
            return FileSummary(kind_by_name(path))


def _whole_or_leading(path: str, head: bytes, window: FileWindow) -> GgufHeader:
    """The header as far as the summary needs it. Raises InvalidGguf, InvalidModelFile and OSError."""
    _, _, tensors, pairs = HEADER.unpack(head)
    metadata = read_leading_metadata(window, pairs)
    leading = GgufHeader(metadata.values, metadata.lengths, ())
    needs_tensors = file_kind(leading) is FileKind.PROJECTOR or may_have_only_mtp_layers(leading, tensors)
    return read_header(path) if needs_tensors else leading


def _summary(header: GgufHeader) -> FileSummary:
    kind = file_kind(header)
    if kind is FileKind.PROJECTOR:
        return FileSummary(kind, width=projector_width(header), media=projector_media(header))
    return FileSummary(kind, width=model_width(header) if kind is FileKind.MODEL else None)

"""LoadReading: how far a llama-server has loaded its model, by its log and by what it reads, as the kernel counts it.

llama.cpp maps a model with MAP_POPULATE: the kernel reads the whole file before the first line about progress. With
xllamacpp 2026.10.11549 and a file of 945 MiB on ext4, `read_bytes` and the resident pages of files grow by its size if
it comes from the disk, only the latter if it comes from the page cache, and `rchar` with --no-mmap.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from app.entities.model import Model
from app.use_cases.launch.parsed_args import companion_paths
from workers.server.load_progress import load_progress
from workers.server.process_tree import descendants

MIB = 1024**2
MIN_BYTES = MIB  # less is no sign of life: a process that hangs may still wake up now and then
MIN_SHOWN_BYTES = 64 * MIB  # smaller models are read at once; what an engine reads of its own would count as theirs
MAX_READ_PROGRESS = 0.95  # what follows the reading takes time, too
_PAGE = os.sysconf("SC_PAGE_SIZE")

Counters = tuple[int, int, int, int]  # bytes: read from disk, read by system calls, resident of files, resident


def bytes_to_read(model: Model) -> int:
    """The sizes of the model's files: all parts, and its companions."""
    companions = companion_paths(model.launch)  # size_bytes includes the projector
    return model.size_bytes + sum(map(_size, (*companions.adapters, *filter(None, [companions.draft]))))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # the engine will report it
        return 0


class LoadReading:
    """Of a process and its descendants: `engine.binary` may be a script that runs the engine."""

    def __init__(self, pid: int, to_read_bytes: int) -> None:
        self._pid = pid
        self._to_read_bytes = to_read_bytes
        self._reported: float | None = None  # by its log
        self._counted: dict[int, Counters] = {}  # by pid, when it was last seen to read
        self._read_bytes = 0

    def has_read(self) -> bool:
        """Whether it has read, or touched for the first time, MIN_BYTES more since that was last so."""
        now = {pid: counters for pid in (self._pid, *descendants(self._pid)) if (counters := _counters(pid))}
        totals = [sum(each) for each in zip(*now.values(), strict=True)][:3]
        self._read_bytes = max(self._read_bytes, *totals, 0)
        for pid, counters in now.items():
            before = self._counted.get(pid, (0, 0, 0, 0))
            if any(after - earlier >= MIN_BYTES for after, earlier in zip(counters, before, strict=True)):
                self._counted = now
                return True
        return False

    def note(self, lines: Iterable[str]) -> None:
        """New lines of its log."""
        self._reported = load_progress(lines) or self._reported

    @property
    def progress(self) -> float | None:
        """0 to 1; None for a small model whose engine reports none."""
        if self._to_read_bytes < MIN_SHOWN_BYTES:
            return self._reported
        return progress_of(self._reported, min(MAX_READ_PROGRESS, self._read_bytes / self._to_read_bytes))


def progress_of(reported: float | None, read: float) -> float:
    """The progress of a load. An engine reports no progress while the kernel reads its files: the reading is half of
    the load, and what the engine reports the other half."""
    return read if reported is None else (reported + read) / 2


def _counters(pid: int) -> Counters | None:
    """None if the process has exited, or is not ours to look at."""
    folder = Path(f"/proc/{pid}")
    try:
        rows = dict(row.split(": ") for row in (folder / "io").read_text().splitlines())
        resident, of_files = (int(pages) * _PAGE for pages in (folder / "statm").read_text().split()[1:3])
        return int(rows["read_bytes"]), int(rows["rchar"]), of_files, resident
    except (OSError, KeyError, ValueError):
        return None

"""Finds GGUF files in folders, with the problem of each.

Other problems, such as an unreadable folder, are added to `notes`, for the caller to log.
"""

from __future__ import annotations

import os
import stat as st
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from app.entities.capabilities import Media
from app.entities.gguf import FileKind
from app.entities.gguf_names import kind_by_name, parse_part_name
from workers.catalog.file_summaries import FileSummaries, FileSummary
from workers.catalog.unfinished import finished_path, marker_of, unfinished_problem


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file found by a scan."""

    path: str
    relative_path: str  # relative to the scanned folder
    size_bytes: int = 0
    mtime_ns: int = 0
    identity: tuple[int, int] | None = None  # device and inode; None if it cannot be read
    problem: str = ""  # begins with the file's name; "" if none was found
    is_missing: bool = False  # a dangling link
    kind: FileKind = FileKind.MODEL
    width: int | None = None  # of its embeddings; None: unknown
    media: frozenset[Media] = frozenset()  # that a projector takes
    sha256: str = ""  # of its content, where the name of its place tells it

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


def walk(folder: str, summaries: FileSummaries, notes: list[str], visited: set[tuple[int, int]]) -> Iterator[GgufFile]:
    """The GGUF files in a folder and its subfolders, breadth-first, then by name.

    Adds the folders read to `visited` (device, inode) and skips those in it, so that links cannot form a loop.
    """
    queue = deque([(folder, "")])
    while queue:
        path, relative_path = queue.popleft()
        entries = _entries(path, notes, visited)
        queue += [(entry.path, f"{relative_path}{entry.name}/") for entry in entries if _is_folder(entry)]
        yield from _inspect_all([entry.path for entry in entries if not _is_folder(entry)], summaries, relative_path)


def files_in_same_folder(path: str, summaries: FileSummaries) -> list[GgufFile]:
    """The GGUF files in the folder of the file at `path`, and that file, whatever its name."""
    neighbours = [entry.path for entry in _entries(os.path.dirname(path), [], set()) if not _is_folder(entry)]
    found = list(_inspect_all(neighbours, summaries, ""))
    if all(file.path != path for file in found):
        found.append(inspect_file(path, summaries, os.path.basename(path)))
    return sorted(found, key=lambda file: file.path)


def _inspect_all(paths: list[str], summaries: FileSummaries, folder: str) -> Iterator[GgufFile]:
    """The GGUF files among these files of one folder, also unfinished ones, under the names they will have."""
    present = set(paths)
    for path in paths:
        name = os.path.basename(path)
        if name.lower().endswith(".gguf"):
            file, marker = inspect_file(path, summaries, folder + name), marker_of(path, present.__contains__)
            yield replace(file, problem=unfinished_problem(path, marker)) if marker else file
        elif (final := finished_path(path)) and final not in present:
            file = inspect_file(path, summaries, folder + os.path.basename(final))
            yield replace(file, path=final, problem=unfinished_problem(final, path))


def inspect_file(path: str, summaries: FileSummaries, relative_path: str) -> GgufFile:
    """The file at `path`, with its size, kind and problem, from its first bytes."""
    name = os.path.basename(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        problem, is_missing = f"{name} cannot be read: {error.strerror}", isinstance(error, FileNotFoundError)
        return GgufFile(path, relative_path, problem=problem, is_missing=is_missing, kind=kind_by_name(name))
    if st.S_ISREG(stat.st_mode):
        part = parse_part_name(name)
        summary = summaries.of(path, stat, may_lack_tensors=part is not None and part[1] == 1 < part[2])
    else:
        summary = FileSummary(problem="is not a regular file")  # never opened: opening a pipe blocks
    return GgufFile(
        path,
        relative_path,
        stat.st_size,
        stat.st_mtime_ns,
        (stat.st_dev, stat.st_ino),
        summary.problem and f"{name} {summary.problem}",
        kind=summary.kind,
        width=summary.width,
        media=summary.media,
    )


def _entries(folder: str, notes: list[str], visited: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without hidden ones; none if it was visited before or cannot be read."""
    try:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in visited:
            return []
        visited.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        notes.append(f"{folder} cannot be read: {error.strerror}")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

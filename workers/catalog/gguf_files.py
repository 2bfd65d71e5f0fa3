"""GGUF files in folders, and the problem of each.

Problems of no particular model (an unreadable folder) are added to `notes`, for the caller to log.
"""

from __future__ import annotations

import os
import stat as st
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from workers.gguf.file_names import part_of
from workers.gguf.first_bytes import FirstBytesChecker


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file found by a scan."""

    path: str
    relative_path: str  # its path below the folder that was walked
    size_bytes: int = 0
    mtime_ns: int = 0
    identity: tuple[int, int] | None = None  # device and inode; None: it cannot be looked at
    problem: str = ""  # what is wrong with it, its name first
    is_missing: bool = False  # a link to nowhere

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


def walk(
    folder: str, checker: FirstBytesChecker, notes: list[str], visited: set[tuple[int, int]]
) -> Iterator[GgufFile]:
    """The GGUF files in a folder and below it, shallow ones first, then by name. No folder is read twice, however many
    links lead to it."""
    queue = deque([(folder, "")])
    while queue:
        path, relative_path = queue.popleft()
        for entry in _entries(path, notes, visited):
            if _is_folder(entry):
                queue.append((entry.path, f"{relative_path}{entry.name}/"))
            elif entry.name.lower().endswith(".gguf"):
                yield inspect_file(entry.path, checker, relative_path + entry.name)


def files_in_same_folder(path: str, checker: FirstBytesChecker) -> list[GgufFile]:
    """The GGUF files in the folder of a file, that one included whatever its name."""
    others = (entry.path for entry in _entries(os.path.dirname(path), [], set()) if not _is_folder(entry))
    paths = {path, *(other for other in others if other.lower().endswith(".gguf"))}
    return [inspect_file(each, checker, os.path.basename(each)) for each in sorted(paths)]


def inspect_file(path: str, checker: FirstBytesChecker, relative_path: str) -> GgufFile:
    name = os.path.basename(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        return GgufFile(path, relative_path, problem=f"{name} cannot be read: {error.strerror}", is_missing=is_missing)
    if st.S_ISREG(stat.st_mode):
        part = part_of(name)
        problem = checker.problem(path, stat, may_lack_tensors=part is not None and part[1] == 1 < part[2])
    else:
        problem = "is not a regular file"  # and never opened: a pipe would wait for its writer
    said = f"{name} {problem}" if problem else ""
    return GgufFile(path, relative_path, stat.st_size, stat.st_mtime_ns, (stat.st_dev, stat.st_ino), said)


def _entries(folder: str, notes: list[str], visited: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, hidden things left out; nothing for one that was read before."""
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

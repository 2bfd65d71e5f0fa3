"""The files that an engine runs from: whether they have changed, and what identifies their content.

A build is more than its executable: llama.cpp's libraries stand beside it, and a backend among them can be added or
rebuilt alone. A wrapper script says nothing about what it runs. Both are read from the process that prints --help.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from workers.server.process_tree import descendants

# libllama.so, libggml-cpu-haswell.so, libggml-cuda.so.0.9.4, libmtmd.so, libllama-common.so
_LIBRARY = re.compile(r"lib(?:ggml|llama|mtmd)[\w.+-]*\.so[\w.]*")
_REPLACED = " (deleted)"  # the kernel's suffix of a mapped file whose name means another file by now
_ENDS_BYTES = 1 << 20

Stamps = tuple[object, ...]


def stamps_of(files: Iterable[str]) -> Stamps:
    """Changes when one of the files does: the file that each name means, its size, mtime and inode."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: str) -> object:
    try:
        status = os.stat(file)
    except OSError as error:
        return error.errno
    return os.path.realpath(file), status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def running_files(pid: int) -> tuple[str, ...]:
    """The executable of a process and the libraries of llama.cpp that it has loaded; with children, theirs instead."""
    return tuple(dict.fromkeys(file for each in _leaves(pid) for file in _mapped_by(each)))


def _leaves(pid: int) -> list[int]:
    """What a script runs right now, or the process itself."""
    return sorted(each for each in (pid, *descendants(pid)) if not descendants(each))


def _mapped_by(pid: int) -> Iterator[str]:
    try:
        yield os.readlink(f"/proc/{pid}/exe")
        rows = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:  # it has exited
        return
    names = {row.split(maxsplit=5)[5] for row in rows if row.count("/")}
    yield from sorted(name for name in names if _LIBRARY.fullmatch(os.path.basename(name.removesuffix(_REPLACED))))


def folders_of(files: Iterable[str]) -> tuple[str, ...]:
    """The folders of the libraries among these files: a backend that is added there belongs to the engine."""
    return tuple(dict.fromkeys(os.path.dirname(file) for file in files if _LIBRARY.fullmatch(os.path.basename(file))))


def content_identity(files: Iterable[str], version: str) -> str:
    """A hash of the version and of each file: size, beginning and end; of a library also its name.

    An ELF file has the hash of its whole build at its beginning (the note that `ld --build-id` writes), so that builds
    of one version for two CPUs differ. All of a CUDA build of 500 MB would take a second. Raises OSError.
    """
    digest = hashlib.sha256(version.encode())
    for number, file in enumerate(dict.fromkeys(map(os.path.realpath, files))):
        if number:
            digest.update(os.path.basename(file).encode(errors="surrogateescape"))
        with open(file, "rb") as content:
            size = os.fstat(content.fileno()).st_size
            digest.update(str(size).encode())
            digest.update(content.read(_ENDS_BYTES))
            content.seek(max(0, size - _ENDS_BYTES))
            digest.update(content.read(_ENDS_BYTES))
    return digest.hexdigest()

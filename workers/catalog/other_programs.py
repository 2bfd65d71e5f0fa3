"""Folders in which other programs keep models."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgramFolder:
    """A folder of another program, which may be missing unless the configuration names it (`is_configured`)."""

    path: str
    is_configured: bool = False

    def is_readable(self, notes: list[str], hint: str) -> bool:
        """Whether it can be listed. If not, `notes` says why, with `hint`, except of one that may be missing."""
        try:
            os.scandir(self.path).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.is_configured:
                notes.append(f"{self.path} cannot be read: {error.strerror}")
            return False
        except OSError as error:
            notes.append(f"{_closed_folder(self.path)} cannot be read: {error.strerror}; {hint}")
            return False
        return True


def _closed_folder(path: str) -> str:
    """The folder whose permissions are in the way: `path`, or one above it."""
    above = os.path.dirname(path)
    return path if above == path or os.access(above, os.X_OK) else _closed_folder(above)


def read_small_file(path: str, most_bytes: int) -> bytes:
    """The content of a regular file. Raises OSError, and ValueError if there is more of it.

    Does not wait: a pipe in the place of a file would block.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise ValueError("is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > most_bytes:
        raise ValueError(f"is larger than {most_bytes} bytes")
    return data

"""Files of an installation on this machine: what is there already, and writing what is not."""

from __future__ import annotations

import difflib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from app.use_cases.installation.files import PlannedFile


@dataclass(frozen=True, slots=True)
class FileChange:
    """A planned file and what exists in its place: `existing` is None if nothing does."""

    file: PlannedFile
    path: Path
    existing: str | None

    @property
    def is_due(self) -> bool:
        return self.existing is None or not (self.file.is_kept or self.existing == self.file.text)

    @property
    def replaces(self) -> bool:
        """Whether writing it would undo somebody's change, or an earlier version's file."""
        return self.is_due and self.existing is not None

    @property
    def verb(self) -> str:
        if self.existing is None:
            return "write"
        return "replace" if self.is_due else "keep" if self.existing != self.file.text else "unchanged"

    def diff(self) -> list[str]:
        before, after = (self.existing or "").splitlines(), self.file.text.splitlines()
        return list(difflib.unified_diff(before, after, str(self.path), f"{self.path} (new)", lineterm=""))


def change_of(file: PlannedFile, root: Path) -> FileChange:
    """Raises OSError if there is something that cannot be read."""
    path = root / file.path.lstrip("/")
    return FileChange(file, path, path.read_text(errors="replace") if path.exists() else None)


def write_change(change: FileChange) -> None:
    """Whole or not at all. Raises OSError."""
    for folder in reversed(change.path.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)  # whatever the umask: the service enters it
    partial = change.path.with_name(f".{change.path.name}.new")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, change.file.mode), "w") as stream:
        os.fchmod(stream.fileno(), change.file.mode)
        stream.write(change.file.text)
    os.replace(partial, change.path)


def closed_folder(path: Path, uid: int | None) -> Path | None:
    """The first folder above the file that another user (`uid`; None: one that does not exist yet) cannot enter."""
    for folder in reversed(path.parents):
        status = folder.stat()
        is_open = status.st_mode & stat.S_IXOTH or (status.st_uid == uid and status.st_mode & stat.S_IXUSR)
        if not is_open:
            return folder
    return None

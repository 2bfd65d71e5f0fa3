"""The saved KV caches on disk: one folder for each model, within the quota for all of them.

The files contain users' prompts: no other user may read them, and each is deleted as soon as it is restored or can no
longer be. A file belongs to one server at a time: it is renamed before it is restored, and has a temporary name
while it is written. Two services that share a state directory delete each other's files when they start, nothing worse.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Collection
from pathlib import Path

from app.use_cases.launch.saved_slots import SavedSlot, files_to_delete, folder_name, match_slots, saved_slot

log = logging.getLogger(__name__)

DISK_RESERVE_BYTES = 1024**3  # is left free: other programs need the disk, too
FOLDER_MODE, FILE_MODE = 0o700, 0o600
_WRITING, _READING = ".writing", ".reading"


class SlotFiles:
    """Owner of the folder. Its methods may be called from any server's thread."""

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self._folder = folder
        self.quota_bytes = quota_bytes  # replaced by a reload
        self._booked: dict[Path, int] = {}  # expected bytes of files being written; under the lock
        self._lock = threading.Lock()

    def clean(self, models: Collection[str]) -> None:
        """Call before any server starts: delete the files of other models, and incomplete ones of an earlier run."""
        kept = {folder_name(name) for name in models}
        for folder in self._entries(self._folder):
            if folder.name not in kept:
                remove(folder)
                continue
            for file in self._entries(folder):
                if saved_slot(file.name, 0, "") is None:
                    remove(file)
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # if it is empty

    def folder(self, model: str) -> Path:
        """The model's folder, created if needed. Raises OSError."""
        folder = self._folder / folder_name(model)
        for path in (self._folder, folder):
            path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            path.chmod(FOLDER_MODE)
        return folder

    def take(self, model: str, start: str, slots: int) -> list[tuple[Path, int]]:
        """Take the files that a start with this digest can restore; each with the slot it is for.

        The model's files of other starts are deleted: its file, its engine or its settings have changed.
        """
        with self._lock:
            saved = [one for one in _complete(self._files()) if one.folder == folder_name(model)]
            for one in saved:
                if one.start != start:
                    self._delete(one, "the model's file, engine or settings have changed")
            chosen = match_slots([one for one in saved if one.start == start], slots)
            return [(taken, slot) for one, slot in chosen if (taken := _renamed(self._path(one), _READING))]

    def put_back(self, taken: Path) -> None:
        """Keep a file that was taken and not tried."""
        _rename(taken, taken.with_suffix(""))

    def begin(self, model: str, slot: SavedSlot, expected_bytes: int) -> Path | None:
        """A new file for a slot, after deleting older files if the quota requires it; None, with a log line, if there
        is not enough space. Raises OSError."""
        with self._lock:
            path = self.folder(model) / (slot.name + _WRITING)
            if not self._free_space(slot.server, expected_bytes):
                mib = expected_bytes >> 20
                log.info("kv cache not saved model=%s slot=%d mib=%d: not enough space", model, slot.slot, mib)
                return None
            # Created here: llama-server would create it readable for other users.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
            self._booked[path] = expected_bytes
            return path

    def finish(self, path: Path, slot: SavedSlot, is_whole: bool) -> bool:
        """Keep a file that was written, if it is complete and fits; whether it is kept. It may have become larger than
        expected."""
        with self._lock:
            self._booked.pop(path)
            if is_whole and self._free_space(slot.server, 0):
                return _rename(path, path.with_suffix(""))
            if is_whole:
                log.info("kv cache not kept file=%s mib=%d: not enough space", slot.name, _size(path) >> 20)
            remove(path)
            return False

    # --- under the lock ----------------------------------------------------------------------------------

    def _free_space(self, server: str, needed_bytes: int) -> bool:
        """Delete older files until there is enough space, but none of the same server: it saves its most recently used
        slots first."""
        free_bytes = shutil.disk_usage(self._folder).free - sum(self._booked.values()) - DISK_RESERVE_BYTES
        files = self._files()
        left_bytes = self.quota_bytes - self._used_bytes(files)
        deletable = [one for one in _complete(files) if one.server != server]
        deleted = files_to_delete(deletable, needed_bytes, left_bytes, free_bytes)
        for one in deleted or ():
            self._delete(one, "a newer file needs its space")
        return deleted is not None

    def _files(self) -> list[Path]:
        return [file for folder in self._entries(self._folder) for file in self._entries(folder)]

    def _used_bytes(self, files: list[Path]) -> int:
        """All files in the folders, those being written at their expected size."""
        return sum(max(_size(file), self._booked.get(file, 0)) for file in files)

    def _delete(self, saved: SavedSlot, why: str) -> None:
        log.info("kv cache deleted file=%s mib=%d: %s", saved.name, saved.size_bytes >> 20, why)
        remove(self._path(saved))

    def _path(self, saved: SavedSlot) -> Path:
        return self._folder / saved.folder / saved.name

    def _entries(self, folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except OSError:  # missing, or not a folder
            return []


def remove(path: Path) -> None:
    """Delete a file or folder; a failure is logged."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("kv cache %s could not be deleted: %s", path, error)


def _complete(files: list[Path]) -> list[SavedSlot]:
    """Those that are neither being written nor being restored."""
    slots = (saved_slot(file.name, _size(file), file.parent.name) for file in files)
    return [slot for slot in slots if slot is not None]


def _renamed(path: Path, suffix: str) -> Path | None:
    new = path.with_name(path.name + suffix)
    return new if _rename(path, new) else None


def _rename(path: Path, new: Path) -> bool:
    """False if the file is gone or cannot be renamed."""
    try:
        path.rename(new)
    except OSError:
        return False
    return True


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0

"""The saved KV caches on the disk: a folder of ours with one for each model, and not more in them than the quota.

They hold what users wrote: nobody else may read them, and they go as soon as they are restored, or cannot be any more.
A file is one server's at a time: who restores it renames it first, and what is being written has no name yet that
anybody would restore. Two services with one state directory lose each other's at their starts, no more.
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

DISK_RESERVE_BYTES = 1024**3  # stays free: a full disk would hurt others than us
OURS_ALONE, FILE_OF_OURS = 0o700, 0o600
_WRITING, _READING = ".writing", ".reading"


class SlotFiles:
    """Owner of the folder. Any server's thread may ask."""

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._booked: dict[Path, int] = {}  # of files that are being written: what they may come to; under the lock
        self._lock = threading.Lock()

    def clean(self, models: Collection[str]) -> None:
        """At the start, before any server: what is of other models goes, and what an earlier life did not finish."""
        kept = {folder_name(name) for name in models}
        for each in self._listed(self._folder):
            if each.name not in kept:
                _remove(each)
            else:
                for file in self._listed(each):
                    if saved_slot(file.name, 0, "") is None:
                        _remove(file)
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # if nothing is left

    def folder(self, model: str) -> Path:
        """The model's folder, which is there then. Raises OSError."""
        folder = self._folder / folder_name(model)
        for each in (self._folder, folder):
            each.mkdir(OURS_ALONE, parents=True, exist_ok=True)
            each.chmod(OURS_ALONE)
        return folder

    def take(self, model: str, start: str, slots: int) -> list[tuple[Path, int]]:
        """The files that a start of this digest restores, as its own from now on, and the slots they go to.

        Those of the model's other starts are deleted: its file, its engine or its settings have changed.
        """
        with self._lock:
            saved = [each for each in _saved(self._files()) if each.folder == folder_name(model)]
            for each in saved:
                if each.start != start:
                    self._delete(each, "its model is started otherwise now")
            chosen = match_slots([each for each in saved if each.start == start], slots)
            return [(taken, slot) for each, slot in chosen if (taken := _renamed(self._path(each), _READING))]

    def give_back(self, taken: Path) -> None:
        """One that was taken and never tried."""
        _rename(taken, taken.with_suffix(""))

    def begin(self, model: str, slot: SavedSlot, expected_bytes: int) -> Path | None:
        """A file to write a slot into, with room for it; None, and a line in the log, where there is none. Raises
        OSError."""
        with self._lock:
            path = self.folder(model) / (slot.name + _WRITING)
            if not self._make_room(slot.server, expected_bytes):
                log.info("kv cache not saved model=%s slot=%d mib=%d: no room", model, slot.slot, expected_bytes >> 20)
                return None
            # Made here: llama-server would let others read it.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_OF_OURS))
            self._booked[path] = expected_bytes
            return path

    def finish(self, path: Path, slot: SavedSlot, is_whole: bool) -> bool:
        """It is written; one that is not whole goes. Whether it is there to be restored: it may have come to more than
        was expected, and than there is room for."""
        with self._lock:
            self._booked.pop(path)
            if is_whole and self._make_room(slot.server, 0):
                return _rename(path, path.with_suffix(""))
            if is_whole:
                log.info("kv cache not kept file=%s mib=%d: no room", slot.name, _size(path) >> 20)
            _remove(path)
            return False

    # --- under the lock ----------------------------------------------------------------------------------

    def _make_room(self, server: str, needed_bytes: int) -> bool:
        """Older ones go for it, but none of the same server: it saves first what was used last."""
        free_bytes = shutil.disk_usage(self._folder).free - sum(self._booked.values()) - DISK_RESERVE_BYTES
        files = self._files()
        left_bytes = self._quota_bytes - self._held_bytes(files)
        others = [each for each in _saved(files) if each.server != server]
        gone = files_to_delete(others, needed_bytes, left_bytes, free_bytes)
        for each in gone or ():
            self._delete(each, "a newer one wants its room")
        return gone is not None

    def _files(self) -> list[Path]:
        return [file for folder in self._listed(self._folder) for file in self._listed(folder)]

    def _held_bytes(self, files: list[Path]) -> int:
        """Whatever is in the folders, those that are being written as large as they may become."""
        return sum(max(_size(file), self._booked.get(file, 0)) for file in files)

    def _delete(self, saved: SavedSlot, why: str) -> None:
        log.info("kv cache deleted file=%s mib=%d: %s", saved.name, saved.size_bytes >> 20, why)
        _remove(self._path(saved))

    def _path(self, saved: SavedSlot) -> Path:
        return self._folder / saved.folder / saved.name

    def _listed(self, folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except OSError:  # not there, or no folder
            return []


def delete(file: Path) -> None:
    """One that was taken, and was restored or could not be."""
    _remove(file)


def _saved(files: list[Path]) -> list[SavedSlot]:
    """Those of them that are whole."""
    found = (saved_slot(file.name, _size(file), file.parent.name) for file in files)
    return [each for each in found if each is not None]


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("kv cache %s stays: %s", path, error)


def _renamed(path: Path, suffix: str) -> Path | None:
    new = path.with_name(path.name + suffix)
    return new if _rename(path, new) else None


def _rename(path: Path, new: Path) -> bool:
    """False when somebody else was quicker."""
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

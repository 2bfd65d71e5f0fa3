"""LogFiles: the lines of each model's engines in rotated files.

A file is begun each day and after FILE_BYTES; FILES of them are kept for a model, each for MAX_AGE_SECONDS. No other
user may read them. A disk that is full or read-only costs the lines and one warning, nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import defaultdict
from pathlib import Path

from app.use_cases.launch.saved_slots import folder_name

log = logging.getLogger(__name__)

FILES, FILE_BYTES = 8, 5 * 1024**2 // 2  # 20 MiB for a model
MAX_AGE_SECONDS = 7 * 86400.0
FOLDER_MODE, FILE_MODE = 0o700, 0o600
_EXPIRY_CHECK_SECONDS = 3600.0
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OURS = re.compile(r".+\.log(?:\.\d)?")


def file_name(model: str) -> str:
    """The model's file: its name, or a readable part of it and a digest if it is no safe file name."""
    return f"{model if _SAFE_NAME.fullmatch(model) else folder_name(model)}.log"


class LogFiles:
    """Owner of the folder. Any server's thread may append; the files of one model are written by one at a time."""

    def __init__(self, folder: Path, is_enabled: bool) -> None:
        self._folder = folder
        self.is_enabled = is_enabled  # replaced by a reload
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._checked_at = float("-inf")  # when old files were last looked for (monotonic)
        self._has_warned = False

    def append(self, model: str, text: str) -> None:
        """Append whole lines. Raises nothing."""
        if not self.is_enabled:
            return
        try:
            with self._locks[model]:
                self._write(self._folder / file_name(model), text.encode(errors="replace"))
            self.remove_old()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                log.warning("logs of llama-servers are not written to %s: %s", self._folder, error)

    def _write(self, file: Path, data: bytes) -> None:
        self._folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        self._folder.chmod(FOLDER_MODE)
        if _is_to_rotate(file, len(data)):
            _rotate(file)
        number = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
        try:
            os.write(number, data)
        finally:
            os.close(number)

    def remove_old(self) -> None:
        """Remove files that are older than MAX_AGE_SECONDS. Looks for them once an hour."""
        if time.monotonic() < self._checked_at + _EXPIRY_CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        oldest = time.time() - MAX_AGE_SECONDS
        with contextlib.suppress(OSError):
            for file in self._folder.iterdir():
                if _OURS.fullmatch(file.name) and file.lstat().st_mtime < oldest:
                    file.unlink(missing_ok=True)


def _is_to_rotate(file: Path, more_bytes: int) -> bool:
    try:
        found = file.stat()
    except FileNotFoundError:
        return False
    return found.st_size + more_bytes > FILE_BYTES or found.st_mtime // 86400 != time.time() // 86400


def _rotate(file: Path) -> None:
    """x.log becomes x.log.1, and so on; the oldest is lost."""
    for number in range(FILES - 1, 0, -1):
        earlier = file.with_name(f"{file.name}.{number - 1}") if number > 1 else file
        with contextlib.suppress(FileNotFoundError):
            earlier.replace(file.with_name(f"{file.name}.{number}"))

"""The lock on the state directory: one service writes there.

Two would overwrite each other's token counts, and each would end the llama-servers that the other one's records call
orphans. The lock is the kernel's (flock), held by the arbiter and its worker, so a crash leaves none.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

WAIT_SECONDS = 5.0  # for a service that was killed, whose process is still giving back its memory
POLL_SECONDS = 0.05


class StateInUse(Exception):
    """Another service has the state directory."""


def lock_state(folder: Path, wait_seconds: float = WAIT_SECONDS) -> int | None:
    """Take the lock until this process and its forks have ended, or the returned descriptor is closed.

    None, and a warning, where the file system has no locks or is read-only. Raises StateInUse.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(fd, folder, time.monotonic() + wait_seconds)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        log.warning("cannot lock the state directory %s: %s; do not run a second service on it", folder, error)
        return None
    _write_pid(fd)
    return fd


def _wait_for(fd: int, folder: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StateInUse(
                    f"another service (pid {_pid_in(fd)}) uses the state directory {folder}; "
                    "give each its own by STATE_DIRECTORY or XDG_STATE_HOME"
                ) from None
        time.sleep(POLL_SECONDS)


def _pid_in(fd: int) -> str:
    return os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"


def _write_pid(fd: int) -> None:
    """For the message of another service; a full disk does not matter."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        log.warning("the pid was not written to the lock of the state directory: %s", error)

"""Files that are in the page cache, or not, for benches of what reads them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from workers.model_files.page_cache import cached_share

READ_BYTES = 8 * 1024**2
COLD_SHARE, WARM_SHARE = 0.02, 0.98  # of the file in the page cache
COLD, WARM = "cold", "warm"


class NotAsWanted(Exception):
    """The kernel keeps pages that should be gone, or the reverse; it may also not tell."""


def bring_to(file: Path, temperature: str) -> None:
    """All of the file out of the page cache, or in it. Raises NotAsWanted: pages that are in use or dirty stay."""
    if temperature == WARM:
        read_through(file)
    else:
        drop(file)
    share = cached_share([str(file)])
    if share is None or not (share >= WARM_SHARE if temperature == WARM else share <= COLD_SHARE):
        raise NotAsWanted(f"{file.name} is to be {temperature}; in the page cache: {share}")


def drop(file: Path) -> None:
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(file: Path) -> None:
    buffer = bytearray(READ_BYTES)
    with open(file, "rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def disk_seconds(file: Path) -> float:
    """To read it once from the disk, in order."""
    bring_to(file, COLD)
    began = time.perf_counter()
    read_through(file)
    return time.perf_counter() - began

"""Which file system a file is on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class FileSystem:
    type: str = ""  # as "ext4"; "" if unknown
    mount: str = ""  # where it is mounted

    @property
    def name(self) -> str:
        return f"{self.type} {self.mount}".strip()


def file_system_of(path: str, mounts: Path = MOUNTS) -> FileSystem:
    """By the number of the device; the last mount of it that holds the path."""
    try:
        number, real, lines = os.stat(path).st_dev, os.path.realpath(path), mounts.read_text().splitlines()
    except OSError:
        return FileSystem()
    device = f"{os.major(number)}:{os.minor(number)}"
    found = [each for line in lines if (each := _mount(line, device, real))]
    return max(found, key=lambda each: len(each.mount), default=FileSystem())


def _mount(line: str, device: str, path: str) -> FileSystem | None:
    """A line of mountinfo (man 5 proc): ID PARENT MAJOR:MINOR ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE OPTIONS."""
    fields, _, rest = line.partition(" - ")
    words = fields.split(" ")
    if len(words) < 5 or words[2] != device:
        return None
    mount = words[4].encode().decode("unicode_escape", "replace")  # \040 is a blank
    is_above = path == mount or path.startswith(mount.rstrip("/") + "/")
    return FileSystem(rest.split(" ")[0], mount) if is_above else None

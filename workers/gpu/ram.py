"""Reads the machine's RAM: what the kernel says is available, or what a control group leaves of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from app.entities.memory import MemoryReading

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def read_memory(pids: Mapping[int, int]) -> MemoryReading:
    """RAM now, and what the processes in `pids` (by server) hold of it. Raises OSError.

    A container's or unit's limit counts where it is tighter than the machine.
    """
    at = time.monotonic()  # before the figures: a fact that comes while they are read is newer than they are
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for limit, used in _limits():
        total, available = min(total, limit), min(available, max(0, limit - used))
    return MemoryReading(total, available, at, {server: held_bytes(pid) for server, pid in pids.items()})


def held_bytes(pid: int) -> int:
    """Memory that comes back when the process ends. Mapped files are not in it: their pages are available anyway."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return max(0, int(memory.rss - memory.shared))


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, bytes used) of every control group (v2) that this process is in and that has a limit."""
    try:
        own = next(line for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    folder = CGROUPS / own.removeprefix("0::").lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(CGROUPS):
            return
        try:
            limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        except (OSError, ValueError):  # the root has none, others say "max"
            continue
        yield limit, used - _reclaimable_bytes(group)


def _reclaimable_bytes(group: Path) -> int:
    # Page cache is charged to the group but given back under pressure, as MemAvailable counts it.
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)

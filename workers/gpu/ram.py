"""Reads the machine's RAM: what the kernel reports as available, or less where a cgroup limits it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from app.entities.memory import MemoryReading

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def read_memory(pids: Mapping[int, int]) -> MemoryReading:
    """RAM now, and how much of it each process in `pids` (by server id) holds. Raises OSError.

    The limit of a container or systemd unit counts if it is lower than what the machine has.
    """
    at = time.monotonic()  # before the figures are read: events during the reading are newer than they are
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for limit, used in _cgroup_limits():
        total, available = min(total, limit), min(available, max(0, limit - used))
    return MemoryReading(total, available, at, {server: process_bytes(pid) for server, pid in pids.items()})


def process_bytes(pid: int) -> int:
    """RAM that is freed when the process ends, with the processes it started: an engine may be run by a wrapper script.
    Excludes mapped files: their pages count as available anyway."""
    folder = Path(f"/proc/{pid}")
    try:
        _, resident, shared, *_ = map(int, (folder / "statm").read_text().split())
    except (OSError, ValueError):  # it has ended
        return 0
    try:
        children = (folder / f"task/{pid}/children").read_text().split()  # of its first thread: all that a script has
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        children = []
    return max(0, resident - shared) * PAGE_BYTES + sum(process_bytes(int(child)) for child in children)


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """(limit, bytes used) of this process's cgroup (v2) and its parents, where they have a limit.

    memory.high is one too: above it the kernel slows all processes of the group down.
    """
    try:
        own = next(line for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    folder = CGROUPS / own.removeprefix("0::").lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(CGROUPS):
            return
        try:
            limits = [(group / name).read_text().strip() for name in ("memory.max", "memory.high")]
            limit, used = min(int(limit) for limit in limits if limit != "max"), (group / "memory.current").read_text()
        except (OSError, ValueError):  # the root group has no files, and this one may have no limit
            continue
        yield limit, int(used) - _reclaimable_bytes(group)


def _reclaimable_bytes(group: Path) -> int:
    # Page cache is charged to the group but reclaimed under pressure; MemAvailable counts it as available too.
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)

"""Reads the machine's RAM: what the kernel says is available, or what the cgroup leaves of it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from app.entities.memory import MemoryReading

CGROUP = Path("/sys/fs/cgroup")


def read_memory() -> MemoryReading:
    """RAM now. In a container the cgroup's limit counts where it is the tighter one."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    limit, used = _cgroup_bytes("memory.max"), _cgroup_bytes("memory.current")
    if limit is not None and used is not None and limit < total:
        # Page cache is charged to the cgroup but given back under pressure, as MemAvailable counts it.
        reclaimable = _cgroup_stat("inactive_file")
        total, available = limit, min(available, max(0, limit - used + reclaimable))
    return MemoryReading(total_bytes=total, available_bytes=available, at=time.monotonic())


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int((CGROUP / name).read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None


def _cgroup_stat(key: str) -> int:
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), 0)

"""CPU time and memory of processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MIB = 1024**2


def cpu_seconds(pids: Iterable[int]) -> float:
    """Their user and system time together, in steps of 10 ms (proc(5), /proc/PID/stat, fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def memory_mib(pids: Iterable[int]) -> float:
    """Sum of their proportional set sizes: pages shared by a fork count once."""
    return sum(_pss_kib(pid) for pid in pids) * 1024 / MIB


def _pss_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0

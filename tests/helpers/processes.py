"""Processes of this machine."""

from __future__ import annotations

from pathlib import Path


def runs(pid: int) -> bool:
    """Whether the process is there and has not ended: nothing may reap those that lost their parent."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

"""What a process holds of RAM, from /proc: the rehearsal's stand-in for NVML."""

from __future__ import annotations

import re
from pathlib import Path

_FIELDS = {"RssAnon": "anonymous", "RssFile": "mapped"}


def resident_bytes(pid: int) -> dict[str, int]:
    """Of its own (`anonymous`) and of files (`mapped`, the model's pages among them); nothing if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return {name: 1024 * int(found[field]) for field, name in _FIELDS.items() if field in found}


def free_bytes() -> int:
    """RAM that can be had without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0

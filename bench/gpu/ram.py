"""RAM use of a process, from /proc; the rehearsal uses it in place of NVML."""

from __future__ import annotations

import re
from pathlib import Path

_FIELDS = {"RssAnon": "anonymous", "RssFile": "mapped"}


def resident_bytes(pid: int) -> dict[str, int]:
    """Resident bytes: `anonymous`, and `mapped` from files (such as the model); empty if the process has exited."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return {name: 1024 * int(found[field]) for field, name in _FIELDS.items() if field in found}


def free_bytes() -> int:
    """RAM available without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0

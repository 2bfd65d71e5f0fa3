"""Whether a disk has room for a download."""

from __future__ import annotations

from app.use_cases.reporting.phrases import gib_text

# Left free: a full disk stops the other programs of the machine, and this service's logs and saved KV caches.
DISK_RESERVE_BYTES = 2 * 1024**3


def disk_problem(missing_bytes: int, free_bytes: int, reserve_bytes: int, folder: str) -> str:
    """Why bytes that are still to come do not fit, with the numbers; "" if they do. `free_bytes`: without those that
    other downloads will take."""
    if missing_bytes + reserve_bytes <= free_bytes:
        return ""
    lacking = missing_bytes + reserve_bytes - free_bytes
    return (
        f"no room on the disk of {folder}: {gib_text(missing_bytes)} still to download, {gib_text(max(0, free_bytes))} "
        f"free, {gib_text(reserve_bytes)} of which are reserved. Free {gib_text(lacking)} more (`llama-smart-proxy rm "
        "NAME` deletes a model), or set HF_HOME to a folder on another disk"
    )

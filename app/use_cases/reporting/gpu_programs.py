"""The processes on a GPU that are not ours."""

from __future__ import annotations

from collections.abc import Iterable

from app.entities.gpu import Gpu, GpuSnapshot
from app.entities.server import Server


def other_processes(gpu: Gpu, snapshot: GpuSnapshot, servers: Iterable[Server]) -> list[dict[str, object]]:
    """Those that use the GPU beside `servers` (all of ours), the largest first. `bytes` is None where NVML hides it,
    `name` where the process cannot be seen, as in a container."""
    ours = {server.pid for server in servers}
    found: list[dict[str, object]] = []
    for pid, size in gpu.listed_processes.items():
        program = snapshot.programs.get(pid)
        # An engine that a wrapper script runs is the script's child.
        if pid not in ours and not (program and program.parent_pid in ours):
            found.append({"pid": pid, "name": program.name if program else None, "bytes": size})
    return sorted(found, key=_size, reverse=True)


def _size(process: dict[str, object]) -> int:
    size = process["bytes"]
    return size if isinstance(size, int) else -1

"""The processes on a GPU that are not ours."""

from __future__ import annotations

from app.entities.gpu import Gpu
from app.use_cases.scheduling.pool_state import PoolState


def other_processes(gpu: Gpu, pool: PoolState) -> list[dict[str, object]]:
    """Those that use the GPU beside our servers, the largest first. `bytes` is None where NVML hides it, `name` where
    the process cannot be seen.

    Empty where ours cannot be told from others: in some containers NVML lists the pids of the host.
    """
    ours = _ours(pool)
    is_on_gpu = any(gpu.uuid in server.booked and server.is_up for server in pool.servers)
    if is_on_gpu and not (pool.are_pids_shown or any(ours & each.listed_processes.keys() for each in pool.gpus.gpus)):
        return []
    programs = pool.gpus.programs
    others: list[dict[str, object]] = [
        {"pid": pid, "name": programs[pid].name if pid in programs else None, "bytes": size}
        for pid, size in gpu.listed_processes.items()
        if pid not in ours
    ]
    return sorted(others, key=_size, reverse=True)


def _ours(pool: PoolState) -> set[int]:
    """Pids of our servers, and of what they have started: an engine that a wrapper script runs."""
    servers = {server.pid for server in pool.servers if server.pid is not None}
    return servers | {pid for pid, program in pool.gpus.programs.items() if program.parent_pid in servers}


def _size(process: dict[str, object]) -> int:
    size = process["bytes"]
    return size if isinstance(size, int) else -1

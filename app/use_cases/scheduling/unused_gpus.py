"""Unused GPUs: servers that were placed on GPUs, and whose process NVML shows on none of them.

An engine whose CUDA fails computes on the CPU. Nearly all say so while they load (workers/server/gpu_errors.py), and
end there. For one that reports nothing, NVML decides: but only where it has shown the pid of a server before. In
containers, and with some drivers, it shows none. Processes that use Vulkan are not in its list of CUDA's.
"""

from __future__ import annotations

from app.entities.frozen import replace
from app.entities.gpu import GpuSnapshot
from app.entities.server import Server
from app.use_cases.scheduling.effects import Effect, ProbeEngine, StopReason
from app.use_cases.scheduling.events import GpuFailure
from app.use_cases.scheduling.gpu_exits import record_gpu_failure
from app.use_cases.scheduling.pool_state import PoolState, Step, begin_termination, note_failure, stop_server

SHOWN_AFTER_SECONDS = 5.0  # of being ready


def note_shown_pids(state: PoolState, gpus: GpuSnapshot) -> PoolState:
    """The state, in which it is known that NVML shows pids once it has shown one of ours."""
    if state.are_pids_shown:
        return state
    shown = {pid for gpu in gpus.gpus for pid in gpu.processes or ()}
    return replace(state, are_pids_shown=any(server.pid in shown for server in state.servers))


def end_unaccelerated(state: PoolState, now: float) -> Step:
    """Such servers accept nothing new and end; the next load avoids their GPUs."""
    effects: list[Effect] = []
    if not state.are_pids_shown:
        return state, effects
    for server in state.servers:
        if not _is_unaccelerated(state, server):
            continue
        words = "NVML shows its llama-server on none of its GPUs"
        others = replace(state, servers=state.servers_except(server))
        blamed, _ = record_gpu_failure(others, server, GpuFailure(words, is_unused=True), now)
        state = replace(state, card_failures=blamed.card_failures, gpus=blamed.gpus)
        state = note_failure(state, server, f"it was placed on {server.placement.device}, but {words}", now)
        effects.append(ProbeEngine())
        if server.is_idle:
            state, orders = stop_server(state, server, StopReason.GPU_UNUSED, words)
            effects += orders
        else:
            state = begin_termination(state, server)
    return state, effects


def _is_unaccelerated(state: PoolState, server: Server) -> bool:
    if server.placement.is_on_cpu or server.ready_at is None or not server.is_up or server.is_terminating:
        return False
    if server.pid is None or server.reported is not None or server.placement.vulkan_numbers:
        return False
    gpus = {gpu.uuid: gpu for gpu in state.gpus.gpus}
    shown_since = server.ready_at + SHOWN_AFTER_SECONDS
    for uuid in server.placement.uuids:
        processes = gpus[uuid].processes if uuid in gpus else None
        if processes is None or server.pid in processes or state.gpus.read_at(uuid) < shown_since:
            return False
    return True
